"""Packs sentences into rows of equal length that start with a sentence, after BOS where a row has it; no fact is cut."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
from tokenizers import Tokenizer

from d4s.errors import SettingsError
from d4s.pretraining.sentences import Sentence

PENDING = 16
MAX_TOO_LONG = 10_000
"""Consecutive sentences that fit no row, after which the work ends: the next would hardly fit either."""


@dataclass(frozen=True, slots=True)
class WeightedTokens:
    """Token ids with a loss weight each."""

    ids: list[int]
    weights: list[float]


def encode(tokenizer: Tokenizer, sentence: Sentence) -> WeightedTokens:
    """Tokens of a sentence; those that overlap an answer have its weight."""
    found = tokenizer.encode(sentence.text, add_special_tokens=False)
    weights = [
        sentence.answer_weight if any(end > start and begin < stop for start, stop in sentence.answers) else sentence.weight
        for begin, end in found.offsets
    ]
    return WeightedTokens(found.ids, weights)


class Packer:
    """Fills one row after another: first with sentences that fit, then with free text that may be cut.

    A few sentences wait at any time, and the one waiting longest that still fits is next, so little space is lost.
    """

    def __init__(self, sentences: Iterator[WeightedTokens], filler: Iterator[WeightedTokens], length: int, bos: int) -> None:
        self._sentences, self._filler, self._length, self._bos = sentences, filler, length, bos
        self._pending: list[WeightedTokens] = []
        self.too_long = 0

    def row(self, free_text_only: bool = False, bos: bool = True) -> WeightedTokens:
        """The next row, with BOS before its first sentence or without."""
        row = WeightedTokens([self._bos], [0.0]) if bos else WeightedTokens([], [])
        while len(row.ids) < self._length:
            found = next(self._filler) if free_text_only else self._next_fitting(self._length - len(row.ids))
            row.ids.extend(found.ids)
            row.weights.extend(found.weights)
        return WeightedTokens(row.ids[: self._length], row.weights[: self._length])

    def _next_fitting(self, space: int) -> WeightedTokens:
        while len(self._pending) < PENDING:
            self._pending.append(self._next())
        for index, sentence in enumerate(self._pending):
            if len(sentence.ids) <= space:
                return self._pending.pop(index)
        return next(self._filler)

    def _next(self) -> WeightedTokens:
        """The next sentence that fits a row.

        Raises:
            SettingsError: if there is none among `MAX_TOO_LONG`.
        """
        for sentence in islice(self._sentences, MAX_TOO_LONG):
            if len(sentence.ids) < self._length:
                return sentence
            self.too_long += 1
        raise SettingsError(f"{MAX_TOO_LONG:,} sentences in a row are too long for rows of {self._length} tokens; set a longer `row`")


def pack_text(texts: Sequence[list[int]], length: int, bos: int | None) -> np.ndarray:
    """Running text as full rows, each starting with BOS where there is one; a shorter rest is dropped."""
    flat = np.array([token for text in texts for token in text], dtype=np.int32)
    lead = [] if bos is None else [bos]
    width = length - len(lead)
    rows = flat[: len(flat) // width * width].reshape(-1, width)
    return np.hstack([np.full((len(rows), len(lead)), bos if lead else 0, dtype=np.int32), rows])
