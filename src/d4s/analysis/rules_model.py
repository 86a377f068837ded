"""Rules about the model (C4–C7, C10): success along the sequence, norms, their correlation, and forgetting."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from d4s.analysis.display_names import method_name
from d4s.analysis.intervals import IntervalEstimate, correlation_interval, fall_interval, mean_interval, sum_interval
from d4s.analysis.norm_comparison import EFFICACY, norm_points
from d4s.analysis.pairs import by_seed
from d4s.analysis.study_results import Panel, Results, RunKey
from d4s.analysis.verdicts import Condition, NotMeasured, RuleResult, collect_missing, show, show_estimate

DECLINING_METHODS = ("rome", "memit")
NORM_COMPARED_METHODS = ("rome", "memit", "pmet")
FEWEST_EDITORS = 4


def panels_with_editor(results: Results, editors: Sequence[str]) -> Iterator[tuple[Panel, str]]:
    """Panels and editors on which a claim about single editors is judged.

    Raises:
        NotMeasured: if none was run.
    """
    found = [(panel, editor) for panel in results.main_panels for editor in editors if results.runs_of(panel, editor)]
    if not found:
        raise NotMeasured(f"no run of {' or '.join(map(method_name, editors))}")
    yield from found


def falling_success(results: Results) -> RuleResult:
    """C4: immediate success falls along the sequence."""
    conditions, why, missing = [], [], []
    for panel, editor in panels_with_editor(results, DECLINING_METHODS):
        name = f"{method_name(editor)}, {results.panel_name(panel)}"
        with collect_missing(missing):
            fall = by_seed(results, panel, [editor], lambda run: _fall(results, run, EFFICACY))
            if fall is not None:
                conditions.append(Condition(name, fall, margin=0.05))
                why += _drift(results, panel, editor, name)
    return RuleResult(conditions, why, missing=missing)


def _drift(results: Results, panel: Panel, editor: str, name: str) -> Iterator[str]:
    """Change of the optimised target probability along the sequence, as a sentence, where it was logged."""
    drifts = [_fall(results, run, "target_probability_after") for run in results.runs_of(panel, editor)]
    found = [drift.value for drift in drifts if not np.isnan(drift.value)]
    if found:
        change = show(-float(np.mean(found)), "points")
        yield f"{name}: the target's probability at the end of its optimisation changes by {change} along the fitted line."


def _fall(results: Results, run: RunKey, quantity: str) -> IntervalEstimate:
    """Fall of a quantity along the sequence; NaN where it was not logged.

    Raises:
        NotMeasured: if it is the efficacy and was not logged, or there is one edit only.
    """
    log = results.immediate(run)
    if quantity not in log:
        if quantity != EFFICACY:
            return IntervalEstimate(np.nan, np.nan, np.nan, 0)
        raise NotMeasured(f"{method_name(run.editor)} logged no {quantity} right after its edits")
    log = log.dropna(subset=quantity)
    if log["step"].nunique() < 2:
        raise NotMeasured(f"one edit of {method_name(run.editor)} has no slope")
    return fall_interval(log["step"].to_numpy(dtype=float), log[quantity].to_numpy(dtype=float))


# --- norms ------------------------------------------------------------------------------------------------------------


def norm_increments(results: Results, run: RunKey, length: int | None = None) -> np.ndarray:
    """Growth of the relative L1 norm by each edit, mean over the edited layers.

    With `length` there are that many values: a run that diverged earlier does not grow further.

    Raises:
        NotMeasured: if the norms were not logged, or those of the unedited model are not known.
    """
    path = results.norm_path(run)
    if path.empty:
        raise NotMeasured(f"no norms along the sequence of {method_name(run.editor)}, or none of the unedited model")
    growth = path.mean(axis=1).diff().iloc[1:][:length].to_numpy()
    return np.pad(growth, (0, (length or len(growth)) - len(growth)))


def growing_norm(results: Results) -> RuleResult:
    """C5: the L1 norm grows with the number of edits."""
    conditions, missing = [], []
    for panel, editor in panels_with_editor(results, DECLINING_METHODS):
        with collect_missing(missing):
            growth = by_seed(results, panel, [editor], lambda run: sum_interval(norm_increments(results, run)))
            if growth is not None:
                conditions.append(Condition(f"{method_name(editor)}, {results.panel_name(panel)}", growth, margin=0.05, unit="percent"))
    return RuleResult(conditions, missing=missing)


def lower_norm(results: Results) -> RuleResult:
    """C7: the L1 norm grows less with D4S than with ROME, MEMIT and PMET at the same number of edits.

    Raises:
        NotMeasured: if D4S and one of them were not both run.
    """
    conditions, why, missing = [], [], []
    for panel, rival in panels_with_editor(results, NORM_COMPARED_METHODS):
        length = results.shared_length(panel, ["d4s", rival])
        if not results.runs_of(panel, "d4s") or length is None:
            continue

        def gap(theirs: RunKey, ours: RunKey, length: int = length) -> IntervalEstimate:
            return sum_interval(norm_increments(results, theirs, length) - norm_increments(results, ours, length))

        with collect_missing(missing):
            growth = by_seed(results, panel, [rival, "d4s"], gap)
            if growth is not None:
                name = f"{method_name(rival)} − D4S, {length} edits, {results.panel_name(panel)}"
                conditions.append(Condition(name, growth, unit="percent"))
    if not conditions and not missing:
        raise NotMeasured("no run of D4S beside one of ROME, MEMIT or PMET")
    for panel in results.main_panels:
        why.append(f"Growth of the L1 norm on {results.panel_name(panel)}: {_norm_growths(results, panel)}.")
    return RuleResult(conditions, why, missing=missing)


def _norm_growths(results: Results, panel: Panel) -> str:
    parts = []
    for editor in results.editors(panel):
        paths = [results.norm_path(run) for run in results.runs_of(panel, editor)]
        ends = [float(path.iloc[[-1]].to_numpy().mean()) - 1 for path in paths if not path.empty]
        if ends:
            parts.append(f"{method_name(editor)} {show(float(np.mean(ends)), 'percent')}")
    return " · ".join(parts)


def norm_against_accuracy(results: Results) -> RuleResult:
    """C6: norm and retained accuracy are strongly negatively correlated over runs and lengths.

    Lengths and seeds of one editor are near copies of each other, so the bootstrap draws whole editors.

    Raises:
        NotMeasured: if too few editors have both, or one of them does not vary.
    """
    points = norm_points(results, results.main_panels)
    editors = [tuple(row) for row in points[["model", "dataset", "editor"]].itertuples(index=False)] if len(points) else []
    if len(set(editors)) < FEWEST_EDITORS:
        raise NotMeasured(f"{len(set(editors))} editors with norms and retained accuracy, {FEWEST_EDITORS} needed")
    log_norm, efficacy = np.log(points["norm"].to_numpy()), points["efficacy"].to_numpy()
    if constant := [name for name, values in (("norm", log_norm), ("retained efficacy", efficacy)) if np.ptp(values) == 0]:
        raise NotMeasured(f"all {len(points)} points have the same {' and the same '.join(constant)}")
    seeds = points["seed"].nunique()
    pooled = replace(correlation_interval(log_norm, efficacy, editors).scaled(-1.0), seeds=seeds)
    condition = Condition(
        f"−(Pearson correlation), {len(points)} points of {len(set(editors))} editors", pooled, margin=0.5, unit="correlation"
    )
    rank = _spearman(log_norm, efficacy)
    within = [
        f"{method_name(str(editor))} {show(_spearman(part['norm'], part['efficacy']), 'correlation')}"
        for editor, part in points.groupby("editor", sort=False)
        if len(part) > 2 and part["efficacy"].nunique() > 1
    ]
    why = [f"Pooled Spearman {show(rank, 'correlation')}."]
    if within:
        why.append(f"Spearman within each editor: {' · '.join(within)}.")
    return RuleResult([condition], why)


def _spearman(x: ArrayLike, y: ArrayLike) -> float:
    return float(np.asarray(stats.spearmanr(x, y))[0])


# --- forgetting -------------------------------------------------------------------------------------------------------


def hidden_forgetting(results: Results) -> RuleResult:
    """C10: retained accuracy is much lower than immediate accuracy of the same edits."""
    conditions, why, missing = [], [], []
    for panel, editor in panels_with_editor(results, DECLINING_METHODS):
        length = max(results.lengths(results.runs_of(panel, editor)[0]))
        with collect_missing(missing):
            gap = by_seed(results, panel, [editor], lambda run, length=length: forgetting(results, run, length))
            if gap is not None:
                conditions.append(Condition(f"{method_name(editor)}, {length} edits, {results.panel_name(panel)}", gap, margin=0.10))
    for panel in results.main_panels:
        for editor in results.editors(panel, references=False):
            if editor not in DECLINING_METHODS:
                why += _forgetting_of_others(results, panel, editor)
    return RuleResult(conditions, why, missing=missing)


def forgetting(results: Results, run: RunKey, length: int) -> IntervalEstimate:
    """Immediate minus retained efficacy of the first edits of a run, paired by edit.

    Raises:
        NotMeasured: if one of the two is missing.
    """
    log, kept = results.immediate(run), results.retained(run, length)
    if EFFICACY not in log or kept.empty:
        raise NotMeasured(f"{method_name(run.editor)} has no immediate or no retained efficacy")
    right_after = log[log["step"] <= length][EFFICACY]
    gap = (right_after - kept[EFFICACY]).dropna()
    return mean_interval(gap.to_numpy())


def _forgetting_of_others(results: Results, panel: Panel, editor: str) -> list[str]:
    try:
        length = max(results.lengths(results.runs_of(panel, editor)[0]))
        gap = by_seed(results, panel, [editor], lambda run: forgetting(results, run, length))
    except NotMeasured:
        return []
    return [f"{method_name(editor)}, {length} edits, {results.panel_name(panel)}: {show_estimate(gap, 'points')}."] if gap else []
