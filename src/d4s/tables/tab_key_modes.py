"""Table: sequential D4S by key mode and residual schedule against one batch edit of the same requests, at every length."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from d4s.analysis.display_names import HEADLINE_METRICS, METRIC_NAMES, dataset_name, method_name
from d4s.analysis.intervals import IntervalEstimate
from d4s.analysis.norm_comparison import change_ratio
from d4s.analysis.pairs import score_gap
from d4s.analysis.study_results import Panel, Results
from d4s.tables.table import Column, Table, TableSkipped

VARIANTS = ("d4s", "d4s_frozen", "d4s_refreshed", "d4s_even")
BATCH = "one_time_batch"


def table(results: Results) -> Table:
    """The table, a row per variant and length.

    Raises:
        TableSkipped: if no variant was run beside the batch.
    """
    rows = [row for panel in results.main_panels for row in _rows(results, panel)]
    if not rows:
        raise TableSkipped("no variant of D4S was run beside a one-time batch edit")
    columns = [
        Column(metric, METRIC_NAMES[metric], "Difference, points", factor=100.0, signed=True, interval=True) for metric in HEADLINE_METRICS
    ]
    half = "bootstrap interval over facts, paired" if len(results.seeds) == 1 else "t-interval over seeds"
    caption = (
        "Retained scores of sequential D4S minus those of one batch edit of the same requests, by key mode and residual schedule; "
        f"± is half a 95 % {half}. The last column is the ratio of Frobenius norms of the two changes of weights, mean over layers: its "
        "distance from 1 bounds their relative distance from below; docs/key_modes.md has that distance layer by layer."
    )
    ratio = Column("change", "Norm ratio", "Change of weights", digits=2)
    return Table("D4S by key mode against one batch edit", caption, ("method", "edits"), (*columns, ratio), pd.DataFrame(rows))


def _rows(results: Results, panel: Panel) -> Iterator[dict[str, Any]]:
    for editor in VARIANTS:
        lengths = [set(results.lengths(run)) for name in (editor, BATCH) for run in results.runs_of(panel, name)]
        if not all(results.runs_of(panel, name) for name in (editor, BATCH)):
            continue
        for length in sorted(set.intersection(*lengths)):
            ratio = change_ratio(results, panel, (editor, BATCH), length)
            row: dict[str, Any] = {
                "block": f"{dataset_name(panel.dataset)}, {panel.model}",
                "method": method_name(editor),
                "edits": length,
                "reference": False,
                "change": np.nan if ratio is None else ratio,
            }
            for metric in HEADLINE_METRICS:
                gap = score_gap(results, panel, (editor, BATCH), length, metric) or IntervalEstimate(np.nan, np.nan, np.nan, 0)
                row |= {metric: gap.value, f"{metric}_low": gap.low, f"{metric}_high": gap.high}
            yield row
