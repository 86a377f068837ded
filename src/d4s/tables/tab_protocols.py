"""Table: immediate and retained scores at the longest length, and their difference."""

from typing import Any

import numpy as np
import pandas as pd

from d4s.analysis.display_names import HEADLINE_METRICS, METRIC_NAMES, dataset_name, method_name
from d4s.analysis.intervals import IntervalEstimate, mean_interval, over_seeds
from d4s.analysis.study_results import Panel, Results, RunKey
from d4s.tables.table import Best, Column, Table, TableSkipped

PROTOCOL_HEADERS = {"now": "At once", "later": "Retained", "gap": "Gap"}


def table(results: Results) -> Table:
    """The table, a row per data set and editor.

    Raises:
        TableSkipped: if no run logged scores right after its edits.
    """
    rows = [_row(results, panel, editor) for panel in results.panels for editor in results.editors(panel, references=False)]
    rows = [row for row in rows if not np.isnan(row["efficacy_accuracy_now"])]
    if not rows:
        raise TableSkipped("no run logged scores right after its edits")
    block_names = list(dict.fromkeys(row["block"] for row in rows))
    rows.sort(key=lambda row: (block_names.index(row["block"]), row["edits"]))
    for place in block_names:
        of_place = [row for row in rows if row["block"] == place]
        for row in of_place if len({row["edits"] for row in of_place}) > 1 else ():
            row["block"] += f", {row['edits']} edits"
    columns = [
        _column(metric, kind)
        for metric in HEADLINE_METRICS
        for kind in PROTOCOL_HEADERS
        if not np.isnan([row[f"{metric}_{kind}"] for row in rows]).all()
    ]
    caption = (
        "Scores (%) right after each edit and after the whole sequence, on the same edits, and the gap between them in points, with half "
        "of its 95 % interval (paired by edit). Right after an edit at most three probes of a "
        "kind are asked. Best in bold, second underlined."
    )
    return Table("Immediate against retained scores", caption, ("method", "edits"), tuple(columns), pd.DataFrame(rows))


def _column(metric: str, kind: str) -> Column:
    is_gap = kind == "gap"
    best: Best = "low" if is_gap else "high"
    return Column(f"{metric}_{kind}", PROTOCOL_HEADERS[kind], METRIC_NAMES[metric], best, factor=100.0, signed=is_gap, interval=is_gap)


def _row(results: Results, panel: Panel, editor: str) -> dict[str, Any]:
    runs = results.runs_of(panel, editor)
    length = max(results.lengths(runs[0]))
    row: dict[str, Any] = {
        "block": f"{dataset_name(panel.dataset)}, {panel.model}",
        "method": method_name(editor),
        "edits": length,
        "reference": False,
    }
    for metric in HEADLINE_METRICS:
        pairs = [_pairs(results, run, length, metric) for run in runs]
        for kind, of in {"now": lambda p: p["now"], "later": lambda p: p["later"], "gap": lambda p: p["now"] - p["later"]}.items():
            found = [mean_interval(of(pair).to_numpy(dtype=float)) for pair in pairs if len(pair)]
            joint = over_seeds(found) if found else IntervalEstimate(np.nan, np.nan, np.nan, 0)
            row |= {f"{metric}_{kind}": joint.value, f"{metric}_{kind}_low": joint.low, f"{metric}_{kind}_high": joint.high}
    return row


def _pairs(results: Results, run: RunKey, length: int, metric: str) -> pd.DataFrame:
    log, kept = results.immediate(run), results.retained(run, length)
    if metric not in log or metric not in kept:
        return pd.DataFrame(columns=["now", "later"])
    return pd.DataFrame({"now": log[log["step"] <= length][metric], "later": kept[metric]}).dropna()
