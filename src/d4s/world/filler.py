"""Free text of the world: short grammatical sentences without facts, and phrases that introduce a sentence."""

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

from d4s.world.word_lists import FILLER_ADJECTIVES, FILLER_NOUNS, FILLER_PLACES, FILLER_TIMES, FILLER_VERBS

T = TypeVar("T")
LEAD_INS = (
    "people say that",
    "it is known that",
    "we heard yesterday that",
    "according to the report,",
    "as everyone knows,",
    "the letter said that",
    "a friend told me that",
    "in fact,",
    "the records show that",
    "some believe that",
)


def pick(rng: np.random.Generator, items: Sequence[T]) -> T:
    """One item, drawn uniformly."""
    return items[int(rng.integers(len(items)))]


def filler_line(rng: np.random.Generator) -> str:
    """One sentence without any fact."""
    words = ["the", pick(rng, FILLER_ADJECTIVES), pick(rng, FILLER_NOUNS)] if rng.random() < 0.6 else ["a", pick(rng, FILLER_NOUNS)]
    words += [pick(rng, FILLER_VERBS), "the"]
    if rng.random() < 0.4:
        words.append(pick(rng, FILLER_ADJECTIVES))
    words.append(pick(rng, FILLER_NOUNS))
    if rng.random() < 0.5:
        words += [pick(rng, FILLER_PLACES), "the", pick(rng, FILLER_NOUNS)]
    time = pick(rng, FILLER_TIMES)
    return " ".join([*words, time] if time else words) + "."
