"""Table: the paper's main table, with efficacy, paraphrase, specificity and their average by length, all methods and references."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from d4s.analysis.display_names import FORM_NAMES, HEADLINE_METRICS, LONG_SEQUENCE, REFERENCES, dataset_name, method_name
from d4s.analysis.intervals import IntervalEstimate, average_interval, over_seeds
from d4s.analysis.study_results import Panel, Results, RunKey
from d4s.tables.table import Column, Table, TableSkipped

MAX_LENGTHS = 3
HEADERS = {"efficacy_accuracy": "Eff", "paraphrase_accuracy": "Par", "locality_accuracy": "Spe"}


def table(results: Results) -> Table:
    """The table of the data sets of facts.

    Raises:
        TableSkipped: if nothing was measured.
    """
    return average_table(results, results.main_panels, "Editing after the whole sequence")


def form_table(results: Results) -> Table:
    """The table of the forms of the multi-question set, in the same layout.

    Raises:
        TableSkipped: if the study has no such data sets.
    """
    forms = [panel for panel in results.panels if results.form(panel.dataset) in FORM_NAMES]
    return average_table(results, forms, "Editing the three forms of a question")


def average_table(results: Results, shown: Sequence[Panel], title: str) -> Table:
    """A table with a block per panel and a row per editor.

    Raises:
        TableSkipped: if the panels hold nothing.
    """
    lengths = _lengths(results, shown)
    if not lengths:
        raise TableSkipped("no data set of this kind was measured")
    rows = [_row(results, panel, editor, lengths) for panel in shown for editor in results.editors(panel)]
    columns = [
        Column(f"{metric}_{length}", header, f"{length} edits", "high", factor=100.0, interval=metric == "average")
        for length in lengths
        for metric, header in {**HEADERS, "average": "Avg"}.items()
    ]
    seeds = (
        "one seed: ± is half a 95 % bootstrap interval over facts" if len(results.seeds) == 1 else "± is half a 95 % t-interval over seeds"
    )
    caption = (
        "Retained efficacy, paraphrase and specificity (%, teacher-forced token accuracy; specificity is agreement with the frozen "
        "unedited model) on all edits after the whole sequence, and their average. Best in bold, second underlined; references are set "
        f"apart; {seeds}."
    )
    return Table(title, caption, ("method",), tuple(columns), pd.DataFrame(rows))


def _lengths(results: Results, shown: Sequence[Panel]) -> list[int]:
    """At most three lengths: those that most runs have, the longest first, of at least `LONG_SEQUENCE` edits where there are such."""
    counts = Counter(length for run in results.runs if run.panel in shown for length in results.lengths(run))
    found = [length for length in counts if length >= LONG_SEQUENCE] or list(counts)
    return sorted(counts if len(counts) <= MAX_LENGTHS else sorted(found, key=lambda length: (counts[length], length))[-MAX_LENGTHS:])


def _row(results: Results, panel: Panel, editor: str, lengths: Sequence[int]) -> dict[str, Any]:
    row: dict[str, Any] = {
        "block": f"{dataset_name(panel.dataset)}, {panel.model}",
        "method": method_name(editor),
        "reference": editor in REFERENCES,
    }
    for length in lengths:
        for metric in (*HEADLINE_METRICS, "average"):
            metrics = HEADLINE_METRICS if metric == "average" else (metric,)
            found = [_average(results, run, length, metrics) for run in results.runs_of(panel, editor)]
            known = [estimate for estimate in found if estimate is not None]
            joint = over_seeds(known) if known else IntervalEstimate(np.nan, np.nan, np.nan, 0)
            name = f"{metric}_{length}"
            row |= {name: joint.value, f"{name}_low": joint.low, f"{name}_high": joint.high, f"{name}_n": joint.n}
    return row


def _average(results: Results, run: RunKey, length: int, metrics: tuple[str, ...]) -> IntervalEstimate | None:
    scores = results.retained(run, length)
    if scores.empty or not set(metrics) <= set(scores.columns):
        return None
    return average_interval(scores[list(metrics)].to_numpy(dtype=float))
