"""The ledger of costs."""

import json
import logging
from pathlib import Path

import pandas as pd
import pytest

from d4s.analysis.costs import API_USAGE, COSTS_FILE, cost_rows, write_costs
from d4s.artifacts import read_table
from d4s.schemas import COSTS

CALL = {"stage": "edit", "wall_s": 30.0, "cpu_s": 28.5, "startup_s": 6.0, "peak_rss_mb": 700.0}


def artifact(store: Path, kind: str, name: str, *lines: str) -> Path:
    folder = store / kind / name
    folder.mkdir(parents=True)
    (folder / COSTS_FILE).write_text("".join(f"{line}\n" for line in lines))
    return folder


def test_every_call_is_a_row_that_names_its_artifact(tmp_path: Path) -> None:
    folder = artifact(tmp_path, "runs", "mini.rome-0123456789", json.dumps(CALL), json.dumps(CALL | {"wall_s": 4.0}))
    rows = list(cost_rows(folder))
    assert [row["wall_s"] for row in rows] == [30.0, 4.0]
    assert {(row["artifact"], row["kind"], row["stage"]) for row in rows} == {("mini.rome-0123456789", "runs", "edit")}


def test_a_torn_line_is_left_out_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = artifact(tmp_path, "runs", "r-1", json.dumps(CALL), '{"stage": "edi')
    with caplog.at_level(logging.WARNING):
        assert len(list(cost_rows(folder))) == 1
    assert f"{COSTS_FILE}:2 is truncated" in caplog.text


def test_folders_count_once_and_may_have_no_ledger(tmp_path: Path) -> None:
    folder = artifact(tmp_path, "runs", "r-1", json.dumps(CALL))
    write_costs(tmp_path / "costs.parquet", [folder, tmp_path / "runs" / "none-2", folder])
    frame = read_table(tmp_path / "costs.parquet", COSTS)
    row = {"artifact": "r-1", "kind": "runs", **CALL, **dict.fromkeys(API_USAGE, 0)}
    pd.testing.assert_frame_equal(frame, pd.DataFrame([row]), check_dtype=False)


def test_no_ledger_at_all_is_an_empty_table(tmp_path: Path) -> None:
    write_costs(tmp_path / "costs.parquet", [])
    assert read_table(tmp_path / "costs.parquet", COSTS).empty
