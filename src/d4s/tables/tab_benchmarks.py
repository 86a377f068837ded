"""Table: benchmark scores of the unedited model and after the edits, and the change of their mean."""

from typing import Any

import numpy as np
import pandas as pd

from d4s.analysis.display_names import REFERENCES, dataset_name, method_name, task_name
from d4s.analysis.intervals import IntervalEstimate, over_seeds
from d4s.analysis.study_results import Panel, Results
from d4s.analysis.summary_rows import task_score
from d4s.tables.table import Column, Table, TableSkipped


def table(results: Results) -> Table:
    """The table, a block per data set and length, a row per editor.

    Raises:
        TableSkipped: if no benchmark was run.
    """
    tasks = sorted(set(results.benchmark["task"]))
    rows = [row for panel in results.panels for row in _rows(results, panel, tasks)]
    if not rows:
        raise TableSkipped("no benchmarks were run")
    columns = [
        *(Column(task, task_name(task), best="high", factor=100.0) for task in tasks),
        Column("mean", "Mean", best="high", factor=100.0, interval=True),
        Column("change", "Change", best="high", factor=100.0, signed=True),
    ]
    task_origin = "tasks made from the world in the shapes of the paper's six" if results.has_world_tasks else "benchmark tasks"
    caption = (
        f"Scores (%) on {task_origin}, about {int(results.benchmark['n'].median())} items each; ± is half a 95 % interval from the tasks' "
        "standard errors (over seeds with several). Change: of the mean, against the unedited model. Best in bold, second underlined."
    )
    return Table("Benchmarks after editing", caption, ("method",), tuple(columns), pd.DataFrame(rows))


def _rows(results: Results, panel: Panel, tasks: list[str]) -> list[dict[str, Any]]:
    base = results.unedited_tasks(panel.model)
    runs = [run for run in results.runs if run.panel == panel and run.editor != "unedited"]
    rows = []
    for length in sorted({length for run in runs for length in results.benchmark_lengths(run)}):
        block = f"{dataset_name(panel.dataset)}, {panel.model}, {length} edits"
        for editor in results.editors(panel):
            scored = [results.tasks(run, length) for run in results.runs_of(panel, editor) if editor != "unedited"]
            scored = [table for table in scored if len(table)]
            if scored:
                rows.append({"block": block, **_row(editor, scored, base, tasks)})
        if len(base):
            rows.append({"block": block, **_row("unedited", [base], base, tasks)})
    return rows


def _row(editor: str, scored: list[pd.DataFrame], base: pd.DataFrame, tasks: list[str]) -> dict[str, Any]:
    mean: IntervalEstimate = over_seeds([task_score(table).estimate for table in scored])
    start = task_score(base).mean if len(base) else np.nan
    each = {task: float(np.mean([table["value"].get(task, np.nan) for table in scored])) for task in tasks}
    return {
        "method": method_name(editor),
        "reference": editor in REFERENCES,
        **each,
        "mean": mean.value,
        "mean_low": mean.low,
        "mean_high": mean.high,
        "change": np.nan if editor == "unedited" else mean.value - start,
    }
