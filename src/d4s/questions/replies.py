"""Answers of a language model: their schema, and checks before anything else reads them."""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from d4s.questions.prompts.v1 import Kind
from d4s.questions.writers import PARAPHRASES
from d4s.writer_settings import Format

MORE_WORDINGS, DISTRACTORS, MAX_SHOWN_CHARACTERS = 3, 2, 120
PLAIN = "[A-Za-z0-9 ,.;:?!'()-]"
TEMPLATE = rf"^{PLAIN}{{0,120}}\{{\}}{PLAIN}{{0,120}}$"
STATEMENT = rf"^{PLAIN}{{0,90}}(\{{\}}{PLAIN}{{1,90}}\{{tail\}}|\{{tail\}}{PLAIN}{{1,90}}\{{\}}){PLAIN}{{0,60}}$"
PHRASE = r"^[A-Za-z0-9][A-Za-z0-9 ',-]{1,59}$"
OBJECT = re.compile(r'\{\s*"')
"""The beginning of a JSON object that is not empty, which excludes the mark `{}`."""

Template = Annotated[str, StringConstraints(pattern=TEMPLATE)]
Statement = Annotated[str, StringConstraints(pattern=STATEMENT)]
Phrase = Annotated[str, StringConstraints(pattern=PHRASE)]


class AnswerSchema(BaseModel):
    """Parent of the answers: exactly these keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")


# Names and docstrings of these classes are part of the schema in a request, and so of the digest that its recorded answer is found by.
class Wordings(AnswerSchema):
    """Six wordings of a question that a phrase answers."""

    question: Template
    paraphrases: list[Template] = Field(min_length=PARAPHRASES, max_length=PARAPHRASES)
    wordings: list[Template] = Field(min_length=MORE_WORDINGS, max_length=MORE_WORDINGS)


class Choices(Wordings):
    """Six wordings of a question with options, and two options."""

    distractors: list[Phrase] = Field(min_length=DISTRACTORS, max_length=DISTRACTORS)


class Statements(AnswerSchema):
    """Six wordings of a question that yes or no answers."""

    question: Statement
    paraphrases: list[Statement] = Field(min_length=PARAPHRASES, max_length=PARAPHRASES)
    wordings: list[Statement] = Field(min_length=MORE_WORDINGS, max_length=MORE_WORDINGS)


ANSWER_SCHEMAS: Mapping[Kind, type[Wordings] | type[Statements]] = {"phrase": Wordings, "choice": Choices, "yes_no": Statements}


def response_format(kind: Kind, wanted: Format) -> dict[str, Any]:
    """The part of a request that asks for JSON: with the answer's schema, without it, or nothing."""
    match wanted:
        case "json_schema":
            return {"response_format": _schema(kind)}
        case "json_object":
            return {"response_format": {"type": "json_object"}}
        case None:
            return {}


@cache
def _schema(kind: Kind) -> dict[str, Any]:
    schema = ANSWER_SCHEMAS[kind].model_json_schema()
    return {"type": "json_schema", "json_schema": {"name": ANSWER_SCHEMAS[kind].__name__.lower(), "schema": schema, "strict": True}}


def parse_answer(kind: Kind, content: str) -> tuple[Wordings | Statements | None, list[str]]:
    """An answer as its model, or a list of what is wrong with it.

    The JSON may be in a fence, in a sentence, or after text of reasoning: of several objects the last valid one counts.
    """
    wrong: list[str] = []
    for text in reversed(list(_objects(content)) or [content]):
        try:
            return ANSWER_SCHEMAS[kind].model_validate_json(text), []
        except ValidationError as error:
            wrong = wrong or list(_complaints(error))
    return None, wrong


def _objects(text: str) -> Iterator[str]:
    """The JSON objects in a text, in order, without nested ones."""
    decoder, end = json.JSONDecoder(), 0
    while found := OBJECT.search(text, end):
        try:
            _, end = decoder.raw_decode(text, found.start())
        except (ValueError, RecursionError):
            end = found.end()
        else:
            yield text[found.start() : end]


def _complaints(error: ValidationError) -> Iterator[str]:
    for item in error.errors(include_url=False):
        place = ".".join(str(part) for part in item["loc"]) or "the answer"
        found = repr(item["input"])
        wrong = "does not have the form that the schema asks for" if item["type"] == "string_pattern_mismatch" else item["msg"]
        yield f"{place}: {wrong}, found {found if len(found) <= MAX_SHOWN_CHARACTERS else found[:MAX_SHOWN_CHARACTERS] + '...'}"


# --- the envelope -----------------------------------------------------------------------------------------------------

OTHER_FIELDS = ("reasoning_content", "reasoning", "thinking", "tool_calls", "function_call")
"""Fields in which servers put text other than `content`."""
MESSAGE_FIELDS = ("error", "errors", "message", "detail", "msg")
"""Fields in which servers put error messages."""
MAX_TOKEN_COUNT = 10**9


class ContentPart(BaseModel):
    """A part of a message; only text is read."""

    type: str = "text"
    text: str | None = None


class Message(BaseModel):
    """A message of the model."""

    model_config = ConfigDict(extra="allow")

    content: str | list[ContentPart] | None = None
    refusal: str | None = None

    @property
    def text(self) -> str:
        """The text, with all its parts joined."""
        if isinstance(self.content, list):
            return "".join(part.text or "" for part in self.content if part.type == "text")
        return self.content or ""

    @property
    def other_field(self) -> str:
        """Name of the field that holds text where `content` has none; empty where there is text, or none at all."""
        extra = self.model_extra or {}
        return "" if self.text else next((name for name in OTHER_FIELDS if extra.get(name)), "")


class Choice(BaseModel):
    """One of the answers in a response."""

    message: Message
    finish_reason: Any = None


class Response(BaseModel):
    """A chat completion, as far as an answer depends on it."""

    choices: list[Choice] = Field(min_length=1)


@dataclass(frozen=True, slots=True)
class TokenUsage:
    """Tokens that an answer took."""

    prompt_tokens: int = 0
    completion_tokens: int = 0


@dataclass(frozen=True, slots=True)
class ModelAnswer:
    """The result of one request: its text, and the problem where the text cannot be used.

    `other_field` names the field that holds the text in place of `content`.
    """

    content: str = ""
    failure: str = ""
    tokens_in: int = 0
    tokens_out: int = 0
    other_field: str = ""

    @property
    def sha256(self) -> str:
        """Digest of the text."""
        return hashlib.sha256(self.content.encode()).hexdigest()


def token_usage(body: object) -> TokenUsage:
    """Tokens of a response, where it gives numbers; no answer depends on them."""
    usage = body.get("usage") if isinstance(body, Mapping) else None
    if not isinstance(usage, Mapping):
        return TokenUsage()
    return TokenUsage(_count(usage.get("prompt_tokens")), _count(usage.get("completion_tokens")))


def _count(found: object) -> int:
    return int(found) if isinstance(found, int | float) and 0 <= found <= MAX_TOKEN_COUNT else 0


def answer_of(response: Mapping[str, Any]) -> ModelAnswer:
    """The answer in the body of a response, which must be a chat completion."""
    choice, tokens = Response.model_validate(response).choices[0], token_usage(response)
    content, other_field = choice.message.text, choice.message.other_field
    if choice.message.refusal:
        failure = f"the model refused: {choice.message.refusal[:MAX_SHOWN_CHARACTERS]}"
    elif choice.finish_reason == "content_filter":
        failure = "a content filter held the answer back"
    elif choice.finish_reason == "length":
        failure = "the answer was cut off at max_tokens"
    elif other_field:
        failure = f"the answer stands in `{other_field}` and none in `content`, the only place where it is read"
    else:
        failure = "" if content else "the answer is empty"
    return ModelAnswer(content, failure, tokens.prompt_tokens, tokens.completion_tokens, other_field)


def error_message(text: str) -> str:
    """The message of a server's error body; the body itself where no known field has one."""
    try:
        return _error_message(json.loads(text)) or text
    except (ValueError, RecursionError):
        return text


def _error_message(body: object) -> str:
    match body:
        case str():
            return body
        case list():
            return "; ".join(filter(None, map(_error_message, body)))
        case dict():
            said = "; ".join(found for name in MESSAGE_FIELDS if (found := _error_message(body.get(name))))
            place = body.get("loc")
            return f"{'.'.join(map(str, place))}: {said}" if said and isinstance(place, list) else said
        case _:
            return ""
