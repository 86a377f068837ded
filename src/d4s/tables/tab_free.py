"""Table: teacher-forced scores against whole free answers to the same prompts, retained, at every editor's longest length."""

from collections.abc import Iterator
from typing import Any

import pandas as pd

from d4s.analysis.curves import at_step, summary_curve
from d4s.analysis.display_names import REFERENCES, dataset_name, method_name
from d4s.analysis.free_answers import READINGS, judge_note
from d4s.analysis.study_results import Panel, Results
from d4s.judging.judges import STAND_IN
from d4s.tables.table import Column, Table, TableSkipped

HEADERS = {"forced": "Forced", "wild_exact": "Exact", "contains": "Contains", "judged": "Judged", STAND_IN: "Stand-in"}


def table(results: Results) -> Table:
    """The table, a row per editor.

    Raises:
        TableSkipped: if nothing was answered freely.
    """
    rows = [row for panel in results.panels for row in _rows(results, panel)]
    if not rows:
        raise TableSkipped("no model answered freely: the study has no `measure.free_answers`")
    frame = pd.DataFrame(rows)
    caption = (
        "Teacher-forced token accuracy (forced) against whole answers to the same prompts, greedy up to the first full stop or line "
        "break: equal to the target (exact), with the target's words in it (contains), with three words in a row at least three times "
        "(repeats), and its length in tokens. Of locality the share of tokens that are the unedited model's, forced and free. Retained, "
        f"on the facts asked about; ± is half a 95 % interval. {judge_note(results)}"
    )
    columns = tuple(column for column in _columns() if column.key in frame)
    return Table("Forced and free answers", caption.rstrip(), ("method", "edits"), columns, frame)


def _columns() -> Iterator[Column]:
    for kind, group in (("efficacy", "Efficacy, %"), ("paraphrase", "Paraphrase, %")):
        for metric, header in HEADERS.items():
            yield Column(f"{kind}_{metric}", header, group, "high", factor=100.0, interval=metric == "wild_exact" or metric in READINGS)
    yield Column("efficacy_repeats", "Repeats, %", "Answers", "low", factor=100.0)
    yield Column("efficacy_length", "Length", "Answers")
    yield Column("locality_forced", "Forced", "Locality, %", "high", factor=100.0)
    yield Column("locality_same_tokens", "Free", "Locality, %", "high", factor=100.0)


def _rows(results: Results, panel: Panel) -> Iterator[dict[str, Any]]:
    for editor in results.editors(panel):
        curves = {column.key: summary_curve(results, panel, editor, "retained", column.key) for column in _columns()}
        if curves["efficacy_wild_exact"].empty:
            continue
        length = int(curves["efficacy_wild_exact"]["step"].max())
        row: dict[str, Any] = {
            "block": f"{dataset_name(panel.dataset)}, {panel.model}",
            "method": method_name(editor),
            "edits": length,
            "reference": editor in REFERENCES,
        }
        for key, curve in curves.items():
            if joint := at_step(curve, length):
                row |= {key: joint.value, f"{key}_low": joint.low, f"{key}_high": joint.high, f"{key}_n": joint.n}
        yield row
