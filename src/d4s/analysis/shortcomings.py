"""Warnings for readers of a report: claims that do not hold, collapsed runs, and limits of what was measured."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from d4s.analysis.curves import summary_curve
from d4s.analysis.display_names import HEADLINE_METRICS, method_name
from d4s.analysis.study_results import Panel, Results

COLLAPSE_RATIO = 10.0


def shortcomings(results: Results, verdicts: Sequence[Mapping[str, Any]], criteria: Mapping[str, Any] | None = None) -> list[str]:
    """The sentences, most important first; `criteria` is the content of criteria.json, by model."""
    return [
        *_failed_claims(verdicts),
        *_failed_criteria(criteria or {}),
        *_collapses(results),
        *_identical_methods(results),
        *_best_elsewhere(results),
        *_limits(results, verdicts),
    ]


def _failed_claims(verdicts: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    for entry in verdicts:
        if entry["verdict"] == "does not hold":
            failed = [condition["name"] for condition in entry["conditions"] if condition["verdict"] == "does not hold"]
            more = f" and {len(failed) - 3} more" if len(failed) > 3 else ""
            yield f"{entry['id']} does not hold: “{entry['statement']}” fails for {'; '.join(failed[:3])}{more}."


def _failed_criteria(criteria: Mapping[str, Any]) -> Iterator[str]:
    for model, checked in criteria.items():
        for row in checked["criteria"]:
            if not row["passed"]:
                name = str(row["criterion"]).replace("_", " ")
                yield f"The model {model} fails a criterion: {name} ({row['subject']}) is {row['value']:.3g}, below {row['threshold']:g}."


def _collapses(results: Results) -> Iterator[str]:
    rows = results.summary
    rows = rows[(rows["metric"] == "perplexity_ratio") & (rows["mean"] > COLLAPSE_RATIO)]
    for name, part in _by_editor(results, rows):
        steps = ", ".join(str(step) for step in sorted(set(part["step"])))
        yield f"{name} collapsed (perplexity above {COLLAPSE_RATIO:.0f} times the unedited model's) at {steps} edits."
    for name, part in _by_editor(results, results.index.dropna(subset="diverged_at")):
        step = int(part["diverged_at"].min())
        yield f"{name} diverged at edit {step}; later lengths show its last finite state."


def _by_editor(results: Results, rows: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """Rows of each editor in each panel, keyed by a display name for both."""
    for (model, dataset, editor), part in rows.groupby(["model", "dataset", "editor"], sort=False):  # type: ignore[misc]
        yield f"{method_name(str(editor))} on {results.panel_name(Panel(str(model), str(dataset)))}", part


def _identical_methods(results: Results) -> Iterator[str]:
    """Methods with identical scores on a data set, which count as one method there."""
    for panel in results.main_panels:
        numbers: dict[bytes, list[str]] = {}
        for editor, part in results.retained_means(panel).groupby("editor", sort=False):
            scores = part.sort_values(["seed", "step", "metric"])[["seed", "step", "metric", "mean"]]
            numbers.setdefault(scores.to_csv(index=False).encode(), []).append(method_name(str(editor)))
        for names in numbers.values():
            if len(names) > 1:
                yield f"{' and '.join(names)} give the very same scores on {results.panel_name(panel)}: they count for one method there."


def _best_elsewhere(results: Results) -> Iterator[str]:
    """A method outside the paper with the best average at the longest length that all methods share."""
    for panel in results.main_panels:
        curves = {editor: _averages(results, panel, editor) for editor in results.editors(panel, references=False)}
        scored = {editor: curve for editor, curve in curves.items() if curve}
        length = results.shared_length(panel, scored)
        averages = {editor: curve[length] for editor, curve in scored.items() if length in curve}
        best = max(averages, key=averages.__getitem__, default=None)
        if best and best != "d4s" and "d4s" in averages:
            yield (
                f"On {results.panel_name(panel)} the best average after {length} edits, the longest length that all methods share, is that "
                f"of {method_name(best)} ({averages[best] * 100:.1f} %), not of D4S as released ({averages['d4s'] * 100:.1f} %)."
            )


def _averages(results: Results, panel: Panel, editor: str) -> dict[int, float]:
    """Mean of an editor's retained headline scores by length, where all of them are known."""
    curves = [summary_curve(results, panel, editor, "retained", metric).set_index("step")["mean"] for metric in HEADLINE_METRICS]
    means = pd.concat(curves, axis=1).mean(axis=1, skipna=False).dropna()
    return {int(step): mean for step, mean in zip(means.index, means.tolist(), strict=True)}


def _limits(results: Results, verdicts: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    if len(results.seeds) == 1:
        yield "One seed: intervals are over facts, and say nothing about another order of edits or another training of the model."
    models = results.study.get("models", {})
    if any(model.get("source") in {"world", "records"} for model in models.values()):
        yield (
            "The model is small and was trained here on what it is asked. Its numbers show mechanisms, not how far a large model would "
            "fall; its perplexities of counterfactual targets are those of a confident model."
        )
    missing = [entry["id"] for entry in verdicts if entry["verdict"] == "not measured"]
    if missing:
        yield f"Not measured in this study: {', '.join(missing)}."
