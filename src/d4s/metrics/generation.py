"""Free answers: greedy text cut at the end of its first sentence, and its comparison with a target, word for word."""

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence

from d4s.models.edited_model import EditedModel, StopCriterion

SENTENCE_END = re.compile(r"[.!?](?=\s|$)|\n")
FOLLOWED_END = re.compile(r"[.!?](?=\s)|\S\s*\n")
ARTICLES = {"a", "an", "the"}
REPLACEMENT_CHARACTER = "\ufffd"  # in the place of a character whose last bytes are still to come
NO_WORD_LIMIT = 2**31  # more words than any answer has


def first_sentence(text: str) -> str:
    """The text up to its first `.`, `!` or `?` before a space, or line break; all of it where there is none."""
    text = text.strip()
    end = SENTENCE_END.search(text)
    return (text[: end.start()] if end else text).strip()


def free_answers(model: EditedModel, prompts: Sequence[str], max_new_tokens: int, words: Sequence[int] | None = None) -> list[str]:
    """The first sentence that a model writes greedily after each prompt, of at most so many tokens.

    `words` says how many words of each answer matter (all when omitted); the rest of its sentence may be missing.
    """
    needed = words_needed(prompts, words or [NO_WORD_LIMIT] * len(prompts))
    return sentences(prompts, needed, model.generate([*needed], max_new_tokens, stop_after_words(needed)))


def words_needed(prompts: Sequence[str], words: Sequence[int]) -> dict[str, int]:
    """By prompt the most words of its answer that matter to any that asks it."""
    needed: dict[str, int] = {}
    for prompt, count in zip(prompts, words, strict=True):
        needed[prompt] = max(count, needed.get(prompt, 0))
    return needed


def stop_after_words(needed: Mapping[str, int]) -> StopCriterion:
    """Greedy text is the beginning of any longer greedy text: whether the words that matter of its first sentence are there."""
    return lambda prompt, text: _is_complete(text, needed[prompt])


def sentences(prompts: Sequence[str], needed: Iterable[str], texts: Sequence[str]) -> list[str]:
    """The first sentence of each prompt's text; texts are in the order of the different prompts."""
    found = {prompt: first_sentence(text) for prompt, text in zip(needed, texts, strict=True)}
    return [found[prompt] for prompt in prompts]


def _is_complete(text: str, words: int) -> bool:
    """Whether further tokens cannot change the first so many words of a text's first sentence.

    A word is whole once something else follows it, which half a character does not.
    """
    if FOLLOWED_END.search(text):
        return True
    written = normalise_words(text)
    last = unicodedata.normalize("NFKC", text)[-1:]
    is_whole = last not in ("", REPLACEMENT_CHARACTER) and _divides(last)
    has_article = bool(written) and written[0] in ARTICLES
    return len(written) - (not is_whole) >= words + has_article


def normalise_words(text: str) -> tuple[str, ...]:
    """The words of a text without case, punctuation and symbols. Articles stay: a label may be `a`."""
    plain = unicodedata.normalize("NFKC", text).casefold()
    return tuple("".join(" " if _divides(letter) else letter for letter in plain).split())


def _divides(letter: str) -> bool:
    """Whether a letter stands between words."""
    return letter.isspace() or unicodedata.category(letter)[0] in "PSZ"


def begins_with(answer: str, target: str) -> bool:
    """Whether an answer begins with exactly the words of a target; an article before them does not matter."""
    words, written = normalise_words(target), normalise_words(answer)
    if not words:
        return answer.strip().startswith(target.strip())
    if written[:1] and written[0] in ARTICLES and words[0] not in ARTICLES:
        written = written[1:]
    return written[: len(words)] == words


def is_same(answer: str, other: str) -> bool:
    """Whether two answers are the same words."""
    return normalise_words(answer) == normalise_words(other)
