"""Table: what follows from an edit, by kind (reasoning, several hops, other names, ...), beside what must stay of the same subject."""

import pandas as pd

from d4s.analysis.study_results import Results
from d4s.tables.metric_rows import metric_row
from d4s.tables.table import Column, Table, TableSkipped

HEADERS = {
    "reasoning": "Reasoning",
    "multihop": "Hops",
    "logical": "Logical",
    "alias": "Alias",
    "persona": "Persona",
    "tendency": "Tendency",
}
"""Kinds of portability, as records name them. Those of RippleEdits: logical generalisation, aliases, compositions (hops)."""
READINGS = {"accuracy": "Tokens, %", "generated": "Written freely, %"}


def table(results: Results) -> Table:
    """The table, a row per data set and editor.

    Raises:
        TableSkipped: if no data set asks what follows from its edits.
    """
    metrics = ["portability_accuracy", *(column.key for column in _columns())]
    found = [metric_row(results, panel, editor, metrics) for panel in results.panels for editor in results.editors(panel)]
    frame = pd.DataFrame([row for row in found if row is not None])
    if frame.empty:
        raise TableSkipped("no data set has questions about what follows from its edits")
    columns = tuple(column for column in _columns() if column.key in frame)
    caption = (
        "What follows from the edits, retained: share of the answer's tokens that are the arg-max, teacher-forced, and share of free "
        "answers that begin with one of the answers. By kind as the data set names it; with efficacy, and with facts of the same subject "
        "that must stay. ± is half a 95 % interval."
    )
    return Table("What follows from an edit", caption, ("method", "edits"), columns, frame)


def _columns() -> list[Column]:
    kinds = {"efficacy": "Efficacy", **{f"portability_{kind}": header for kind, header in HEADERS.items()}, "same_subject": "Same subject"}
    return [
        Column(f"{kind}_{reading}", header, group, "high", factor=100.0, interval=reading == "accuracy")
        for reading, group in READINGS.items()
        for kind, header in kinds.items()
    ]
