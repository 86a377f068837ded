"""Table: scores of all editors at every length of a study of memories, with what routers did and where answers in scope went wrong."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from d4s.analysis.curves import at_step, summary_curve
from d4s.analysis.display_names import HEADLINE_METRICS, REFERENCES, dataset_name, method_name
from d4s.analysis.memory_results import ERRORS, MemoryResults
from d4s.analysis.study_results import Panel, Results
from d4s.schemas import NEAR_MISSES
from d4s.tables.table import Column, Table, TableSkipped

SCORES = dict(zip(HEADLINE_METRICS, ("Eff", "Par", "Spe"), strict=True))
COLUMNS = (
    *(Column(metric, header, "Scores, %", "high", factor=100.0) for metric, header in SCORES.items()),
    Column("average", "Avg", "Scores, %", "high", factor=100.0),
    Column(NEAR_MISSES, "Near misses", "Scores, %", "high", factor=100.0),
    Column("recall", "Recall", "Router, %", "high", factor=100.0),
    Column("precision", "Precision", "Router, %", "high", factor=100.0),
    *(Column(error, error.capitalize(), "Wrong in scope, %", "low", factor=100.0) for error in ERRORS),
)


def table(results: Results) -> Table:
    """The table, a row per editor and length.

    Raises:
        TableSkipped: if no memory was asked.
    """
    memory = MemoryResults(results)
    rows = [row for panel in results.panels if memory.editors(panel) for row in _rows(memory, panel)]
    if not rows:
        raise TableSkipped("no memory was asked: the study has no `measure.memory`")
    caption = (
        "Retained scores; the share of answers to near misses (another relation of the subject, or a bystander who shares a name) that are "
        "still the unedited model's; of routers the share of edits' own prompts and paraphrases that reach their entry, and of prompts "
        "that reach an entry those that belong there; and the shares of edits' own prompts and paraphrases that are answered wrongly "
        "because the router missed them, because it chose a wrong entry, and although it chose the right one."
    )
    return Table("Memories: scores, routes and errors", caption, ("method", "edits"), COLUMNS, pd.DataFrame(rows))


def _rows(memory: MemoryResults, panel: Panel) -> Iterator[dict[str, Any]]:
    results = memory.results
    for editor in results.editors(panel):
        curves = {metric: summary_curve(results, panel, editor, "retained", metric) for metric in (*HEADLINE_METRICS, NEAR_MISSES)}
        for length in sorted({length for run in results.runs_of(panel, editor) for length in results.lengths(run)}):
            found = {metric: joint.value if (joint := at_step(curve, length)) else np.nan for metric, curve in curves.items()}
            yield {
                "block": f"{dataset_name(panel.dataset)}, {panel.model}",
                "method": method_name(editor),
                "edits": length,
                "reference": editor in REFERENCES,
                **found,
                "average": float(np.mean([found[metric] for metric in HEADLINE_METRICS])),
                **_routing(memory, panel, editor, length),
            }


def _routing(memory: MemoryResults, panel: Panel, editor: str, length: int) -> dict[str, float]:
    """Means over seeds of what the router did; not a number where there is none."""
    columns = ("recall", "precision", *ERRORS)
    if editor not in memory.editors(panel):
        return dict.fromkeys(columns, np.nan)
    rows = []
    for run in memory.results.runs_of(panel, editor):
        rates, answers = memory.rates(run, length), memory.answers_in_scope(run, length)
        rows.append([rates["recall"], rates["precision"], *(float(answers[error].mean()) for error in ERRORS)])
    return dict(zip(columns, np.mean(rows, axis=0).tolist(), strict=True))
