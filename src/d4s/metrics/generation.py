"""Free answers: greedy text cut at the end of its first sentence, and its comparison with a target, word for word."""

import re
import unicodedata
from collections.abc import Sequence

from d4s.models.edited import EditedModel

SENTENCE_END = re.compile(r"[.!?](?=\s|$)|\n")
FOLLOWED_END = re.compile(r"[.!?](?=\s)|\S\s*\n")
FIRST_TOKENS = 4
ARTICLES = {"a", "an", "the"}
WHOLE = 2**31  # more words than any answer has


def first_sentence(text: str) -> str:
    """The text up to its first `.`, `!` or `?` before a space, or line break; all of it where there is none."""
    text = text.strip()
    end = SENTENCE_END.search(text)
    return (text[: end.start()] if end else text).strip()


def free_answers(model: EditedModel, prompts: Sequence[str], max_new_tokens: int, words: Sequence[int] | None = None) -> list[str]:
    """The first sentence that a model writes greedily after each prompt, of at most so many tokens.

    `words` says how many words of each answer matter (all when omitted); the rest of its sentence may be missing. A few
    tokens are written first, and only prompts that need more are then given the rest: greedy text is the beginning of
    any longer greedy text, so the answers are the same.
    """
    needed: dict[str, int] = {}
    for prompt, count in zip(prompts, words or [WHOLE] * len(prompts), strict=True):
        needed[prompt] = max(count, needed.get(prompt, 0))
    texts: dict[str, str] = {}
    for tokens in dict.fromkeys((min(FIRST_TOKENS, max_new_tokens), max_new_tokens)):
        unsettled = [prompt for prompt, count in needed.items() if not _is_settled(texts.get(prompt, ""), count)]
        if unsettled:
            texts.update(zip(unsettled, model.generate(unsettled, tokens), strict=True))
    return [first_sentence(texts[prompt]) for prompt in prompts]


def _is_settled(text: str, words: int) -> bool:
    """Whether further tokens cannot change the first so many words of a text's first sentence."""
    return bool(FOLLOWED_END.search(text)) or len(normalised(first_sentence(text))) > words + 1  # one may be an article


def normalised(text: str) -> tuple[str, ...]:
    """The words of a text without case, punctuation and symbols. Articles stay: a label may be `a`."""
    plain = unicodedata.normalize("NFKC", text).casefold()
    return tuple("".join(" " if unicodedata.category(letter)[0] in "PSZ" else letter for letter in plain).split())


def begins_with(answer: str, target: str) -> bool:
    """Whether an answer begins with exactly the words of a target; an article before them does not matter."""
    words, written = normalised(target), normalised(answer)
    if not words:
        return answer.strip().startswith(target.strip())
    if written[:1] and written[0] in ARTICLES and words[0] not in ARTICLES:
        written = written[1:]
    return written[: len(words)] == words


def is_same(answer: str, other: str) -> bool:
    """Whether two answers are the same words."""
    return normalised(answer) == normalised(other)
