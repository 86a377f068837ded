"""What a language model may answer: the schema it is given, and answers held against it before anything else reads them."""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from d4s.questions.prompts.v1 import Kind
from d4s.questions.writers import PARAPHRASES

MORE_WORDINGS, DISTRACTORS, SHOWN = 3, 2, 120
PLAIN = "[A-Za-z0-9 ,.;:?!'()-]"
TEMPLATE = rf"^{PLAIN}{{0,120}}\{{\}}{PLAIN}{{0,120}}$"
STATEMENT = rf"^{PLAIN}{{0,90}}(\{{\}}{PLAIN}{{1,90}}\{{tail\}}|\{{tail\}}{PLAIN}{{1,90}}\{{\}}){PLAIN}{{0,60}}$"
PHRASE = r"^[A-Za-z0-9][A-Za-z0-9 ',-]{1,59}$"

Template = Annotated[str, StringConstraints(pattern=TEMPLATE)]
Statement = Annotated[str, StringConstraints(pattern=STATEMENT)]
Phrase = Annotated[str, StringConstraints(pattern=PHRASE)]


class Reply(BaseModel):
    """Parent of the answers: exactly these keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Wordings(Reply):
    """Six wordings of a question that a phrase answers."""

    question: Template
    paraphrases: list[Template] = Field(min_length=PARAPHRASES, max_length=PARAPHRASES)
    wordings: list[Template] = Field(min_length=MORE_WORDINGS, max_length=MORE_WORDINGS)


class Choices(Wordings):
    """Six wordings of a question with options, and two options."""

    distractors: list[Phrase] = Field(min_length=DISTRACTORS, max_length=DISTRACTORS)


class Statements(Reply):
    """Six wordings of a question that yes or no answers."""

    question: Statement
    paraphrases: list[Statement] = Field(min_length=PARAPHRASES, max_length=PARAPHRASES)
    wordings: list[Statement] = Field(min_length=MORE_WORDINGS, max_length=MORE_WORDINGS)


REPLIES: Mapping[Kind, type[Wordings] | type[Statements]] = {"phrase": Wordings, "choice": Choices, "yes_no": Statements}


@cache
def response_format(kind: Kind) -> dict[str, Any]:
    """The `response_format` of a request: the schema of the answer."""
    schema = REPLIES[kind].model_json_schema()
    return {"type": "json_schema", "json_schema": {"name": REPLIES[kind].__name__.lower(), "schema": schema, "strict": True}}


def parsed(kind: Kind, content: str) -> tuple[Wordings | Statements | None, list[str]]:
    """An answer as its model, or what is wrong with it."""
    try:
        return REPLIES[kind].model_validate_json(content), []
    except ValidationError as error:
        return None, list(_complaints(error))


def _complaints(error: ValidationError) -> Iterator[str]:
    for item in error.errors(include_url=False):
        place = ".".join(str(part) for part in item["loc"]) or "the answer"
        found = repr(item["input"])
        wrong = "does not have the form that the schema asks for" if item["type"] == "string_pattern_mismatch" else item["msg"]
        yield f"{place}: {wrong}, found {found if len(found) <= SHOWN else found[:SHOWN] + '...'}"


# --- the envelope -----------------------------------------------------------------------------------------------------


class Part(BaseModel):
    """A piece of what the model says; only text is read."""

    type: str
    text: str | None = None


class Message(BaseModel):
    """What the model says."""

    content: str | list[Part] | None = None
    refusal: str | None = None

    @property
    def text(self) -> str:
        """The text, of all its parts where it comes in parts."""
        if isinstance(self.content, list):
            return "".join(part.text or "" for part in self.content if part.type == "text")
        return self.content or ""


class Choice(BaseModel):
    """One of the answers in a response."""

    message: Message
    finish_reason: str | None = None


class Tokens(BaseModel):
    """What an answer took."""

    prompt_tokens: int = 0
    completion_tokens: int = 0


class Response(BaseModel):
    """A chat completion, as far as it is read."""

    choices: list[Choice] = Field(min_length=1)
    usage: Tokens | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of one request: text, or why there is none that can be used."""

    content: str = ""
    failure: str = ""
    tokens_in: int = 0
    tokens_out: int = 0

    @property
    def sha256(self) -> str:
        """Digest of the text."""
        return hashlib.sha256(self.content.encode()).hexdigest()


def tokens_of(body: object) -> Tokens:
    """What any successful response took, as far as it says so."""
    usage = body.get("usage") if isinstance(body, dict) else None
    try:
        return Tokens.model_validate(usage or {})
    except ValidationError:
        return Tokens()


def answer_of(response: Mapping[str, Any]) -> Answer:
    """The answer in the body of a response, which must be a chat completion."""
    found = Response.model_validate(response)
    choice, tokens = found.choices[0], found.usage or Tokens()
    content = choice.message.text
    if choice.message.refusal:
        failure = f"the model refused: {choice.message.refusal[:SHOWN]}"
    elif choice.finish_reason == "content_filter":
        failure = "a content filter held the answer back"
    elif choice.finish_reason == "length":
        failure = "the answer was cut off at max_tokens"
    else:
        failure = "" if content else "the answer is empty"
    return Answer(content, failure, tokens.prompt_tokens, tokens.completion_tokens)
