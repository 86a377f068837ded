"""Table: answers and probabilities against a Bayesian reader's after single edits, and errors of logic, by editor and kind of request."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from d4s.analysis.belief_errors import LOGIC
from d4s.analysis.belief_results import BeliefResults, EditedBeliefs
from d4s.analysis.display_names import method_name
from d4s.analysis.study_results import Panel, Results
from d4s.tables.table import Column, Table, TableSkipped
from d4s.world.posterior import CASES, Case

CASE_HEADERS: Mapping[Case, str] = {
    "same_same": "Request",
    "same_subject": "Same s",
    "same_relation": "Same r",
    "different": "Other",
}
COLUMNS = (
    Column("n", "n", digits=0),
    *(Column(f"exact_{case}", CASE_HEADERS[case], "Answer, %", "high", factor=100.0) for case in CASES),
    *(Column(f"error_{case}", CASE_HEADERS[case], "|p − p_Bayes|, points", "low", factor=100.0) for case in CASES),
    *(Column(f"error_{rule}", rule.capitalize(), "Error of logic, points", "low", factor=100.0) for rule in LOGIC),
)


def table(results: Results) -> Table:
    """The table: a row per editor and kind of request, with the unedited model as reference.

    Raises:
        TableSkipped: if the study has no beliefs.
    """
    beliefs = BeliefResults.of(results)
    rows = [row for panel in beliefs.panels for row in _rows(results, beliefs, panel)]
    if not rows:
        raise TableSkipped("no single edits in a world of beliefs")
    caption = (
        "After single edits: share of answers that are the Bayesian reader's likeliest object, distance of their probability from the "
        "reader's, and errors of logic between an answer and statements about it; of the unedited model the same before the requests. "
        "Same s: the other relation of the subject, which depends on the requested one for dependent requests. The reader has 100 % and no "
        "error of probability by definition."
    )
    return Table("Beliefs after single edits", caption, ("method", "requests"), COLUMNS, pd.DataFrame(rows))


def _rows(results: Results, beliefs: BeliefResults, panel: Panel) -> list[dict[str, Any]]:
    found = []
    for number, editor in enumerate(beliefs.editors(panel)):
        cells = [beliefs.cell(run) for run in beliefs.singles.of_editor(panel, editor)]
        block = results.panel_name(panel)
        for kind in ("all", "dependent", "independent"):
            if number == 0:
                found.append(_row(block, "unedited", kind, cells, is_before=True))
            found.append(_row(block, editor, kind, cells, is_before=False))
    return [row for row in found if row["n"]]


def _row(block: str, editor: str, kind: str, cells: Sequence[EditedBeliefs], *, is_before: bool) -> dict[str, Any]:
    """Means over the requests of one kind; an unedited model's answers are held against the reader's before the request."""
    parts = []
    for cell in cells:
        exact, when = (cell.exact_before, "before") if is_before else (cell.exact_after, "after")
        answers = pd.DataFrame({f"exact_{case}": exact[f"{case}.{when}"] for case in CASES})
        errors = (cell.errors_before if is_before else cell.errors_after).add_prefix("error_")
        wanted = cell.requests["dependent"] == (kind == "dependent") if kind != "all" else cell.requests["dependent"].notna()
        parts.append(answers.join(errors)[wanted])
    rows = pd.concat(parts)
    labels = {"block": block, "method": method_name(editor), "requests": kind, "reference": is_before, "n": len(rows)}
    return {**labels, **rows.mean().to_dict()}
