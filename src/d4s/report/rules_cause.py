"""The rule about the norm as a cause (X1): what a random change of the same norm costs, as a share of what the edits cost."""

from collections.abc import Iterator, Sequence

import numpy as np

from d4s.report.verdicts import Condition, Finding, NotMeasured, set_aside, show
from d4s.studies.controls import Control
from d4s.studies.intervals import Estimate, bootstrap, percentiles, weighted_means
from d4s.studies.names import method_name
from d4s.studies.norms import norm_at
from d4s.studies.pairs import by_seed, shared_scores
from d4s.studies.results import Panel, Results, Run
from d4s.studies.summaries import task_score

SPECIFICITY = "locality_accuracy"
HALF = 0.5
FALL = 0.05


def norm_as_cause(results: Results) -> Finding:
    """X1: a scrambled change loses more than half of the accuracy that the change itself loses.

    Raises:
        NotMeasured: if no editor has a scrambled control with scores at a length that both share.
    """
    conditions, why, missing, is_measured = [], [], [], False
    for panel, control in _controls(results):
        length = _length(results, panel, control)
        if length is None:
            continue
        is_judged = control.kind == "scramble"
        with set_aside(missing if is_judged else []):
            share, lost, left = _effects(results, panel, control, length)
            where = f"{method_name(control.base)}, {length} edits, {results.place(panel)}"
            why.append(f"{where}: {_loss(results, panel, control, length, (lost, left))}.")
            is_measured |= is_judged
            if is_judged and lost.value > FALL:
                conditions.append(Condition(f"Loss scrambled over loss as edited, {where}", share, margin=HALF, unit="percent"))
            elif is_judged:
                why.append(f"{where}: not judged, since these edits cost no more than {FALL * 100:.0f} pp.")
    if not is_measured and not missing:
        raise NotMeasured("it needs an editor with the finish `scramble` beside the same editor without a finish")
    none_lost = "no editor with such a control loses enough accuracy to ask why" if is_measured and not conditions else ""
    return Finding(conditions, why, none_lost, missing)


def _controls(results: Results) -> Iterator[tuple[Panel, Control]]:
    for panel in results.main_panels:
        for control in results.controls(panel):
            yield panel, control


def _length(results: Results, panel: Panel, control: Control) -> int | None:
    """The longest length at which both have benchmarks, else the longest that both have."""
    editors = (control.base, control.editor)
    return results.shared_benchmark_length(panel, editors) or results.shared_length(panel, editors)


def _effects(results: Results, panel: Panel, control: Control, length: int) -> tuple[Estimate, ...]:
    """The control's loss as a share of the editor's, the editor's loss, and the control's, over the seeds that both share.

    Raises:
        NotMeasured: if they share no seed, or no facts within one.
    """
    editors = [control.base, control.editor]
    found = [by_seed(results, panel, editors, lambda *runs, n=number: losses(results, runs, length)[n]) for number in range(3)]
    if any(estimate is None for estimate in found):
        raise NotMeasured(f"{' and '.join(map(method_name, editors))} share no seed")
    return tuple(estimate for estimate in found if estimate is not None)


def losses(results: Results, runs: Sequence[Run], length: int) -> tuple[Estimate, Estimate, Estimate]:
    """Accuracy lost by a control as a share of that lost by its editor, then the editor's loss and the control's.

    Lost accuracy is the mean of what specificity and the mean benchmark score have lost, specificity alone where there
    are no benchmarks. Facts are resampled, the same ones on both sides; benchmark scores are redrawn with their errors.

    Raises:
        NotMeasured: if the runs share no facts.
    """
    kept = np.hstack(shared_scores(results, runs[0], runs[1], length, [SPECIFICITY]))
    if kept.shape[1] != 2 or not len(kept):
        raise NotMeasured(f"{' and '.join(method_name(run.editor) for run in runs)} share no specificity at {length} edits")
    values, draws = 1 - np.nanmean(kept, axis=0), 1 - bootstrap(len(kept), lambda weights: weighted_means(kept, weights))
    tables = [results.base_tasks(runs[0].model), *(results.tasks(run, length) for run in runs)]
    if all(len(table) for table in tables):
        scores = [task_score(table) for table in tables]
        means, errors = (np.array([getattr(score, name) for score in scores]) for name in ("mean", "error"))
        drawn = means + np.random.default_rng(0).normal(size=(len(draws), len(means))) * errors
        values = (values + means[0] - means[1:]) / 2
        draws = (draws + drawn[:, :1] - drawn[:, 1:]) / 2
    with np.errstate(divide="ignore", invalid="ignore"):
        numbers = [values[1] / values[0], values[0], values[1]]
        limits = [percentiles(column) for column in (draws[:, 1] / draws[:, 0], draws[:, 0], draws[:, 1])]
    share, lost, left = (
        Estimate(float(value), float(low), float(high), len(kept)) for value, (low, high) in zip(numbers, limits, strict=True)
    )
    return share, lost, left


def _loss(results: Results, panel: Panel, control: Control, length: int, lost: Sequence[Estimate]) -> str:
    """What editor and control lost, each with its norm."""
    names = ("as edited", "scrambled" if control.kind == "scramble" else f"times {control.factor:g}")
    norms = [norm_at(results, panel, editor, length) for editor in (control.base, control.editor)]
    parts = [
        f"{show(loss.value, 'points', signed=False)} lost {name}" + (f" (norm ×{norm.value:.2f})" if norm else "")
        for name, loss, norm in zip(names, lost, norms, strict=True)
    ]
    return ", ".join(parts)
