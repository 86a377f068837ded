"""How much of an editing score the edited layer explains, how much the tracing effect there, and how much both (Hase et al. 2023).

Three least-squares models of the scores of facts edited at several layers: `layer`, a mean for every layer; `trace`, one line in the
tracing effect at the edited layer; `both`, a line for every layer, that is layer, effect and their interaction. R² are adjusted for the
number of terms, and the F-test asks whether `both` explains more than `layer` by chance. Intervals are bootstraps over facts, each with all
of its layers.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from d4s.analysis.intervals import Array, IntervalEstimate, bootstrap, percentiles

FLAT = 1e-12  # sum of squares, as a share of the raw one, below which a layer's effects count as all alike


@dataclass(frozen=True, slots=True)
class LocalisationFit:
    """R² of the three models with intervals over facts, of what `both` adds to `layer`, and the F-test of that.

    `spread` is the standard deviation of the scores; `cells` counts scores, facts times layers.
    """

    layer: IntervalEstimate
    trace: IntervalEstimate
    both: IntervalEstimate
    gain: IntervalEstimate
    f_value: float
    p_value: float
    spread: float
    cells: int


@dataclass(frozen=True, slots=True)
class _Sums:
    """Weighted sums over facts by layer, one row per resample: numbers, sums, squares and products of effect x and score y."""

    n: Array
    x: Array
    y: Array
    xx: Array
    xy: Array
    yy: Array

    @classmethod
    def of(cls, effect: Array, score: Array, weights: Array) -> "_Sums":
        """Sums under weights (resamples, facts) of values (facts, layers); cells without a value (NaN) count for nothing."""
        known = ~(np.isnan(effect) | np.isnan(score))
        x, y = np.where(known, effect, 0.0), np.where(known, score, 0.0)
        return cls(*(weights @ values for values in (known.astype(float), x, y, x * x, x * y, y * y)))

    @property
    def can_be_fitted(self) -> bool:
        """Whether there are more scores than terms, and scores differ."""
        number = float(self.n.sum())
        return number > float(self.around_lines()[1].sum()) and float(self.pooled().around_means().sum()) > FLAT * float(self.yy.sum())

    def pooled(self) -> "_Sums":
        """The sums over all layers."""
        return _Sums(*(part.sum(1, keepdims=True) for part in (self.n, self.x, self.y, self.xx, self.xy, self.yy)))

    def around_means(self) -> Array:
        """Residual sums of squares around each layer's mean."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(self.n > 0, self.yy - self.y**2 / self.n, 0.0)

    def around_lines(self) -> tuple[Array, Array]:
        """Residual sums of squares around each layer's line, and the terms of its fit: 0 without cells, 1 where effects are all alike."""
        with np.errstate(invalid="ignore", divide="ignore"):
            spread, product = self.xx - self.x**2 / self.n, self.xy - self.x * self.y / self.n
            has_line = (self.n > 0) & (spread > FLAT * self.xx)
            return self.around_means() - np.where(has_line, product**2 / spread, 0.0), (self.n > 0).astype(float) + has_line.astype(float)


def fit_localisation(cells: pd.DataFrame) -> LocalisationFit | None:
    """The fit to a frame with columns fact_id, layer, effect and score; None where scores do not vary or there are too few.

    R² of a model with k terms over N scores is 1 − (RSS / (N − k)) / (TSS / (N − 1)).
    """
    effect, score = _by_fact_and_layer(cells)
    whole = _Sums.of(effect, score, np.ones((1, len(effect))))
    if not whole.can_be_fitted:
        return None
    low, high = percentiles(bootstrap(len(effect), lambda weights: _r_squared(_Sums.of(effect, score, weights))))
    limits = zip(_r_squared(whole)[0], low, high, strict=True)
    layer, trace, both, gain = (IntervalEstimate(float(value), float(a), float(b), len(effect)) for value, a, b in limits)
    f_value, p_value = _f_test(whole)
    number = float(whole.n.sum())
    spread = float(np.sqrt(whole.pooled().around_means().sum() / (number - 1)))
    return LocalisationFit(layer, trace, both, gain, f_value, p_value, spread, int(number))


def gain_difference(left: pd.DataFrame, right: pd.DataFrame) -> IntervalEstimate | None:
    """What `both` adds to `layer` for one frame of cells minus that for another, facts paired; None where one of them has no fit."""
    shared = set(left["fact_id"]) & set(right["fact_id"])
    sides = [_by_fact_and_layer(cells[cells["fact_id"].isin(shared)]) for cells in (left, right)]
    count = len(sides[0][0])
    if not all(_Sums.of(*side, np.ones((1, count))).can_be_fitted for side in sides):
        return None

    def difference(weights: Array) -> Array:
        first, second = (_r_squared(_Sums.of(*side, weights))[:, -1] for side in sides)
        return first - second

    low, high = percentiles(bootstrap(count, difference))
    return IntervalEstimate(float(difference(np.ones((1, count)))[0]), float(low), float(high), count)


def _by_fact_and_layer(cells: pd.DataFrame) -> tuple[Array, Array]:
    """Effects and scores, a row per fact (sorted) and a column per layer; NaN where a fact lacks a layer."""
    wide = cells.pivot_table(index="fact_id", columns="layer", values=["effect", "score"])
    if wide.empty:
        return np.empty((0, 0)), np.empty((0, 0))
    return wide["effect"].to_numpy(dtype=float), wide["score"].to_numpy(dtype=float)


def _r_squared(sums: _Sums) -> Array:
    """Adjusted R² of layer, trace and both, and what both adds to layer: a row per resample."""
    number, total = sums.n.sum(1), sums.pooled().around_means()[:, 0]

    def adjusted(residual: Array, terms: Array) -> Array:
        with np.errstate(invalid="ignore", divide="ignore"):
            return 1 - (residual / (number - terms)) / (total / (number - 1))

    line, line_terms = sums.pooled().around_lines()
    lines, terms = sums.around_lines()
    layer = adjusted(sums.around_means().sum(1), (sums.n > 0).sum(1).astype(float))
    trace, both = adjusted(line[:, 0], line_terms[:, 0]), adjusted(lines.sum(1), terms.sum(1))
    return np.stack([layer, trace, both, both - layer], axis=1)


def _f_test(sums: _Sums) -> tuple[float, float]:
    """F and p of `both` against `layer`; NaN and 1 where no layer has a line."""
    lines, terms = sums.around_lines()
    added = float((terms - (sums.n > 0)).sum())
    left = float(sums.n.sum() - terms.sum())
    residual, explained = float(lines.sum()), float((sums.around_means() - lines).sum())
    if not added:
        return float("nan"), 1.0
    f_value = explained / added / (residual / left) if residual > 0 else float("inf")
    return f_value, float(stats.f.sf(f_value, added, left))


def share_with_common_layer(cells: pd.DataFrame, tolerance: float) -> IntervalEstimate | None:
    """Share of facts whose best score at any layer is within a tolerance of their score at the best common layer, bootstrapped over facts.

    The best common layer is that with the highest mean score, in every resample its own. Facts without a score at some layer are left out.
    """
    scores = cells.pivot_table(index="fact_id", columns="layer", values="score").dropna().to_numpy(dtype=float)
    if not scores.size:
        return None
    is_near = (scores >= scores.max(1, keepdims=True) - tolerance).astype(float)

    def share(weights: Array) -> Array:
        best = (weights @ scores).argmax(1)
        return (weights @ is_near)[np.arange(len(weights)), best] / weights.sum(1)

    low, high = percentiles(bootstrap(len(scores), share))
    return IntervalEstimate(float(share(np.ones((1, len(scores))))[0]), float(low), float(high), len(scores))
