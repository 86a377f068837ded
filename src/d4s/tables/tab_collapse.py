"""Table: the share of single edits that collapse the model, by the length and the place of their subject, and with BOS or without."""

from collections.abc import Iterator
from typing import Any

import pandas as pd

from d4s.analysis.collapse import RATIO, Collapse
from d4s.analysis.display_names import method_name, sorted_editors
from d4s.analysis.study_results import Panel, Results
from d4s.tables.table import Column, Table, TableSkipped

CELLS = {
    "short_first": ("First", "One token"),
    "short_later": ("Later", "One token"),
    "long_first": ("First", "Several tokens"),
    "long_later": ("Later", "Several tokens"),
}
COLUMNS = (
    *(Column(key, header, f"{group}, collapsed, %", factor=100.0) for key, (header, group) in CELLS.items()),
    Column("all", "All", "Collapsed, %", factor=100.0),
    Column("above_1000", "Above 1000", "Collapsed, %", factor=100.0),
    Column("worst", "Largest ratio", "Perplexity", digits=1),
    Column("edits", "Edits", "Perplexity", digits=0),
)


def table(results: Results) -> Table:
    """The table, a row per editor.

    Raises:
        TableSkipped: if text was read after no single edit.
    """
    found = Collapse(results)
    if not found.panels:
        raise TableSkipped("the perplexity of text was measured after no single edit")
    rows = [row for panel in found.panels for row in _rows(found, panel)]
    caption = (
        f"Single edits after which the perplexity of text (mean over rows) is more than {found.times:g} times the unedited model's, by the "
        "number of tokens of the subject and by whether it begins the prompt; diverged edits have collapsed, refused ones are left out. "
        "A dash: no such edit."
    )
    return Table("Collapses by subject", caption, ("method",), COLUMNS, pd.DataFrame(rows))


def _rows(found: Collapse, panel: Panel) -> Iterator[dict[str, Any]]:
    edits = found.edits[(found.edits["model"] == panel.model) & (found.edits["dataset"] == panel.dataset)].dropna(subset=RATIO)
    first = found.first_position(panel.model)
    bos = {0.0: ", without BOS", 1.0: ", with BOS"}.get(first, "")
    for editor in sorted_editors(edits["editor"]):
        of = edits[edits["editor"] == editor]
        is_short, is_first, placed = of["subject_tokens"] == 1, of["subject_start"] == first, of["subject_start"].notna()
        yield {
            "block": found.panel_name(panel) + bos,
            "method": method_name(editor),
            "reference": False,
            "short_first": _share(of[placed & is_short & is_first]),
            "short_later": _share(of[placed & is_short & ~is_first]),
            "long_first": _share(of[placed & ~is_short & is_first]),
            "long_later": _share(of[placed & ~is_short & ~is_first]),
            "all": _share(of),
            "above_1000": float(of["above_1000"].mean()),
            "worst": float(of[RATIO].max()),
            "edits": float(len(of)),
        }


def _share(edits: pd.DataFrame) -> float:
    return float(edits["collapsed"].mean()) if len(edits) else float("nan")
