"""The files that DVC compares and plots."""

import json
from pathlib import Path

import pandas as pd

from d4s.analysis.dvc_metrics import write_metrics
from tests.synthetic import write_study


def test_headline_numbers_are_the_summary_s(tmp_path: Path) -> None:
    folder = write_study(tmp_path / "synthetic")
    write_metrics(folder)
    summary = pd.read_parquet(folder / "summary.parquet").query("protocol == 'retained' and dataset == 'world_qa' and editor == 'memit'")
    expected = summary[(summary["metric"] == "efficacy_accuracy") & (summary["step"] == summary["step"].max())]["mean"].item()
    found = json.loads((folder / "metrics.json").read_text())["mini"]["world_qa"]["memit"]["seed_1"]
    assert abs(found["efficacy_accuracy"] - expected) < 1e-4
    state = pd.read_parquet(folder / "summary.parquet").query("protocol == 'state' and metric == 'perplexity' and editor == 'memit'")
    last = state.query("dataset == 'world_qa'").sort_values("step")["mean"].iloc[-1]
    assert abs(found["perplexity"] - last) < 1e-3
    assert found["edits"] == summary["step"].max()
    curves = pd.read_csv(folder / "curves.csv")
    assert sorted(curves.query("dataset == 'world_qa' and editor == 'memit'")["step"]) == sorted(summary["step"].unique())
