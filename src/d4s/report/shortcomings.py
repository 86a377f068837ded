"""What a reader should know before quoting anything: what disappointed, what collapsed, what the numbers cannot say."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from d4s.studies.curves import summary_curve
from d4s.studies.names import HEADLINE, dataset_name, method_name
from d4s.studies.results import Results

COLLAPSE = 10.0


def shortcomings(results: Results, verdicts: Sequence[Mapping[str, Any]]) -> list[str]:
    """Sentences in the order in which they matter."""
    return [*_against(verdicts), *_collapsed(results), *_best_elsewhere(results), *_limits(results, verdicts)]


def _against(verdicts: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    for entry in verdicts:
        if entry["verdict"] == "does not hold":
            failed = [condition["name"] for condition in entry["conditions"] if condition["verdict"] == "does not hold"]
            more = f" and {len(failed) - 3} more" if len(failed) > 3 else ""
            yield f"{entry['id']} does not hold: “{entry['statement']}” fails for {'; '.join(failed[:3])}{more}."


def _collapsed(results: Results) -> Iterator[str]:
    rows = results.summary
    rows = rows[(rows["metric"] == "perplexity_ratio") & (rows["mean"] > COLLAPSE)]
    for (dataset, editor), part in rows.groupby(["dataset", "editor"], sort=False):
        steps = ", ".join(str(step) for step in sorted(set(part["step"])))
        yield f"{_named(editor, dataset)} collapsed (perplexity above {COLLAPSE:.0f} times the unedited model's) at {steps} edits."
    ended = results.index.dropna(subset="diverged_at")
    for (dataset, editor), part in ended.groupby(["dataset", "editor"], sort=False):
        step = int(part["diverged_at"].min())
        yield f"{_named(editor, dataset)} diverged at edit {step}; later lengths show its last finite state."


def _named(editor: object, dataset: object) -> str:
    return f"{method_name(str(editor))} on {dataset_name(str(dataset))}"


def _best_elsewhere(results: Results) -> Iterator[str]:
    """Where a method that is not the paper's has the best average at the longest length."""
    for panel in results.main_panels:
        averages = {}
        for editor in results.editors(panel, references=False):
            curves = [summary_curve(results, panel, editor, "retained", metric) for metric in HEADLINE]
            if all(len(curve) for curve in curves):
                averages[editor] = sum(float(curve["mean"].iloc[-1]) for curve in curves) / len(curves)
        best = max(averages, key=averages.__getitem__, default=None)
        if best and best != "d4s" and "d4s" in averages:
            yield (
                f"On {dataset_name(panel.dataset)} the best average at the longest length is that of {method_name(best)} "
                f"({averages[best] * 100:.1f} %), not of D4S as released ({averages['d4s'] * 100:.1f} %)."
            )


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
