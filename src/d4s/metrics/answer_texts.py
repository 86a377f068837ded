"""Texts of free answers: where an answer ends, when it is its target, when it repeats itself. Text alone; nothing here imports torch."""

import re
import string
from collections import Counter
from collections.abc import Iterator, Sequence

AGAINST_TARGET = ("efficacy", "paraphrase")
KINDS = (*AGAINST_TARGET, "locality")
"""Kinds of questions that are answered freely; the first ones have a target to be compared with."""
STOPS = (".", "\n")
ARTICLES = re.compile(r"\b(a|an|the)\b")
NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
REPEATED_WORDS, REPEATED_TIMES = 3, 3


def has_ended(text: str) -> bool:
    """Whether a continuation has reached a stop."""
    return any(stop in text for stop in STOPS)


def trimmed(text: str) -> str:
    """A continuation without one stop of each kind at its end."""
    for stop in STOPS:
        text = text.removesuffix(stop)
    return text.strip()


def squad_words(text: str) -> list[str]:
    """The words of a text in lower case, without punctuation and then without articles."""
    return ARTICLES.sub(" ", text.lower().translate(NO_PUNCTUATION)).split()


def is_exact(answer: str, target: str) -> bool:
    """Whether a whole answer is a target."""
    words, expected = _compared(answer, target)
    return words == expected


def contains(answer: str, target: str) -> bool:
    """Whether the words of a target stand in an answer, next to each other."""
    words, expected = _compared(answer, target)
    return any(words[place : place + len(expected)] == expected for place in range(len(words) - len(expected) + 1))


def _compared(answer: str, target: str) -> tuple[list[str], list[str]]:
    """The words of both, as they are written where nothing else is left of the target."""
    expected = squad_words(target)
    return (squad_words(answer), expected) if expected else (answer.lower().split(), target.lower().split())


def repeats(answer: str) -> bool:
    """Whether some three words in a row stand at least three times in an answer."""
    return any(count >= REPEATED_TIMES for count in Counter(_word_runs(answer)).values())


def _word_runs(text: str) -> Iterator[tuple[str, ...]]:
    words = text.lower().translate(NO_PUNCTUATION).split()
    return (tuple(words[place : place + REPEATED_WORDS]) for place in range(len(words) - REPEATED_WORDS + 1))


def shared_tokens(ids: Sequence[int], others: Sequence[int]) -> float:
    """Share of places with equal ids, up to the end of the longer one; 1 where both are empty."""
    longest = max(len(ids), len(others))
    return sum(one == other for one, other in zip(ids, others, strict=False)) / longest if longest else 1.0


def stands_in(answer: str, target: str) -> bool:
    """The rule in the place of a judge: the target's words stand in the answer, which does not repeat itself."""
    return contains(answer, target) and not repeats(answer)
