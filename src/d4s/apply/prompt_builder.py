"""Wishes in a model's own words: in its chat where asked for, as requests and as facts to be measured."""

import unicodedata
from collections.abc import Iterator, Sequence

from d4s.apply.chat import Chat
from d4s.apply.fact_files import RawFact
from d4s.apply.history import EditSpec
from d4s.editors.edit_requests import EditRequest
from d4s.editors.prompts import PromptTooLong, build_prompts
from d4s.errors import SettingsError
from d4s.facts.facts_stage import Reject
from d4s.facts.jsonl import Issue, RecordLine, shorten
from d4s.facts.record import Fact, Probe
from d4s.metrics.scoring import SHORT_ANSWER
from d4s.models.language_model import LanguageModel
from d4s.models.tokens import encode, encode_pair, find_special_tokens

SPACED = ("LATIN", "GREEK", "CYRILLIC", "ARMENIAN", "GEORGIAN", "COMBINING", "DIGIT")
"""How names of letters begin whose words stand between spaces; elsewhere particles touch the names that they belong to."""
WHOLE_WORD = "the subject as a word of its own; put {} in its place where a part of a word is meant"
NO_MARKS = "text without the tokenizer's special tokens ({}), which are no text to it; those of a chat come with --chat"


class PromptBuilder:
    """How prompts are put to a model: as they are, or as a user's turn in its chat. One is made per model and handed on."""

    def __init__(self, model: LanguageModel, chat: Chat | None) -> None:
        self.model, self.chat = model, chat

    def text(self, prompt: str) -> str:
        """A prompt, or a template, as the model is to read it; the tokenizer adds its own beginning of text."""
        return prompt if self.chat is None else self.chat.turn(prompt)

    @property
    def opening(self) -> str:
        """What every prompt begins with: what stands before the user's words in a chat."""
        return "" if self.chat is None else self.chat.before

    def request(self, spec: EditSpec, number: int) -> EditRequest:
        """The edit that a wish asks for, as the edit of a number."""
        template, name = self.text(spec.template), f"edit{number}"
        prompt = template.replace("{}", spec.subject)
        return EditRequest(
            request_id=f"{number:06d}:{name}",
            fact_id=name,
            step=number,
            prompt=prompt,
            subject=spec.subject,
            template=template,
            target=spec.target,
            target_true=spec.target_true or "",
            opening=self.opening,
        )

    def fact(self, spec: EditSpec, number: int) -> Fact:
        """What is measured of a wish: its prompt, paraphrases, and prompts whose answers are to stay."""
        return Fact(
            fact_id=f"edit{number}",
            dataset="apply",
            relation=spec.template,
            subject=spec.subject,
            template=self.text(spec.template),
            target_true=spec.target_true or "",
            target_new=spec.target,
            paraphrases=tuple(map(self.text, spec.paraphrases)),
            neighborhood=tuple(Probe("unrelated", self.text(prompt), None, "pre_edit") for prompt in spec.locality),
        )

    def tokens(self, prompt: str) -> int:
        """How many tokens a prompt has as the model reads it."""
        return len(encode(self.model, self.text(prompt)))

    def issues(self, spec: EditSpec) -> Iterator[Issue]:
        """Defects that only the model's tokens show: too long, special tokens, or words that the tokenizer does not know."""
        marked = [(field, text, find_special_tokens(self.model, text)) for field, text in _texts_by_field(spec)]
        if any(found for _, _, found in marked):
            yield from (Issue(field, shorten(text), NO_MARKS.format(", ".join(found))) for field, text, found in marked if found)
            return
        unknown, limit = self.model.tokenizer.unk_token_id, self.model.max_positions
        try:
            unprefixed = build_prompts(self.model, self.request(spec, 1), ()).prompts[0]
            evaluated = list(self._evaluated_texts(spec))
        except (PromptTooLong, ValueError) as error:
            yield Issue("prompt", shorten(spec.prompt), f"a prompt for this model: {error}")
            return
        for field, text, ids in (("prompt", spec.prompt, unprefixed.ids), ("target_new", spec.target, unprefixed.target)):
            if unknown is not None and unknown in ids:
                yield Issue(field, shorten(text), "words that the tokenizer knows; it has none for a part of this")
        for field, text, tokens in evaluated:
            if tokens > limit:
                yield Issue(
                    field, shorten(text), f"at most the {limit} tokens that the model takes, prompt and answer together, not {tokens}"
                )

    def refuse_issues(self, spec: EditSpec) -> None:
        """Refuse a wish with such defects.

        Raises:
            SettingsError: naming all of them.
        """
        if issues := list(self.issues(spec)):
            raise SettingsError("; ".join(f"{issue.field}: found {issue.found}, expected {issue.expected}" for issue in issues))

    def _evaluated_texts(self, spec: EditSpec) -> Iterator[tuple[str, str, int]]:
        """What is measured of a wish beside its prompt and target: field, text, and tokens with the longest answer."""
        answers = [spec.target] if spec.target_true is None else [spec.target, spec.target_true]
        if spec.target_true is not None:
            yield "target_true", spec.target_true, self._scored_length(spec.prompt, spec.target_true)
        for prompt in spec.paraphrases:
            yield "paraphrase", prompt, max(self._scored_length(prompt, answer) for answer in answers)
        for prompt in spec.locality:
            yield "locality", prompt, self.tokens(prompt) + SHORT_ANSWER

    def _scored_length(self, prompt: str, answer: str) -> int:
        """Tokens that the model reads to score an answer: all but its last one."""
        ids, target = encode_pair(self.model, self.text(prompt), answer)
        return len(ids) + len(target) - 1

    def find_rejects(self, lines: Sequence[RecordLine[RawFact]]) -> Iterator[Reject]:
        """Rows with such defects, or whose subject was found within a word."""
        for line in lines:
            if _is_within_a_word(line.raw):
                yield line.reject(Issue("prompt", shorten(line.raw.prompt), WHOLE_WORD))
            else:
                yield from map(line.reject, self.issues(EditSpec.of(line.raw)))


def _texts_by_field(spec: EditSpec) -> Iterator[tuple[str, str]]:
    """What a row says, by field; the prompt without its subject."""
    yield from (("subject", spec.subject), ("prompt", spec.template), ("target_new", spec.target), ("target_true", spec.target_true or ""))
    yield from (("paraphrase", text) for text in spec.paraphrases)
    yield from (("locality", text) for text in spec.locality)


def _is_within_a_word(raw: RawFact) -> bool:
    """Whether a subject that was looked for in its prompt touches letters there, as Ada does in Adam; who writes {} means it so."""
    if "{}" in raw.prompt:
        return False
    before, _, after = raw.template.partition("{}")
    return any(all(map(_is_of_a_word, pair)) for pair in ((before[-1:], raw.subject[:1]), (raw.subject[-1:], after[:1])))


def _is_of_a_word(letter: str) -> bool:
    return bool(letter) and unicodedata.name(letter, "").startswith(SPACED)
