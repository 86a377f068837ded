"""Rows of the summary for one cell at one length: means over facts with bootstrap intervals, and quantities of the edited model."""

from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from d4s.analysis.intervals import IntervalEstimate, mean_intervals, normal_interval
from d4s.analysis.study_results import main_metric
from d4s.schemas import IMMEDIATE

Row = dict[str, Any]


def retained_rows(scores: pd.DataFrame) -> list[Row]:
    """Scores of one length by protocol and metric, averaged over the prompts of a fact first."""
    rows: list[Row] = []
    for protocol, part in scores.groupby("protocol", sort=True):
        by_fact = part.groupby(["fact_id", "metric"])["value"].mean().unstack("metric")
        rows += mean_rows(str(protocol), by_fact)
    return rows


def immediate_rows(log: pd.DataFrame, step: int) -> list[Row]:
    """Scores taken right after each of the first `step` edits."""
    part = log[(log["step"] <= step) & log["quantity"].isin(IMMEDIATE)]
    by_edit = part.groupby(["fact_id", "quantity"])["value"].mean().unstack("quantity")
    return mean_rows("immediate", by_edit)


def mean_rows(protocol: str, values: pd.DataFrame) -> list[Row]:
    """Means of the columns over rows with a value, with bootstrap intervals over rows; columns without any are left out."""
    present = values.dropna(axis=1, how="all")
    if present.empty:
        return []
    estimates = mean_intervals(present.to_numpy(dtype=np.float64))
    return [_row(protocol, str(metric), estimate) for metric, estimate in zip(present.columns, estimates, strict=True)]


def _row(protocol: str, metric: str, estimate: IntervalEstimate) -> Row:
    return {
        "protocol": protocol,
        "metric": metric,
        "mean": estimate.value,
        "ci_low": estimate.low,
        "ci_high": estimate.high,
        "n": estimate.n,
    }


def exact_row(metric: str, value: float, n: int = 1) -> Row:
    """A row for a quantity of the edited model, which has no interval within a seed."""
    return {"protocol": "state", "metric": metric, "mean": value, "ci_low": None, "ci_high": None, "n": n}


def perplexity_rows(perplexity: pd.DataFrame) -> list[Row]:
    """Perplexities of held-out text; the text is named where there are several."""
    several = perplexity["text"].nunique() > 1
    rows = zip(perplexity["text"], perplexity["quantity"], perplexity["value"], strict=True)
    return [exact_row(f"{quantity}.{text}" if several else quantity, float(value)) for text, quantity, value in rows]


def norm_rows(norms: pd.DataFrame) -> list[Row]:
    """Norms averaged over the changed layers (over all layers where none was changed)."""
    changes = norms[(norms["quantity"] == "l1_per_element_delta") & (norms["value"] > 0)]
    part = norms[norms["layer"].isin(changes["layer"])] if len(changes) else norms
    return [
        exact_row(str(quantity), float(np.mean(values)), len(values))
        for quantity, values in part.dropna(subset="layer").groupby("quantity", sort=True)["value"]
    ]


def benchmark_rows(benchmark: pd.DataFrame) -> list[Row]:
    """The mean over tasks, with a normal interval from the tasks' standard errors."""
    tasks = main_metric(benchmark, ["task"])
    return [_row("state", "benchmark_mean", task_score(tasks).estimate)] if len(tasks) else []


class Score(NamedTuple):
    """A mean over benchmark tasks with its standard error; n counts items."""

    mean: float
    error: float
    n: int

    @property
    def estimate(self) -> IntervalEstimate:
        """The estimate with its normal interval."""
        return normal_interval(self.mean, self.error, self.n)


def task_score(tasks: pd.DataFrame) -> Score:
    """Mean of task scores; where the harness gives no standard error, that of a share is used."""
    values, n = tasks["value"].to_numpy(dtype=float), tasks["n"].to_numpy(dtype=float)
    errors = tasks["stderr"].to_numpy(dtype=float)
    errors = np.where(np.isnan(errors), np.sqrt(np.clip(values * (1 - values), 0, None) / n), errors)
    return Score(float(values.mean()), float(np.sqrt((errors**2).sum())) / len(values), int(n.sum()))
