"""Ranks of editors with intervals: which differences of their average scores are real.

Two editors are compared by the difference of their averages on the same facts: within a seed with a paired bootstrap over facts, over
several seeds with a t-interval. A difference is real if its 95 % interval does not hold 0. The interval of a rank follows from the pairs:
it begins behind all editors that are really better and ends before all that are really worse. No correction for the number of pairs.
"""

import itertools
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from d4s.analysis.intervals import Array, IntervalEstimate, bootstrap, over_seeds, percentiles, weighted_means

Scores = Mapping[str, Mapping[int, pd.DataFrame]]
"""By editor and seed: a row per fact, a column per metric."""
Sign = Literal["+", "-", "="]


@dataclass(frozen=True, slots=True)
class Rank:
    """A place among editors, 1 for the best, and the first and the last place that the real differences leave it."""

    place: int
    first: int
    last: int


@dataclass(frozen=True)
class Ranking:
    """Editors in the order of their averages, best first, and the difference of every pair, first minus second."""

    averages: Mapping[str, IntervalEstimate]
    gaps: Mapping[tuple[str, str], IntervalEstimate]

    @property
    def editors(self) -> list[str]:
        """The editors, best first."""
        return [*self.averages]

    def sign(self, editor: str, other: str) -> Sign:
        """Whether an editor is really better (+) or really worse (-) than another, or cannot be told apart from it (=)."""
        gap = self.gaps.get((editor, other))
        if gap is None:
            return "="
        return "+" if gap.low > 0 else "-" if gap.high < 0 else "="

    def signs(self, editor: str) -> str:
        """Those of an editor against every one, in the order of the editors."""
        return "".join(self.sign(editor, other) for other in self.editors)

    def rank(self, editor: str) -> Rank:
        """The rank of an editor."""
        signs, own = self.signs(editor), self.averages[editor].value
        place = 1 + sum(other.value > own for other in self.averages.values())
        return Rank(place, min(place, 1 + signs.count("-")), max(place, len(self.averages) - signs.count("+")))


@dataclass(frozen=True, slots=True)
class _Seed:
    """The editors of a seed: the average of each, and of every resample of the facts, a column per editor."""

    editors: Sequence[str]
    facts: int
    values: Array
    draws: Array

    def estimate(self, weights: Mapping[str, float], is_alone: bool) -> IntervalEstimate:
        """A weighted sum of averages; with an interval only where no other seed gives it one."""
        chosen = [self.editors.index(editor) for editor in weights]
        factors = np.array([*weights.values()])
        low, high = percentiles(self.draws[:, chosen] @ factors) if is_alone else (np.nan, np.nan)
        return IntervalEstimate(float(self.values[chosen] @ factors), float(low), float(high), self.facts)


def ranking(scores: Scores) -> Ranking:
    """The ranking of editors by the mean of their metrics; facts that an editor lacks have no weight in its means."""
    seeds = {seed: _seed(scores, seed) for seed in sorted({seed for of_editor in scores.values() for seed in of_editor})}
    averages = {editor: _over(seeds, scores[editor], {editor: 1.0}) for editor in scores}
    ordered = dict(sorted(averages.items(), key=lambda item: -item[1].value))
    gaps = dict[tuple[str, str], IntervalEstimate]()
    for editor, other in itertools.combinations(ordered, 2):
        if shared := {*scores[editor]} & {*scores[other]}:
            gaps[editor, other] = _over(seeds, shared, {editor: 1.0, other: -1.0})
            gaps[other, editor] = gaps[editor, other].scaled(-1.0)
    return Ranking(ordered, gaps)


def _seed(scores: Scores, seed: int) -> _Seed:
    """Averages of the editors of a seed, all of them on the same resamples of its facts."""
    frames = {editor: of_editor[seed] for editor, of_editor in scores.items() if seed in of_editor}
    facts = sorted({str(fact) for frame in frames.values() for fact in frame.index})
    values = np.stack([frame.reindex(facts).to_numpy(dtype=float) for frame in frames.values()], axis=1)
    flat = values.reshape(len(facts), -1)

    def averages(weights: Array) -> Array:
        return weighted_means(flat, weights).reshape(len(weights), *values.shape[1:]).mean(axis=-1)

    whole = averages(np.ones((1, len(facts))))[0]
    return _Seed([*frames], len(facts), whole, bootstrap(len(facts), averages))


def _over(seeds: Mapping[int, _Seed], chosen: Collection[int], weights: Mapping[str, float]) -> IntervalEstimate:
    """A weighted sum of averages over some seeds."""
    return over_seeds([seeds[seed].estimate(weights, len(chosen) == 1) for seed in sorted(chosen)])
