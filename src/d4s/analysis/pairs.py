"""Comparisons of runs: an effect within each seed that some editors share, and retained scores on the facts that two runs share."""

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

from d4s.analysis.display_names import HEADLINE_METRICS, method_name
from d4s.analysis.intervals import IntervalEstimate, average_difference, over_seeds
from d4s.analysis.study_results import Panel, Results, RunKey
from d4s.analysis.verdicts import NotMeasured


def by_seed(results: Results, panel: Panel, editors: Sequence[str], effect: Callable[..., IntervalEstimate]) -> IntervalEstimate | None:
    """An effect of some editors' runs, computed within each shared seed and combined; None without shared seeds."""
    seeds = [{run.seed for run in results.runs_of(panel, editor)} for editor in editors]
    shared = sorted(set.intersection(*seeds))
    return over_seeds([effect(*(RunKey(*panel, editor, seed) for editor in editors)) for seed in shared]) if shared else None


def shared_scores(results: Results, left: RunKey, right: RunKey, length: int, metrics: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Retained scores of two runs: a row per shared fact, a column per shared metric; empty where they share none."""
    frames = [results.retained(run, length) for run in (left, right)]
    facts = frames[0].index.intersection(frames[1].index)
    shared_metrics = [metric for metric in metrics if all(metric in frame and frame[metric].notna().any() for frame in frames)]
    first, second = (pd.DataFrame(frame.loc[facts, shared_metrics]).to_numpy(dtype=float) for frame in frames)
    return first, second


def score_gap(results: Results, panel: Panel, editors: tuple[str, str], length: int, metric: str) -> IntervalEstimate | None:
    """A retained metric of one editor minus another's, paired by fact; None where a run lacks it."""

    def gap(left: RunKey, right: RunKey) -> IntervalEstimate:
        scores = shared_scores(results, left, right, length, [metric])
        return average_difference(*scores) if all(side.size for side in scores) else IntervalEstimate(np.nan, np.nan, np.nan, 0)

    found = by_seed(results, panel, editors, gap)
    return None if found is None or np.isnan(found.value) else found


def average_gap(results: Results, panel: Panel, editors: tuple[str, str], length: int) -> IntervalEstimate | None:
    """Mean of retained efficacy, paraphrase and specificity of one editor minus another's, paired by fact; None without shared seeds.

    Raises:
        NotMeasured: if they share no scores.
    """

    def gap(left: RunKey, right: RunKey) -> IntervalEstimate:
        first, second = shared_scores(results, left, right, length, HEADLINE_METRICS)
        if not first.size:
            raise NotMeasured(f"{method_name(left.editor)} and {method_name(right.editor)} share no scores at {length} edits")
        return average_difference(first, second)

    return by_seed(results, panel, editors, gap)


def length_of_both(results: Results, panel: Panel, editors: tuple[str, str]) -> int:
    """The longest length that two editors share.

    Raises:
        NotMeasured: if one was not run, or they share none.
    """
    length = results.shared_length(panel, editors) if all(results.runs_of(panel, editor) for editor in editors) else None
    if length is None:
        names = " and ".join(map(method_name, editors))
        raise NotMeasured(f"{names} were not both run to one length on {results.panel_name(panel)}")
    return length
