"""Tables: marks, references, intervals, and the three formats."""

import io
import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from d4s.analysis.study_results import Results
from d4s.artifacts import write_table
from d4s.schemas import COSTS
from d4s.tables.table import Column, Table, TableSkipped
from d4s.tables.table_stage import TABLES, tables
from d4s.tables.write import escape, latex, write
from tests.synthetic import METHODS, Made, write_study

FRAME = pd.DataFrame({
    "block": ["one"] * 4 + ["two"],
    "method": ["A_1", "B", "C", "Ref", "A_1"],
    "reference": [False, False, False, True, False],
    "up": [0.5, 0.9, 0.9, 1.0, 0.1],
    "up_low": [0.4, 0.8, 0.85, 0.9, 0.0],
    "up_high": [0.6, 1.0, 0.95, 1.1, 0.2],
    "down": [3.0, 1.0, np.nan, 0.0, 2.0],
})  # fmt: skip
COLUMNS = (
    Column("up", "Up", "Group", best="high", factor=100.0, interval=True),
    Column("down", "Down", "Group", best="low", digits=0, signed=True),
)
TABLE = Table("A title", "100 % of it & more", ("method",), COLUMNS, FRAME)


def cells(table: Table) -> dict[tuple[str, str], list[tuple[str, str, str]]]:
    return {
        (block, line.labels[0]): [(cell.text, cell.half_width, cell.mark) for cell in line.cells]
        for block, lines in table.blocks()
        for line in lines
    }


def test_best_and_second_are_marked_within_a_block_and_ties_alike() -> None:
    found = cells(TABLE)
    assert [found["one", name][0][2] for name in ("A_1", "B", "C")] == ["second", "best", "best"]
    assert [found["one", name][1][2] for name in ("A_1", "B", "C")] == ["second", "best", ""]


def test_references_are_last_and_never_marked_nor_counted() -> None:
    lines = dict(TABLE.blocks())["one"]
    assert [line.labels[0] for line in lines] == ["A_1", "B", "C", "Ref"]
    assert [line.reference for line in lines] == [False, False, False, True]
    assert {cell.mark for cell in lines[-1].cells} == {""}


def test_a_block_of_one_method_has_no_best() -> None:
    assert {mark for _, _, mark in cells(TABLE)["two", "A_1"]} == {""}


def test_numbers_that_are_written_alike_are_ranked_alike() -> None:
    frame = FRAME.assign(up=[0.90049, 0.9, 0.1, 1.0, 0.1])
    found = cells(Table("t", "c", ("method",), COLUMNS, frame))
    assert found["one", "A_1"][0] == ("90.0", "±10.0", "best")
    assert found["one", "B"][0][2] == "best"


def test_numbers_missing_signed_and_with_intervals() -> None:
    found = cells(TABLE)
    assert found["one", "B"] == [("90.0", "±10.0", "best"), ("+1", "", "best")]
    assert found["one", "C"][1] == ("–", "", "")
    assert Column("x", "X", digits=1, signed=True).text(-2.25) == "−2.2"
    assert Column("x", "X", digits=0).text(12_345.0) == "12,345"
    assert Column("x", "X").text(9.06e9) == "9.1e+09"


def test_headings_span_neighbouring_columns() -> None:
    assert TABLE.groups() == [("Group", 2)]


@pytest.mark.parametrize("character", list("&%$#_{}"))
def test_latex_escapes_what_it_would_read_as_a_command(character: str) -> None:
    assert escape(f"a{character}b") == f"a\\{character}b"


def test_latex_has_rules_marks_and_balanced_rows() -> None:
    text = latex(TABLE, "tab_x")
    assert r"\textbf{90.0}{\tiny\,$\pm$10.0}" in text
    assert r"\underline{50.0}" in text
    assert r"\textit{Ref}" in text
    assert r"100 \% of it \& more" in text
    assert r"\label{tab:x}" in text
    rows = [line for line in text.splitlines() if line.endswith(r"\\") and "multicolumn" not in line]
    assert {len(re.findall(r"(?<!\\)&", line)) for line in rows} == {2}
    assert text.count("{") == text.count("}")


def test_all_three_formats_hold_the_same_numbers(tmp_path: Path) -> None:
    write(TABLE, tmp_path, "tab_x")
    frame = pd.read_parquet(tmp_path / "tab_x.parquet")
    pd.testing.assert_frame_equal(frame, FRAME, check_dtype=False)
    text = pd.read_csv(io.StringIO((tmp_path / "tab_x.csv").read_text()))
    assert text["up"].tolist() == FRAME["up"].tolist()
    assert (tmp_path / "tab_x.tex").read_text() == latex(TABLE, "tab_x")


def test_a_cell_that_no_file_can_hold_is_refused_when_the_table_is_made() -> None:
    with pytest.raises(TypeError, match="found collections in order"):
        Table("t", "c", ("method",), (), FRAME.assign(order=[(1, 2)] * len(FRAME)))


# --- of a study -------------------------------------------------------------------------------------------------------


def test_the_main_table_has_the_papers_shape(results: Results) -> None:
    table = TABLES["tab_main"](results)
    assert [group for group, _ in table.groups()] == ["10 edits", "100 edits", "300 edits"]
    assert [column.header for column in table.columns][:4] == ["Eff", "Par", "Spe", "Avg"]
    assert table.frame["method"].tolist() == ["Unedited", "ROME", "MEMIT", "MEMIT + history", "D4S", "D4S (frozen keys)", "One-time batch"]
    assert table.frame.loc[table.frame["reference"], "method"].tolist() == ["Unedited", "One-time batch"]


def test_the_average_is_the_mean_of_the_three(results: Results) -> None:
    row = TABLES["tab_main"](results).frame.set_index("method").loc["D4S"]
    parts = [row[f"{metric}_300"] for metric in ("efficacy_accuracy", "paraphrase_accuracy", "locality_accuracy")]
    assert row["average_300"] == pytest.approx(np.mean(parts))
    assert row["average_300_low"] < row["average_300"] < row["average_300_high"]


def test_forms_have_a_block_each(results: Results) -> None:
    assert [block for block, _ in TABLES["tab_forms"](results).blocks()] == [
        "True/false, mini",
        "Multiple choice, mini",
        "Directly generated, mini",
    ]


def test_gaps_are_immediate_minus_retained(results: Results) -> None:
    frame = TABLES["tab_protocols"](results).frame
    row = frame[(frame["block"] == "World QA, mini") & (frame["method"] == "MEMIT")].iloc[0]
    assert row["efficacy_accuracy_gap"] == pytest.approx(row["efficacy_accuracy_now"] - row["efficacy_accuracy_later"])
    assert row["efficacy_accuracy_gap_low"] > 0.1
    assert "One-time batch" not in set(frame["method"])


def test_benchmark_changes_are_against_the_unedited_model(results: Results) -> None:
    frame = TABLES["tab_benchmarks"](results).frame
    block = frame[frame["block"] == "Directly generated, mini, 150 edits"].set_index("method")
    assert block.loc["ROME", "change"] == pytest.approx(block.loc["ROME", "mean"] - block.loc["Unedited", "mean"])
    assert bool(block.loc["Unedited", "reference"])
    assert np.isnan(block.loc["Unedited", "change"])


def test_costs_end_with_their_total(results: Results) -> None:
    frame = TABLES["tab_costs"](results).frame
    assert frame["stage"].iloc[-1] == "all"
    assert frame["cpu_s"].iloc[-1] == pytest.approx(frame["cpu_s"].iloc[:-1].sum())
    assert frame["startup_share"].between(0, 1).all()
    assert "Requests" not in [column.header for column in TABLES["tab_costs"](results).columns], "nobody was asked"


def test_costs_show_what_was_asked_of_a_language_model(tmp_path: Path) -> None:
    folder = write_study(tmp_path, Made(methods={"unedited": METHODS["unedited"]}, lengths=(4,), forms=False))
    costs = Results(folder).costs
    worded = costs.iloc[:1].assign(stage="questions", requests=1710, retries=3, tokens_in=972_000, tokens_out=308_000)
    write_table(folder / "costs.parquet", pd.concat([costs, worded], ignore_index=True), COSTS)
    found = TABLES["tab_costs"](Results(folder))
    assert [column.header for column in found.columns][-4:] == ["Requests", "Retries", "Tokens in", "Tokens out"]
    assert found.frame.set_index("stage").loc["questions", "tokens_in"] == found.frame["tokens_in"].iloc[-1] == 972_000


def test_objectives_have_both_kinds_of_target(results: Results) -> None:
    frame = TABLES["tab_objectives"](results).frame
    assert frame["target"].tolist() == ["counterfactual", "true"] * 8
    assert frame["perplexity"].iloc[0] > 50 * frame["perplexity"].iloc[1]


def test_every_table_is_written_and_twice_the_same(finished_dir: Path) -> None:
    folder = finished_dir / "tables"
    record = json.loads((folder / "tables.json").read_text())
    assert set(record) == set(TABLES)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    written = {*TABLES} - {"tab_portability"}  # no data set of the study asks what follows from its edits
    assert set(before) == {f"{name}.{suffix}" for name in written for suffix in ("csv", "tex", "parquet")} | {"tables.json"}
    tables(finished_dir)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_what_a_study_lacks_is_skipped_with_a_reason(tmp_path: Path) -> None:
    study = write_study(tmp_path, Made(methods={"rome": METHODS["rome"]}, lengths=(20,), forms=False))
    with pytest.raises(TableSkipped):
        TABLES["tab_forms"](Results(study))
    tables(study)
    record = json.loads((study / "tables" / "tables.json").read_text())
    assert record["tab_forms"] == {"skipped": "no data set of this kind was measured"}
    assert "title" in record["tab_main"]
