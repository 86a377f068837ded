"""Free answers: greedy text up to the end of its first sentence, and comparison with a target word for word."""

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence

from d4s.models.edited_model import EditedModel, StopCriterion

SENTENCE_END = re.compile(r"[.!?](?=\s|$)|\n")
FOLLOWED_END = re.compile(r"[.!?](?=\s)|\S\s*\n")
ARTICLES = {"a", "an", "the"}
REPLACEMENT_CHARACTER = "\ufffd"  # stands for a character whose last bytes are not generated yet
NO_WORD_LIMIT = 2**31  # longer than any answer


def first_sentence(text: str) -> str:
    """The text up to the first `.`, `!` or `?` before a space, or to the first line break; all of it where there is none."""
    text = text.strip()
    end = SENTENCE_END.search(text)
    return (text[: end.start()] if end else text).strip()


def free_answers(model: EditedModel, prompts: Sequence[str], max_new_tokens: int, words: Sequence[int] | None = None) -> list[str]:
    """The first sentence of a model's greedy continuation of each prompt, of at most `max_new_tokens` tokens.

    `words` gives the number of words needed of each answer (all when omitted); the rest of its sentence may be missing.
    """
    needed = words_needed(prompts, words or [NO_WORD_LIMIT] * len(prompts))
    return sentences(prompts, needed, model.generate([*needed], max_new_tokens, stop_after_words(needed)))


def words_needed(prompts: Sequence[str], words: Sequence[int]) -> dict[str, int]:
    """Words needed by prompt: the largest number that any question with this prompt needs."""
    needed: dict[str, int] = {}
    for prompt, count in zip(prompts, words, strict=True):
        needed[prompt] = max(count, needed.get(prompt, 0))
    return needed


def stop_after_words(needed: Mapping[str, int]) -> StopCriterion:
    """A criterion that ends a continuation once its first sentence has the words needed; more tokens cannot change them."""
    return lambda prompt, text: _is_complete(text, needed[prompt])


def sentences(prompts: Sequence[str], needed: Iterable[str], texts: Sequence[str]) -> list[str]:
    """The first sentence of each prompt's text; `texts` are in the order of the distinct prompts, the keys of `needed`."""
    found = {prompt: first_sentence(text) for prompt, text in zip(needed, texts, strict=True)}
    return [found[prompt] for prompt in prompts]


def _is_complete(text: str, words: int) -> bool:
    """Whether further tokens cannot change the first `words` words of a text's first sentence.

    A word is complete once another character follows it; half a character does not count.
    """
    if FOLLOWED_END.search(text):
        return True
    written = normalise_words(text)
    last = unicodedata.normalize("NFKC", text)[-1:]
    is_whole = last not in ("", REPLACEMENT_CHARACTER) and _divides(last)
    has_article = bool(written) and written[0] in ARTICLES
    return len(written) - (not is_whole) >= words + has_article


def normalise_words(text: str) -> tuple[str, ...]:
    """The words of a text without case, punctuation and symbols. Articles are kept: a label may be `a`."""
    plain = unicodedata.normalize("NFKC", text).casefold()
    return tuple("".join(" " if _divides(letter) else letter for letter in plain).split())


def _divides(letter: str) -> bool:
    """Whether a character separates words."""
    return letter.isspace() or unicodedata.category(letter)[0] in "PSZ"


def begins_with(answer: str, target: str) -> bool:
    """Whether an answer begins with exactly the words of a target, with or without an article before them."""
    words, written = normalise_words(target), normalise_words(answer)
    if not words:
        return answer.strip().startswith(target.strip())
    if written[:1] and written[0] in ARTICLES and words[0] not in ARTICLES:
        written = written[1:]
    return written[: len(words)] == words


def is_same(answer: str, other: str) -> bool:
    """Whether two answers have the same words."""
    return normalise_words(answer) == normalise_words(other)
