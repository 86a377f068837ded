"""Wishes in a model's own words: in its chat where asked for, as requests and as facts to be measured."""

import unicodedata
from collections.abc import Iterator, Sequence

from d4s.apply.chat import Chat
from d4s.apply.history import Wish
from d4s.apply.records import RawFact
from d4s.editors.prompts import PromptTooLong, rewriting
from d4s.errors import SettingsError
from d4s.facts.collect import Reject
from d4s.facts.jsonl import Flaw, Line, shown
from d4s.facts.record import Fact, Probe
from d4s.metrics.scoring import SHORT_ANSWER
from d4s.models.language_model import LanguageModel
from d4s.models.tokens import encode, encode_pair, special_in
from d4s.requests.draw import EditRequest

SPACED = ("LATIN", "GREEK", "CYRILLIC", "ARMENIAN", "GEORGIAN", "COMBINING", "DIGIT")
"""How names of letters begin whose words stand between spaces; elsewhere particles touch the names that they belong to."""
WHOLE_WORD = "the subject as a word of its own; put {} in its place where a part of a word is meant"
NO_MARKS = "text without the tokenizer's special tokens ({}), which are no text to it; those of a chat come with --chat"


class Wordings:
    """How prompts are put to a model: as they are, or as a user's turn in its chat."""

    def __init__(self, model: LanguageModel, chat: Chat | None) -> None:
        self._model, self._chat = model, chat

    def text(self, prompt: str) -> str:
        """A prompt, or a template, as the model is to read it; the tokenizer adds its own beginning of text."""
        return prompt if self._chat is None else self._chat.turn(prompt)

    def request(self, wish: Wish, number: int) -> EditRequest:
        """The edit that a wish asks for, as the edit of a number."""
        template, name = self.text(wish.template), f"edit{number}"
        prompt = template.replace("{}", wish.subject)
        opening = "" if self._chat is None else self._chat.before
        return EditRequest(
            request_id=f"{number:06d}:{name}",
            fact_id=name,
            step=number,
            prompt=prompt,
            subject=wish.subject,
            template=template,
            target=wish.target,
            target_true=wish.target_true or "",
            opening=opening,
        )

    def fact(self, wish: Wish, number: int) -> Fact:
        """What is measured of a wish: its prompt, paraphrases, and prompts whose answers are to stay."""
        return Fact(
            fact_id=f"edit{number}",
            dataset="apply",
            relation=wish.template,
            subject=wish.subject,
            template=self.text(wish.template),
            target_true=wish.target_true or "",
            target_new=wish.target,
            paraphrases=tuple(map(self.text, wish.paraphrases)),
            neighborhood=tuple(Probe("unrelated", self.text(prompt), None, "pre_edit") for prompt in wish.locality),
        )

    def tokens(self, prompt: str) -> int:
        """How many tokens a prompt has as the model reads it."""
        return len(encode(self._model, self.text(prompt)))

    def flaws(self, wish: Wish) -> Iterator[Flaw]:
        """Defects that only the model's tokens show: too long, special tokens, or words that the tokenizer does not know."""
        marked = [(field, text, special_in(self._model, text)) for field, text in _texts(wish)]
        if any(found for _, _, found in marked):
            yield from (Flaw(field, shown(text), NO_MARKS.format(", ".join(found))) for field, text, found in marked if found)
            return
        unknown, most = self._model.tokenizer.unk_token_id, self._model.max_positions
        try:
            bare = rewriting(self._model, self.request(wish, 1), ()).wordings[0]
            measured = list(self._measured(wish))
        except (PromptTooLong, ValueError) as error:
            yield Flaw("prompt", shown(wish.prompt), f"a prompt for this model: {error}")
            return
        for field, text, ids in (("prompt", wish.prompt, bare.ids), ("target_new", wish.target, bare.target)):
            if unknown is not None and unknown in ids:
                yield Flaw(field, shown(text), "words that the tokenizer knows; it has none for a part of this")
        for field, text, tokens in measured:
            if tokens > most:
                yield Flaw(field, shown(text), f"at most the {most} tokens that the model takes, prompt and answer together, not {tokens}")

    def refuse_flaws(self, wish: Wish) -> None:
        """Refuse a wish with such defects.

        Raises:
            SettingsError: naming all of them.
        """
        if flaws := list(self.flaws(wish)):
            raise SettingsError("; ".join(f"{flaw.field}: found {flaw.found}, expected {flaw.expected}" for flaw in flaws))

    def _measured(self, wish: Wish) -> Iterator[tuple[str, str, int]]:
        """What is measured of a wish beside its prompt and target: field, text, and tokens with the longest answer."""
        answers = [wish.target] if wish.target_true is None else [wish.target, wish.target_true]
        if wish.target_true is not None:
            yield "target_true", wish.target_true, self._with_answer(wish.prompt, wish.target_true)
        for prompt in wish.paraphrases:
            yield "paraphrase", prompt, max(self._with_answer(prompt, answer) for answer in answers)
        for prompt in wish.locality:
            yield "locality", prompt, self.tokens(prompt) + SHORT_ANSWER

    def _with_answer(self, prompt: str, answer: str) -> int:
        """Tokens that the model reads to score an answer: all but its last one."""
        ids, target = encode_pair(self._model, self.text(prompt), answer)
        return len(ids) + len(target) - 1

    def unfit(self, lines: Sequence[Line[RawFact]]) -> Iterator[Reject]:
        """Rows with such defects, or whose subject was found within a word."""
        for line in lines:
            if _is_within_a_word(line.raw):
                yield line.reject(Flaw("prompt", shown(line.raw.prompt), WHOLE_WORD))
            else:
                yield from map(line.reject, self.flaws(Wish.of(line.raw)))


def _texts(wish: Wish) -> Iterator[tuple[str, str]]:
    """What a row says, by field; the prompt without its subject."""
    yield from (("subject", wish.subject), ("prompt", wish.template), ("target_new", wish.target), ("target_true", wish.target_true or ""))
    yield from (("paraphrase", text) for text in wish.paraphrases)
    yield from (("locality", text) for text in wish.locality)


def _is_within_a_word(raw: RawFact) -> bool:
    """Whether a subject that was looked for in its prompt touches letters there, as Ada does in Adam; who writes {} means it so."""
    if "{}" in raw.prompt:
        return False
    before, _, after = raw.template.partition("{}")
    return any(all(map(_is_of_a_word, pair)) for pair in ((before[-1:], raw.subject[:1]), (raw.subject[-1:], after[:1])))


def _is_of_a_word(letter: str) -> bool:
    return bool(letter) and unicodedata.name(letter, "").startswith(SPACED)
