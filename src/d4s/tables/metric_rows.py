"""Rows of tables from the summary: an editor's retained metrics at the longest length at which one of them was measured."""

from collections.abc import Sequence
from typing import Any

from d4s.analysis.curves import at_step, summary_curve
from d4s.analysis.display_names import REFERENCES, dataset_name, method_name
from d4s.analysis.study_results import Panel, Results


def metric_row(results: Results, panel: Panel, editor: str, metrics: Sequence[str]) -> dict[str, Any] | None:
    """The row of an editor, with each metric's mean, interval and count where there are any; None where the first metric has none."""
    curves = {metric: summary_curve(results, panel, editor, "retained", metric) for metric in metrics}
    if curves[metrics[0]].empty:
        return None
    length = int(curves[metrics[0]]["step"].max())
    row: dict[str, Any] = {
        "block": f"{dataset_name(panel.dataset)}, {panel.model}",
        "method": method_name(editor),
        "edits": length,
        "reference": editor in REFERENCES,
    }
    for metric, curve in curves.items():
        if joint := at_step(curve, length):
            row |= {metric: joint.value, f"{metric}_low": joint.low, f"{metric}_high": joint.high, f"{metric}_n": joint.n}
    return row
