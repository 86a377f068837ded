"""Rules on the size of batches (BS1 to BS5): the best layer, one batch from the original weights, and batches in sequence."""

from collections.abc import Callable, Iterator

import numpy as np
import pandas as pd

from d4s.analysis.batch_series import (
    READINGS,
    RETAINED,
    BatchSeries,
    Reading,
    batch_series,
    by_name,
    immediate_scores,
    layer_sweeps,
    retained_scores,
)
from d4s.analysis.display_names import method_name
from d4s.analysis.editing_score import best_difference, score_difference, score_interval
from d4s.analysis.intervals import IntervalEstimate, difference, equivalence, over_seeds
from d4s.analysis.pairs import by_seed
from d4s.analysis.study_results import Results, RunKey
from d4s.analysis.verdicts import Condition, NotMeasured, RuleResult, show_estimate

SMALL_BATCH = 16
LOCALITY_MARGIN, READING_MARGIN, EQUIVALENCE_MARGIN = 0.05, 0.05, 0.02
SPECIFICITY = "locality_accuracy"


def early_layer(results: Results) -> RuleResult:
    """BS1: of single edits, S at the best layer of the first quarter is above that at the best of the others.

    Raises:
        NotMeasured: if no editor was swept over layers of both parts.
    """
    conditions, why = [], []
    for panel, name, sweeps in by_name(layer_sweeps(results)):
        parts = [sweep.split() for sweep in sweeps]
        if all(early and late for early, late in parts):
            gap = over_seeds([best_difference(early, late) for early, late in parts])
            conditions.append(Condition(f"{method_name(name)}: best early layer − best of the others, {results.panel_name(panel)}", gap))
            means = {layer: [sweep.scores[layer] for sweep in sweeps] for layer in sweeps[0].scores}
            why.append(f"S of {method_name(name)} by layer, {results.panel_name(panel)}: {_by_layer(means)}.")
    if not conditions:
        raise NotMeasured("no single edits swept over early and late layers")
    return RuleResult(conditions, why)


def _by_layer(scores: dict[int, list[pd.DataFrame]]) -> str:
    means = {layer: 100 * np.mean([score_interval(frame).value for frame in frames]) for layer, frames in scores.items()}
    return ", ".join(f"{layer}: {mean:.1f} %" for layer, mean in means.items())


def _series(results: Results, *, remembers: bool) -> list[BatchSeries]:
    """Series of batches with or without memory of earlier edits.

    Raises:
        NotMeasured: if there is none.
    """
    found = [series for panel in results.main_panels for series in batch_series(results, panel) if series.remembers == remembers]
    if not found:
        raise NotMeasured(f"no editor {'with' if remembers else 'without'} key history in batches of several sizes")
    return found


def locality_by_size(results: Results) -> RuleResult:
    """BS2: one batch from the original weights costs more specificity the larger it is.

    Raises:
        NotMeasured: if no editor was measured after one small and one larger batch.
    """
    conditions = []
    for series in _series(results, remembers=False):
        sizes = [size for size in series.single_batches(results) if size >= SMALL_BATCH]
        if len(sizes) > 1:
            pair = sizes[0], sizes[-1]
            gap = by_seed(results, series.panel, [series.editors[size] for size in pair], _locality_gap(results, pair))
            if gap is not None:
                name = f"{_label(results, series)}: specificity after one batch of {pair[0]} − after one of {pair[1]}"
                conditions.append(Condition(name, gap, LOCALITY_MARGIN))
    if not conditions:
        raise NotMeasured(f"no editor was measured after one batch of {SMALL_BATCH} or more and after a larger one")
    return RuleResult(conditions)


def _locality_gap(results: Results, sizes: tuple[int, int]) -> Callable[[RunKey, RunKey], IntervalEstimate]:
    def gap(*runs: RunKey) -> IntervalEstimate:
        small, large = (results.retained(run, size)[SPECIFICITY].dropna() for run, size in zip(runs, sizes, strict=True))
        return difference(small.to_numpy(dtype=float), large.to_numpy(dtype=float))

    return gap


def _label(results: Results, series: BatchSeries) -> str:
    return f"{method_name(series.name)}, {results.panel_name(series.panel)}"


def _totals(results: Results, *, remembers: bool) -> Iterator[tuple[BatchSeries, int]]:
    """Series with the number of requests that were edited both at once and in smaller batches.

    Raises:
        NotMeasured: if there is none.
    """
    found = [(series, total) for series in _series(results, remembers=remembers) if (total := series.total(results)) is not None]
    if not found:
        raise NotMeasured("no requests were edited both at once and in smaller batches")
    yield from found


def sequential_batches(results: Results) -> RuleResult:
    """BS3: retained S of a quarter of the requests at a time is above that of all at once.

    Immediate S of the former against the latter, which is how the paper reads its table, is reported and decides nothing.

    Raises:
        NotMeasured: if no requests were edited at once and in four batches.
    """
    conditions, why = [], []
    for series, total in _totals(results, remembers=False):
        quarter = total // 4
        if quarter in series.editors and total in series.lengths(results, quarter):
            name = f"{_label(results, series)}: 4 batches of {quarter} − one of {total}"
            for reading, gap in _gaps(results, series, (quarter, total), total):
                if reading == RETAINED:
                    conditions.append(Condition(name, gap))
                else:
                    why.append(f"Immediate scores, the paper's reading: {name}: {show_estimate(gap, 'points')}.")
    if not conditions:
        raise NotMeasured("no requests were edited both at once and in four batches")
    return RuleResult(conditions, why)


def _gaps(results: Results, series: BatchSeries, sizes: tuple[int, int], total: int) -> Iterator[tuple[str, IntervalEstimate]]:
    """Difference of S between batches of two sizes after `total` requests, retained and immediate, where both are known."""
    for name, read in READINGS.items():

        def gap(left: RunKey, right: RunKey, read: Reading = read) -> IntervalEstimate:
            return score_difference(read(results, left, total), retained_scores(results, right, total))

        found = by_seed(results, series.panel, [series.editors[size] for size in sizes], gap)
        if found is not None:
            yield name, found


def memory_removes_size(results: Results) -> RuleResult:
    """BS4: with key history and all key directions free, S in batches of any size is that of all requests at once.

    Raises:
        NotMeasured: if there is no such editor.
    """
    conditions, why = [], []
    for series, total in _totals(results, remembers=True):
        for size in series.editors:
            if size != total and total in series.lengths(results, size):
                name = f"{_label(results, series)}: batches of {size} − one of {total}"
                gap = dict(_gaps(results, series, (size, total), total))[RETAINED]
                if series.is_confined:
                    why.append(f"In a null space, which is reported alone: {name}: {show_estimate(gap, 'points')}.")
                else:
                    allowed = f"{name}: {100 * EQUIVALENCE_MARGIN:.0f} pp − |difference|"
                    conditions.append(Condition(allowed, equivalence(gap, EQUIVALENCE_MARGIN)))
    if not conditions:
        raise NotMeasured("no editor with key history alone in batches of several sizes")
    return RuleResult(conditions, why)


def flattering_reading(results: Results) -> RuleResult:
    """BS5: immediate S at the smallest batch is above the retained S of the same requests.

    Raises:
        NotMeasured: if no editor logged scores right after its batches.
    """
    conditions = []
    for series, total in _totals(results, remembers=False):
        size = min(series.editors)
        runs = [run for run in results.runs_of(series.panel, series.editors[size]) if total in results.lengths(run)]
        if runs:
            gaps = [score_difference(immediate_scores(results, run, total), retained_scores(results, run, total)) for run in runs]
            name = f"{_label(results, series)}: immediate − retained, batches of {size}, {total} requests"
            conditions.append(Condition(name, over_seeds(gaps), READING_MARGIN))
    if not conditions:
        raise NotMeasured("no run of small batches logged scores right after them")
    return RuleResult(conditions)
