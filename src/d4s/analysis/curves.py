"""Curves with intervals: over facts with one seed, over seeds with several. Columns: step, mean, low, high, n."""

import itertools
from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd

from d4s.analysis.intervals import IntervalEstimate, mean_interval, over_seeds
from d4s.analysis.study_results import Panel, Results, RunKey
from d4s.analysis.summary_rows import task_score

COLUMNS = ["step", "mean", "low", "high", "n"]


def curve_of(points: Iterable[tuple[float, Sequence[IntervalEstimate]]]) -> pd.DataFrame:
    """A curve from the estimates of one or several seeds at each step."""
    rows = []
    for step, estimates in points:
        if estimates:
            joint = over_seeds(estimates)
            rows.append({"step": step, "mean": joint.value, "low": joint.low, "high": joint.high, "n": joint.n})
    return pd.DataFrame(rows, columns=COLUMNS)


def at_step(curve: pd.DataFrame, step: int) -> IntervalEstimate | None:
    """A curve's estimate at one step; None where it has no such step."""
    rows = curve[curve["step"] == step]
    if rows.empty:
        return None
    mean, low, high = (float(rows[name].iloc[0]) for name in ("mean", "low", "high"))
    return IntervalEstimate(mean, low, high, int(rows["n"].iloc[0]))


def summary_curve(results: Results, panel: Panel, editor: str, protocol: str, metric: str) -> pd.DataFrame:
    """A metric of the summary against the number of edits."""
    rows = results.summary
    wanted = {"model": panel.model, "dataset": panel.dataset, "editor": editor, "protocol": protocol, "metric": metric}
    for column, value in wanted.items():
        rows = rows[rows[column] == value]
    numbers = ["mean", "ci_low", "ci_high", "n"]
    return curve_of(
        (float(str(step)), [IntervalEstimate(*values) for values in part[numbers].itertuples(index=False)])
        for step, part in rows.groupby("step")
    )


def binned_curve(results: Results, panel: Panel, editor: str, quantity: str, bins: int) -> pd.DataFrame:
    """A quantity logged at every edit against the position in the sequence, averaged in bins of equal count."""
    logs = [results.immediate(run) for run in results.runs_of(panel, editor)]
    logs = [log.dropna(subset=quantity).sort_values("step") for log in logs if quantity in log]
    return _in_bins([(log["step"].to_numpy(dtype=float), log[quantity].to_numpy(dtype=float)) for log in logs], bins)


def age_curve(results: Results, panel: Panel, editor: str, length: int, *, metric: str, bins: int) -> pd.DataFrame:
    """A retained metric after `length` edits against the number of edits made since, averaged in bins of equal count."""
    samples = []
    for run in results.runs_of(panel, editor):
        retained_scores = results.retained(run, length)
        if metric in retained_scores:
            values = retained_scores[metric].dropna()
            age = (length - results.edit_positions(run, length).reindex(values.index)).dropna()
            samples.append((age.to_numpy(dtype=float), values[age.index].to_numpy(dtype=float)))
    return _in_bins(samples, bins)


def _in_bins(samples: Sequence[tuple[np.ndarray, np.ndarray]], bins: int) -> pd.DataFrame:
    """Means of values in bins of position, with the same bins for all seeds."""
    everything = np.concatenate([position for position, _ in samples]) if samples else np.empty(0)
    if not len(everything):
        return curve_of([])
    edges = np.unique(np.quantile(everything, np.linspace(0, 1, min(bins, len(everything)) + 1)))
    points = []
    for low, high in itertools.pairwise(edges if len(edges) > 1 else np.repeat(edges, 2)):
        last = high == edges[-1]
        inside = [(position >= low) & ((position < high) | last) for position, _ in samples]
        parts = [values[chosen] for (_, values), chosen in zip(samples, inside, strict=True) if chosen.any()]
        if not parts:
            continue
        centre = np.concatenate([position[chosen] for (position, _), chosen in zip(samples, inside, strict=True)]).mean()
        points.append((float(centre), [mean_interval(part) for part in parts]))
    return curve_of(points)


def norm_curve(results: Results, panel: Panel, editor: str, layer: int | None = None) -> pd.DataFrame:
    """Relative L1 norm of one layer, or the mean over edited layers, after every edit or at the lengths; no interval with one seed."""
    paths = [_of_layer(layer_norms(results, run), layer) for run in results.runs_of(panel, editor)]
    paths = [path for path in paths if len(path)]
    if not paths:
        return curve_of([])
    steps = sorted(set.intersection(*(set(path.index) for path in paths)))
    return curve_of((float(step), [IntervalEstimate(float(path[step]), np.nan, np.nan, 1) for path in paths]) for step in steps)


def layer_norms(results: Results, run: RunKey) -> pd.DataFrame:
    """Relative L1 norm after every edit, or at the lengths where only these are known: a column per edited layer."""
    path = results.norm_path(run)
    return results.norms_at_lengths(run) if path.empty else path


def _of_layer(path: pd.DataFrame, layer: int | None) -> "pd.Series[float]":
    if layer is None:
        return path.mean(axis=1) if len(path.columns) else pd.Series(dtype=float)
    return path[layer] if layer in path else pd.Series(dtype=float)


def benchmark_curve(results: Results, panel: Panel, editor: str, task: str | None = None) -> pd.DataFrame:
    """A benchmark task, or the mean over tasks, against the number of edits; the unedited model is at 0."""
    points: list[tuple[float, list[IntervalEstimate]]] = []
    base = results.unedited_tasks(panel.model)
    if len(base):
        points.append((0.0, [_task(base, task)]))
    runs = results.runs_of(panel, editor)
    for step in sorted({step for run in runs for step in results.benchmark_lengths(run)}):
        tables = [results.tasks(run, step) for run in runs]
        points.append((float(step), [_task(table, task) for table in tables if len(table)]))
    return curve_of(points)


def _task(table: pd.DataFrame, task: str | None) -> IntervalEstimate:
    chosen = table if task is None else table.loc[[task]]
    return task_score(chosen).estimate
