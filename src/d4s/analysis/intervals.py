"""Estimates with 95 % intervals: bootstrap over facts within a seed, t-interval over seeds; deterministic and vectorised.

Every bootstrap uses a generator with a fixed seed: equal data give equal intervals, and two samples of the same size are
resampled alike.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

RESAMPLES = 2000
LEVEL = 0.95
_ENTRIES_PER_BLOCK = 4_000_000
_CACHED_SIZE = 1500

Array = NDArray[np.floating[Any]]


@dataclass(frozen=True, slots=True)
class IntervalEstimate:
    """A number with its interval, the count of resampled units, and the count of seeds."""

    value: float
    low: float
    high: float
    n: int
    seeds: int = 1

    def scaled(self, factor: float) -> "IntervalEstimate":
        """The estimate times a factor; a negative factor swaps the limits."""
        low, high = sorted((self.low * factor, self.high * factor))
        return replace(self, value=self.value * factor, low=low, high=high)

    def shifted(self, by: float) -> "IntervalEstimate":
        """The estimate plus a number."""
        return replace(self, value=self.value + by, low=self.low + by, high=self.high + by)


def bootstrap(n: int, statistic: Callable[[Array], Array]) -> Array:
    """A statistic of every resample of n units; `statistic` maps counts (r, n), each row summing to n, to values (r, ...)."""
    return np.concatenate([statistic(counts.astype(np.float64)) for counts in _resamples(n)])


def _resamples(n: int) -> Iterable[NDArray[np.int32]]:
    """Counts of n units in every resample, in blocks of rows; cached, since the same sizes recur."""
    return _cached_resamples(n) if n <= _CACHED_SIZE else _draw_resamples(n)


@lru_cache(maxsize=32)
def _cached_resamples(n: int) -> tuple[NDArray[np.int32], ...]:
    return tuple(_draw_resamples(n))


def _draw_resamples(n: int) -> Iterator[NDArray[np.int32]]:
    generator = np.random.default_rng(0)
    rows = max(1, min(RESAMPLES, _ENTRIES_PER_BLOCK // n))
    for start in range(0, RESAMPLES, rows):
        yield generator.multinomial(n, np.full(n, 1.0 / n), size=min(rows, RESAMPLES - start)).astype(np.int32)


def percentiles(draws: Array) -> Array:
    """Lower and upper limit of the central 95 % of draws along the first axis, stacked; NaN where there is no draw."""
    tail = 50 * (1 - LEVEL)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.nanpercentile(draws, [tail, 100 - tail], axis=0))


def mean_intervals(values: Array) -> list[IntervalEstimate]:
    """The mean of every column over the rows with a value (not NaN), with bootstrap intervals over rows.

    Raises:
        ValueError: if a column has no value at all.
    """
    present = ~np.isnan(values)
    counts = present.sum(0)
    if not counts.all():
        raise ValueError(f"columns {np.flatnonzero(counts == 0).tolist()} hold no value")
    low, high = percentiles(bootstrap(len(values), lambda weights: weighted_means(values, weights)))
    means = np.nansum(values, axis=0) / counts
    return [IntervalEstimate(float(m), float(a), float(b), int(n)) for m, a, b, n in zip(means, low, high, counts, strict=True)]


def weighted_means(values: Array, weights: Array) -> Array:
    """Means of the columns of `values` (n, k) under each row of `weights` (r, n); NaN values have no weight."""
    present = ~np.isnan(values)
    with np.errstate(invalid="ignore", divide="ignore"):
        return (weights @ np.where(present, values, 0.0)) / (weights @ present)


def mean_interval(values: Sequence[float] | Array) -> IntervalEstimate:
    """The mean of a sample with its bootstrap interval."""
    return mean_intervals(np.asarray(values, dtype=np.float64)[:, None])[0]


def average_interval(values: Array) -> IntervalEstimate:
    """Average of the column means over the rows with a value, with a bootstrap interval over rows."""
    low, high = percentiles(bootstrap(len(values), lambda weights: weighted_means(values, weights).mean(1)))
    return IntervalEstimate(float(np.nanmean(values, axis=0).mean()), float(low), float(high), len(values))


def average_difference(left: Array, right: Array) -> IntervalEstimate:
    """Average of the column means of one sample minus another's, rows paired; NaN values are left out of their column."""
    both = np.hstack([left, right])
    signs = np.concatenate([np.full(left.shape[1], 1 / left.shape[1]), np.full(right.shape[1], -1 / right.shape[1])])
    low, high = percentiles(bootstrap(len(both), lambda weights: weighted_means(both, weights) @ signs))
    value = float(np.nanmean(both, axis=0) @ signs)
    return IntervalEstimate(value, float(low), float(high), len(both))


def sum_interval(values: Sequence[float] | Array) -> IntervalEstimate:
    """The sum of a sample with its bootstrap interval."""
    return mean_interval(values).scaled(float(len(values)))


def difference(left: Array, right: Array) -> IntervalEstimate:
    """Difference of the means of two independent samples, left minus right, each resampled independently."""
    draws = [bootstrap(len(side), lambda weights, side=side: weights @ side / len(side)) for side in (left, right)]
    shuffled = np.random.default_rng(1).permutation(draws[1])
    low, high = percentiles(draws[0] - shuffled)
    return IntervalEstimate(float(left.mean() - right.mean()), float(low), float(high), min(len(left), len(right)))


def equivalence(gap: IntervalEstimate, margin: float) -> IntervalEstimate:
    """The allowed difference minus the absolute difference; negative where the difference is larger."""
    furthest = max(abs(gap.low), abs(gap.high))
    nearest = 0.0 if gap.low <= 0 <= gap.high else min(abs(gap.low), abs(gap.high))
    return IntervalEstimate(margin - abs(gap.value), margin - furthest, margin - nearest, gap.n, gap.seeds)


def fall_interval(position: Array, values: Array) -> IntervalEstimate:
    """Fall of the least-squares line from the first to the last position, with an interval over points."""
    span = float(position.max() - position.min())

    def fall(weights: Array) -> Array:
        total = weights.sum(1)
        x, y = weights @ position / total, weights @ values / total
        spread = weights @ position**2 / total - x**2
        with np.errstate(invalid="ignore", divide="ignore"):
            return -span * (weights @ (position * values) / total - x * y) / spread

    low, high = percentiles(bootstrap(len(values), fall))
    return IntervalEstimate(float(fall(np.ones((1, len(values))))[0]), float(low), float(high), len(values))


def correlation_interval(x: Array, y: Array, clusters: Sequence[object]) -> IntervalEstimate:
    """Pearson correlation of points, with a bootstrap interval over whole clusters of points; n counts clusters."""
    names = sorted(set(clusters), key=str)
    member = np.array([[name == cluster for cluster in clusters] for name in names], dtype=np.float64)

    def pearson(counts: Array) -> Array:
        weights = counts @ member
        total = weights.sum(1, keepdims=True)
        dx, dy = x - weights @ x[:, None] / total, y - weights @ y[:, None] / total
        with np.errstate(invalid="ignore", divide="ignore"):
            return (weights * dx * dy).sum(1) / np.sqrt((weights * dx**2).sum(1) * (weights * dy**2).sum(1))

    low, high = percentiles(bootstrap(len(names), pearson))
    return IntervalEstimate(float(pearson(np.ones((1, len(names))))[0]), float(low), float(high), len(names))


def share_interval(hits: int, n: int) -> IntervalEstimate:
    """A share of n independent events with its exact interval (Clopper and Pearson 1934), which rare events need."""
    tail = (1 - LEVEL) / 2
    low = float(stats.beta.ppf(tail, hits, n - hits + 1)) if hits else 0.0
    high = float(stats.beta.ppf(1 - tail, hits + 1, n - hits)) if hits < n else 1.0
    return IntervalEstimate(hits / n, low, high, n)


def normal_interval(value: float, error: float, n: int) -> IntervalEstimate:
    """A value with the normal interval of its standard error."""
    width = float(stats.norm.ppf(0.5 + LEVEL / 2)) * error
    return IntervalEstimate(value, value - width, value + width, n)


def over_seeds(estimates: Sequence[IntervalEstimate]) -> IntervalEstimate:
    """Estimates of several seeds as one: their mean with a t-interval over seeds; a single one unchanged.

    Raises:
        ValueError: if there is no estimate.
    """
    if not estimates:
        raise ValueError("no estimate to combine")
    if len(estimates) == 1:
        return estimates[0]
    values = np.array([estimate.value for estimate in estimates])
    error = float(values.std(ddof=1)) / np.sqrt(len(values))
    width = float(stats.t.ppf(0.5 + LEVEL / 2, len(values) - 1)) * error
    mean = float(values.mean())
    return IntervalEstimate(mean, mean - width, mean + width, min(estimate.n for estimate in estimates), len(values))
