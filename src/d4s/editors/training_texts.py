"""Texts that fine-tuning learns from, as token ids, with the places at which tokens are supervised.

Nothing here imports torch: parts of editors make texts, and settings are read without it.
"""

from collections.abc import Sequence
from typing import NamedTuple

Supervised = tuple[tuple[int, int], ...]
"""Tokens that are trained on, each as the index of the token that predicts it, and its id."""


class PoolSentence(NamedTuple):
    """A true sentence as it stands behind another one: ids of what separates the two, and its own."""

    separator: tuple[int, ...]
    ids: tuple[int, ...]


class TrainingText(NamedTuple):
    """Ids that run through the model, and the supervised tokens: those of a request's target, and those of a true sentence."""

    ids: tuple[int, ...]
    target: Supervised
    sentence: Supervised = ()


def supervised(ids: Sequence[int], start: int, stop: int | None = None) -> Supervised:
    """The tokens of a text from `start` (1 at least) to `stop`, each predicted by the one before it: a mask by position, never by id."""
    return tuple((place - 1, ids[place]) for place in range(start, len(ids) if stop is None else stop))


def at_own_places(prompt: Sequence[int], target: Sequence[int]) -> TrainingText:
    """A prompt with its target, each token of the target predicted at its own place (FT-M)."""
    ids = (*prompt, *target)
    return TrainingText(ids[:-1], supervised(ids, len(prompt)))


def at_last_prompt_token(prompt: Sequence[int], target: Sequence[int]) -> TrainingText:
    """A prompt, all tokens of the target predicted by its last token (FT-L)."""
    return TrainingText(tuple(prompt), tuple((len(prompt) - 1, token) for token in target))
