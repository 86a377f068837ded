"""The rule about the norm as a cause (X1): the loss by a random change of the same norm, as a share of the loss by the edits."""

from collections.abc import Iterator, Sequence

import numpy as np

from d4s.analysis.display_names import method_name
from d4s.analysis.intervals import IntervalEstimate, bootstrap, percentiles, weighted_means
from d4s.analysis.norm_comparison import norm_at
from d4s.analysis.pairs import by_seed, shared_scores
from d4s.analysis.study_results import Panel, Results, RunKey
from d4s.analysis.summary_rows import task_score
from d4s.analysis.verdicts import Condition, NotMeasured, RuleResult, collect_missing, show
from d4s.editors.control_editors import EditorControl

SPECIFICITY = "locality_accuracy"
MIN_LOSS_SHARE = 0.5
MIN_LOSS = 0.05


def norm_as_cause(results: Results) -> RuleResult:
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
        with collect_missing(missing if is_judged else []):
            share, lost, left = _effects(results, panel, control, length)
            where = f"{method_name(control.base)}, {length} edits, {results.panel_name(panel)}"
            why.append(f"{where}: {_loss(results, panel, control, length, (lost, left))}.")
            is_measured |= is_judged
            if is_judged and lost.value > MIN_LOSS:
                conditions.append(Condition(f"Loss scrambled over loss as edited, {where}", share, margin=MIN_LOSS_SHARE, unit="percent"))
            elif is_judged:
                why.append(f"{where}: not judged, since these edits cost no more than {MIN_LOSS * 100:.0f} pp.")
    if not is_measured and not missing:
        raise NotMeasured("it needs an editor with the delta_transform `scramble` beside the same editor without a delta_transform")
    none_lost = "no editor with such a control loses enough accuracy to ask why" if is_measured and not conditions else ""
    return RuleResult(conditions, why, none_lost, missing)


def _controls(results: Results) -> Iterator[tuple[Panel, EditorControl]]:
    for panel in results.main_panels:
        for control in results.controls(panel):
            yield panel, control


def _length(results: Results, panel: Panel, control: EditorControl) -> int | None:
    """The longest length at which both have benchmarks, else the longest shared one."""
    editors = (control.base, control.editor)
    return results.shared_benchmark_length(panel, editors) or results.shared_length(panel, editors)


def _effects(results: Results, panel: Panel, control: EditorControl, length: int) -> tuple[IntervalEstimate, ...]:
    """The control's loss as a share of the editor's, the editor's loss, and the control's, over the shared seeds.

    Raises:
        NotMeasured: if they share no seed, or no facts within one.
    """
    editors = [control.base, control.editor]
    found = [by_seed(results, panel, editors, lambda *runs, n=number: losses(results, runs, length)[n]) for number in range(3)]
    if any(estimate is None for estimate in found):
        raise NotMeasured(f"{' and '.join(map(method_name, editors))} share no seed")
    return tuple(estimate for estimate in found if estimate is not None)


def losses(results: Results, runs: Sequence[RunKey], length: int) -> tuple[IntervalEstimate, IntervalEstimate, IntervalEstimate]:
    """Accuracy lost by a control as a share of that lost by its editor, then the editor's loss and the control's.

    The loss is the mean of the losses of specificity and of the mean benchmark score, that of specificity alone where there
    are no benchmarks. Facts are resampled alike on both sides; benchmark scores are redrawn from their standard errors.

    Raises:
        NotMeasured: if the runs share no facts.
    """
    specificity = np.hstack(shared_scores(results, runs[0], runs[1], length, [SPECIFICITY]))
    if specificity.shape[1] != 2 or not len(specificity):
        raise NotMeasured(f"{' and '.join(method_name(run.editor) for run in runs)} share no specificity at {length} edits")
    values, draws = (
        1 - np.nanmean(specificity, axis=0),
        1 - bootstrap(len(specificity), lambda weights: weighted_means(specificity, weights)),
    )
    tables = [results.unedited_tasks(runs[0].model), *(results.tasks(run, length) for run in runs)]
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
        IntervalEstimate(float(value), float(low), float(high), len(specificity))
        for value, (low, high) in zip(numbers, limits, strict=True)
    )
    return share, lost, left


def _loss(results: Results, panel: Panel, control: EditorControl, length: int, lost: Sequence[IntervalEstimate]) -> str:
    """The losses of editor and control, each with its norm, as a sentence."""
    names = ("as edited", "scrambled" if control.kind == "scramble" else f"times {control.factor:g}")
    norms = [norm_at(results, panel, editor, length) for editor in (control.base, control.editor)]
    parts = [
        f"{show(loss.value, 'points', signed=False)} lost {name}" + (f" (norm ×{norm.value:.2f})" if norm else "")
        for name, loss, norm in zip(names, lost, norms, strict=True)
    ]
    return ", ".join(parts)
