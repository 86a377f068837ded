"""A study's headline numbers in the two files that DVC compares and plots: metrics.json and curves.csv."""

from pathlib import Path
from typing import Any

import pandas as pd

from d4s.analysis.display_names import HEADLINE_METRICS
from d4s.artifacts import read_table, write_json, write_text
from d4s.schemas import CELL, SUMMARY

PERPLEXITY = "perplexity"


def write_metrics(results: Path) -> None:
    """Write both files from a study's summary: retained headline scores and perplexity at the longest length, and at every length."""
    summary = read_table(results / "summary.parquet", SUMMARY)
    retained = (summary["protocol"] == "retained") & summary["metric"].isin(HEADLINE_METRICS)
    shown = summary[retained | ((summary["protocol"] == "state") & (summary["metric"] == PERPLEXITY))]
    curves = shown.pivot_table(index=[*CELL, "step"], columns="metric", values="mean").reset_index()
    write_text(results / "curves.csv", curves.to_csv(index=False, float_format="%.4f"))
    write_json(results / "metrics.json", _nested(curves.sort_values("step").groupby(list(CELL)).tail(1)))


def _nested(longest: pd.DataFrame) -> dict[str, Any]:
    """Scores nested by model, data set, editor and seed."""
    found: dict[str, Any] = {}
    for row in longest.to_dict(orient="records"):
        place = found.setdefault(row["model"], {}).setdefault(row["dataset"], {}).setdefault(row["editor"], {})
        scores = {
            metric: round(float(row[metric]), 4) for metric in (*HEADLINE_METRICS, PERPLEXITY) if metric in row and pd.notna(row[metric])
        }
        place[f"seed_{row['seed']}"] = {"edits": int(row["step"])} | scores
    return found
