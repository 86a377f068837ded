from pathlib import Path

import pandas as pd
import pytest

from d4s.analysis.study_results import Results
from d4s.analysis.summary_rows import mean_rows
from d4s.artifacts import read_table, write_table
from d4s.schemas import SUMMARY
from d4s.tables.tab_portability import table
from d4s.tables.table import TableSkipped
from tests.synthetic import METHODS, Made, write_study

MADE = Made(methods={name: METHODS[name] for name in ("unedited", "memit", "d4s")}, lengths=(4, 8), forms=False)


def test_every_kind_that_a_data_set_has_is_a_column_of_the_longest_length(tmp_path: Path) -> None:
    folder = write_study(tmp_path, MADE)
    summary = [read_table(folder / "summary.parquet", SUMMARY)]
    for step, reasoning in ((4, [1.0, 1.0]), (8, [1.0, 0.0])):
        by_fact = {
            "portability_accuracy": reasoning, "portability_reasoning_accuracy": reasoning, "portability_alias_accuracy": [0.0, 0.5],
            "portability_reasoning_generated": [0.0, 0.0],
        }  # fmt: skip
        cell = {"model": "mini", "dataset": "world_qa", "editor": "d4s", "seed": 1, "step": step}
        summary.append(pd.DataFrame([{**cell, **row} for row in mean_rows("retained", pd.DataFrame(by_fact))]))
    write_table(folder / "summary.parquet", pd.concat(summary, ignore_index=True)[SUMMARY.names], SUMMARY)
    found = table(Results(folder))
    (row,) = found.frame.to_dict(orient="records")
    assert (row["method"], row["edits"]) == ("D4S", 8)
    assert (row["portability_reasoning_accuracy"], row["portability_alias_accuracy"]) == (0.5, 0.25)
    keys = [column.key for column in found.columns if column.key.startswith("portability")]
    assert keys == ["portability_reasoning_accuracy", "portability_alias_accuracy", "portability_reasoning_generated"]


def test_without_such_questions_there_is_no_table(tmp_path: Path) -> None:
    with pytest.raises(TableSkipped, match="no data set has questions about what follows"):
        table(Results(write_study(tmp_path, MADE)))
