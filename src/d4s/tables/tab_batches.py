"""Table: editors in batches of every size, by both readings, with the weight of what is preserved and the norm of the change."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from d4s.analysis.batch_series import READINGS, BatchSeries, batch_series
from d4s.analysis.curves import at_step, summary_curve
from d4s.analysis.display_names import METRIC_NAMES, dataset_name, method_name
from d4s.analysis.editing_score import score_interval
from d4s.analysis.intervals import IntervalEstimate, over_seeds
from d4s.analysis.study_results import Results
from d4s.tables.table import Column, Table, TableSkipped

NOT_KNOWN = IntervalEstimate(np.nan, np.nan, np.nan, 0)


def table(results: Results) -> Table:
    """The table, a row per editor, size of batches and length, blocks by length.

    Raises:
        TableSkipped: if no editor was run in batches of several sizes.
    """
    rows: list[dict[str, Any]] = []
    for panel in results.main_panels:
        found = [row for series in batch_series(results, panel) for row in _rows(results, series)]
        rows += sorted(found, key=lambda row: row["edits"])
    if not rows:
        raise TableSkipped("no editor was run in batches of several sizes")
    columns = [
        Column("weight", "λ", "", digits=0),
        *(Column(reading, reading.capitalize(), "S", best="high", factor=100.0, interval=True) for reading in READINGS),
        *(Column(metric, name, "Retained", best="high", factor=100.0) for metric, name in METRIC_NAMES.items()),
        Column("norm", "Norm", "Change", best="low", digits=2),
    ]
    half = "bootstrap interval over facts" if len(results.seeds) == 1 else "t-interval over seeds"
    caption = (
        "The same requests in batches of a size: S, the harmonic mean of efficacy, paraphrase and specificity, retained after all batches "
        f"and immediate, each batch right after itself; ± is half a 95 % {half}. λ is the weight of what is preserved; for EMMET it is the "
        "product of its own weight and ridge, so that both stand on one scale. Norm is the Frobenius norm of the change. Best in bold, "
        "second underlined."
    )
    return Table("Editors by size of batches", caption, ("method", "batch"), tuple(columns), pd.DataFrame(rows))


def _rows(results: Results, series: BatchSeries) -> Iterator[dict[str, Any]]:
    for size, editor in series.editors.items():
        for length in sorted(series.lengths(results, size)):
            row: dict[str, Any] = {
                "block": f"{dataset_name(series.panel.dataset)}, {series.panel.model}, {length} edits",
                "edits": length,
                "method": method_name(series.name),
                "batch": size,
                "reference": False,
                "weight": series.weight,
            }
            for reading, read in READINGS.items():
                frames = [read(results, run, length) for run in results.runs_of(series.panel, editor)]
                found = [score_interval(frame) for frame in frames if len(frame)]
                joint = over_seeds(found) if found else NOT_KNOWN
                row |= {reading: joint.value, f"{reading}_low": joint.low, f"{reading}_high": joint.high}
            curves = {metric: summary_curve(results, series.panel, editor, "retained", metric) for metric in METRIC_NAMES}
            curves["norm"] = summary_curve(results, series.panel, editor, "state", "frobenius_delta")
            yield row | {name: (at_step(points, length) or NOT_KNOWN).value for name, points in curves.items()}
