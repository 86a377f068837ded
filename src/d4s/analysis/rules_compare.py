"""Rules that compare D4S with other methods (C8, C9, X2): average scores, benchmarks, and the one-time batch edit."""

from collections.abc import Callable

import numpy as np

from d4s.analysis.display_names import HEADLINE_METRICS, LONG_SEQUENCE, METRIC_NAMES, PAPER_METHODS, REFERENCES, method_name
from d4s.analysis.intervals import IntervalEstimate, equivalence, normal_interval
from d4s.analysis.norm_comparison import change_ratio
from d4s.analysis.pairs import average_gap, by_seed, score_gap
from d4s.analysis.study_results import Panel, Results, RunKey
from d4s.analysis.summary_rows import task_score
from d4s.analysis.verdicts import Condition, NotMeasured, RuleResult, collect_missing, show_estimate

EQUIVALENCE_MARGIN = 0.05
OURS = "d4s"


def best_average(results: Results) -> RuleResult:
    """C8: D4S has the best mean of retained efficacy, paraphrase and specificity at every length of at least `LONG_SEQUENCE` edits.

    Raises:
        NotMeasured: if D4S and another of the paper's methods were not both run.
    """
    conditions, why, missing = [], [], []
    for panel in _panels_with(results, OURS):
        for length in _long_lengths(results.lengths(results.runs_of(panel, OURS)[0])):
            for rival in results.editors(panel, references=False):
                name = f"D4S − {method_name(rival)}, {length} edits, {results.panel_name(panel)}"
                is_judged = rival in PAPER_METHODS
                with collect_missing(missing if is_judged else []):
                    gap = _average_gap(results, panel, rival, length)
                    if gap is not None and is_judged:
                        conditions.append(Condition(name, gap))
                    elif gap is not None:
                        why.append(f"Not in the paper's table: {name}: {show_estimate(gap, 'points')}.")
    if not conditions and not missing:
        raise NotMeasured("no run of D4S beside one of the paper's other methods")
    return RuleResult(conditions, why, missing=missing)


def _panels_with(results: Results, editor: str) -> list[Panel]:
    panels = [panel for panel in results.main_panels if results.runs_of(panel, editor)]
    if not panels:
        raise NotMeasured(f"no run of {method_name(editor)}")
    return panels


def _long_lengths(lengths: list[int]) -> list[int]:
    return [length for length in lengths if length >= LONG_SEQUENCE] or lengths[-1:]


def _average_gap(results: Results, panel: Panel, rival: str, length: int) -> IntervalEstimate | None:
    has_both = all(length in results.lengths(run) for run in results.runs_of(panel, rival))
    return average_gap(results, panel, (OURS, rival), length) if rival != OURS and has_both else None


def least_benchmark_damage(results: Results) -> RuleResult:
    """C9: after the longest sequence the benchmark scores of D4S have changed least.

    Raises:
        NotMeasured: if D4S and another of the paper's methods have no benchmarks at one length.
    """
    conditions, why = [], []
    for panel in _panels_with(results, OURS):
        for rival in results.editors(panel, references=False):
            length = results.shared_benchmark_length(panel, [OURS, rival])
            if rival == OURS or length is None:
                continue
            gap = by_seed(results, panel, [OURS, rival], _benchmark_gap(results, length))
            name = f"D4S − {method_name(rival)}, {length} edits, {results.panel_name(panel)}"
            if gap is not None and rival in PAPER_METHODS:
                conditions.append(Condition(name, gap))
            elif gap is not None:
                why.append(f"Not in the paper's table: {name}: {show_estimate(gap, 'points')}.")
    if not conditions:
        raise NotMeasured("no benchmarks of D4S beside those of one of the paper's other methods")
    return RuleResult(conditions, why)


def _benchmark_gap(results: Results, length: int) -> Callable[[RunKey, RunKey], IntervalEstimate]:
    def gap(ours: RunKey, theirs: RunKey) -> IntervalEstimate:
        left, right = (task_score(results.tasks(run, length)) for run in (ours, theirs))
        return normal_interval(left.mean - right.mean, float(np.hypot(left.error, right.error)), left.n)

    return gap


def _is_refit(results: Results, panel: Panel, editor: str) -> bool:
    return results.editor_settings(panel.model, editor).get("history") == {"kind": "refit"}


def same_as_batch(results: Results) -> RuleResult:
    """X2: D4S gives the scores of one batch edit of the same requests with the same preserved matrix.

    Raises:
        NotMeasured: if D4S and the one-time batch were not both run, or preserve by different settings.
    """
    conditions, why = [], []
    for panel in _panels_with(results, "one_time_batch"):
        for editor in results.editors(panel):
            length = results.shared_length(panel, [editor, "one_time_batch"])
            if length is None or editor in REFERENCES or not (editor == OURS or _is_refit(results, panel, editor)):
                continue
            if difference := _preservation_difference(results, panel, editor):
                why.append(difference)
                continue
            for metric in HEADLINE_METRICS:
                gap = score_gap(results, panel, (editor, "one_time_batch"), length, metric)
                name = f"{METRIC_NAMES[metric]} of {method_name(editor)} − batch, {length} edits, {results.panel_name(panel)}"
                if gap is not None and editor == OURS:
                    conditions.append(
                        Condition(f"{name}: {EQUIVALENCE_MARGIN * 100:.0f} pp − |difference|", equivalence(gap, EQUIVALENCE_MARGIN))
                    )
                if gap is not None:
                    why.append(f"{name}: {show_estimate(gap, 'points')}.")
            ratio = change_ratio(results, panel, (editor, "one_time_batch"), length)
            if ratio is not None:
                why.append(
                    f"Norm of the change, {method_name(editor)} over batch, {length} edits, {results.panel_name(panel)}: ×{ratio:.2f}."
                )
    if not conditions:
        raise NotMeasured(" ".join(["no run of D4S beside a one-time batch edit that preserves alike", *why]))
    return RuleResult(conditions, why)


def _preservation_difference(results: Results, panel: Panel, editor: str) -> str:
    """How an editor's preserved matrix differs from the batch's, in words; empty where they are equal."""
    ours, theirs = (results.editor_settings(panel.model, name).get("preservation") for name in (editor, "one_time_batch"))
    return "" if ours == theirs else f"{method_name(editor)} preserves by {ours}, the batch by {theirs}: not compared."
