"""The score S of an edited model: the harmonic mean of efficacy, paraphrase and specificity, each a mean over facts."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from d4s.analysis.display_names import HEADLINE_METRICS
from d4s.analysis.intervals import Array, IntervalEstimate, bootstrap, percentiles, weighted_means


def fact_scores(frame: pd.DataFrame) -> pd.DataFrame:
    """Efficacy, paraphrase and specificity of each fact (in columns of these names); facts that lack all of them are left out."""
    return frame.reindex(columns=list(HEADLINE_METRICS)).dropna(how="all")


def harmonic_mean(means: Array) -> Array:
    """3 ÷ Σ 1/m over the last axis (..., 3); 0 where one of the means is 0."""
    with np.errstate(divide="ignore"):
        return np.asarray(means.shape[-1] / (1 / means).sum(-1))


def score_interval(scores: pd.DataFrame) -> IntervalEstimate:
    """S over facts, with a bootstrap interval."""
    values = scores.to_numpy(dtype=float)
    low, high = percentiles(bootstrap(len(values), lambda weights: harmonic_mean(weighted_means(values, weights))))
    return IntervalEstimate(float(harmonic_mean(np.nanmean(values, axis=0))), float(low), float(high), len(values))


def best_difference(left: Sequence[pd.DataFrame], right: Sequence[pd.DataFrame]) -> IntervalEstimate:
    """The largest S of some models minus the largest of others, on the facts that all share, resampled together.

    The largest is taken again in every resample, so that the interval covers the choice on both sides.
    """
    facts = left[0].index
    for frame in (*left[1:], *right):
        facts = facts.intersection(frame.index)
    sides = [[frame.loc[facts].to_numpy(dtype=float) for frame in side] for side in (left, right)]

    def gap(weights: Array) -> Array:
        best = [np.stack([harmonic_mean(weighted_means(values, weights)) for values in side]).max(0) for side in sides]
        return best[0] - best[1]

    low, high = percentiles(bootstrap(len(facts), gap))
    return IntervalEstimate(float(gap(np.ones((1, len(facts))))[0]), float(low), float(high), len(facts))


def score_difference(left: pd.DataFrame, right: pd.DataFrame) -> IntervalEstimate:
    """S of one model minus that of another on the facts that both share, paired."""
    return best_difference([left], [right])
