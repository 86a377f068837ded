"""Table: teacher-forced scores against whole free answers to the same prompts, retained, at every editor's longest length."""

from collections.abc import Iterator

import pandas as pd

from d4s.analysis.free_answers import READINGS, judge_note
from d4s.analysis.study_results import Results
from d4s.judging.judges import STAND_IN
from d4s.tables.metric_rows import metric_row
from d4s.tables.table import Column, Table, TableSkipped

HEADERS = {"forced": "Forced", "wild_exact": "Exact", "contains": "Contains", "judged": "Judged", STAND_IN: "Stand-in"}


def table(results: Results) -> Table:
    """The table, a row per editor.

    Raises:
        TableSkipped: if nothing was answered freely.
    """
    metrics = ["efficacy_wild_exact", *(column.key for column in _columns())]
    found = [metric_row(results, panel, editor, metrics) for panel in results.panels for editor in results.editors(panel)]
    frame = pd.DataFrame([row for row in found if row is not None])
    if frame.empty:
        raise TableSkipped("no model answered freely: the study has no `measure.free_answers`")
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
