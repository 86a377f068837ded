"""Table: scores, fluency, perplexity and cost of an edit at every editor's longest length, for studies in which models write."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pandas as pd

from d4s.analysis.curves import at_step, summary_curve
from d4s.analysis.display_names import HEADLINE_METRICS, REFERENCES, dataset_name, method_name
from d4s.analysis.edit_costs import EditCost, edit_cost
from d4s.analysis.study_results import Panel, Results
from d4s.schemas import ENTROPY, LOOPS
from d4s.tables.table import Column, Table, TableSkipped

SCORES = dict(zip(HEADLINE_METRICS, ("Eff", "Par", "Spe"), strict=True))
COLUMNS = (
    *(Column(metric, header, "Scores, %", "high", factor=100.0) for metric, header in SCORES.items()),
    Column("average", "Avg", "Scores, %", "high", factor=100.0),
    Column(ENTROPY, "Entropy, bits", "Fluency", "high", digits=2, interval=True),
    Column(LOOPS, "Loops, %", "Fluency", "low", factor=100.0),
    Column("perplexity", "Perplexity", "Fluency", "low", digits=2),
    Column("editing", "Edit", "CPU-s per edit", "low", digits=2),
    Column("whole", "With preparation", "CPU-s per edit", "low", digits=2),
)


def table(results: Results) -> Table:
    """The table, a row per editor and length.

    Raises:
        TableSkipped: if nothing was written.
    """
    rows = [row for panel in results.panels for row in _rows(results, panel)]
    if not rows:
        raise TableSkipped("no model wrote anything: the study has no `measure.fluency`")
    caption = (
        "Retained scores, n-gram entropy of what is written about edited subjects with half a 95 % interval, the share of texts that end "
        "in a loop, perplexity of held-out text, and processor time per edit of the whole run, without and with what was prepared for "
        "the editor (prefixes, second moments, targets, sentences)."
    )
    return Table("Editing, fluency and cost", caption, ("method", "edits"), COLUMNS, pd.DataFrame(rows))


def _rows(results: Results, panel: Panel) -> Iterator[dict[str, Any]]:
    for editor in results.editors(panel):
        entropy = _retained(results, panel, editor, ENTROPY)
        perplexity = summary_curve(results, panel, editor, "state", "perplexity")
        costs = [found for run in results.runs_of(panel, editor) if (found := edit_cost(results, run)) is not None]
        for length in sorted(int(step) for step in entropy["step"]):
            found = {metric: _value(_retained(results, panel, editor, metric), length) for metric in (*HEADLINE_METRICS, LOOPS)}
            joint = at_step(entropy, length)
            scores = [found[metric] for metric in HEADLINE_METRICS]
            yield {
                "block": f"{dataset_name(panel.dataset)}, {panel.model}",
                "method": method_name(editor),
                "edits": length,
                "reference": editor in REFERENCES,
                **found,
                "average": float(np.mean(scores)),
                **({ENTROPY: joint.value, f"{ENTROPY}_low": joint.low, f"{ENTROPY}_high": joint.high} if joint else {}),
                "perplexity": _value(perplexity, length),
                "editing": _mean(costs, lambda cost: cost.editing_per_edit),
                "whole": _mean(costs, lambda cost: cost.per_edit),
            }


def _retained(results: Results, panel: Panel, editor: str, metric: str) -> pd.DataFrame:
    return summary_curve(results, panel, editor, "retained", metric)


def _value(curve: pd.DataFrame, length: int) -> float:
    joint = at_step(curve, length)
    return float("nan") if joint is None else joint.value


def _mean(costs: list[EditCost], number: Callable[[EditCost], float]) -> float:
    return float(np.mean([number(cost) for cost in costs])) if costs else float("nan")
