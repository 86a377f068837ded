"""Effective robustness: accuracy on shifted prompts beyond what ordinary models of the same clean accuracy have.

    ρ = a_shifted − σ(b₀ + b₁ logit a_clean)

with the line fitted by least squares, on logits, to ordinary models alone: those kept on the way of a training. Accuracies are kept half an
answer away from 0 and 1. Clean and shifted prompts are about the same facts; a shift counts for the facts that it can be applied to.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from d4s.analysis.intervals import Array, IntervalEstimate, bootstrap, percentiles
from d4s.analysis.verdicts import NotMeasured

CLEAN = "clean"
LEAST_MODELS = 3

Statistic = Callable[[Array], Array]
"""A number of every resample (r,), from the counts of facts in it (r, n)."""


def answer_table(rows: pd.DataFrame, facts: Sequence[str] | None = None, value: str = "correct") -> pd.DataFrame:
    """Numbers of one model's answers: a row per fact, a column per shift, NaN where a fact has no such prompt."""
    table = rows.pivot_table(index="fact_id", columns="shift", values=value, aggfunc="mean", observed=True).astype(float)
    return table if facts is None else table.reindex(list(facts))


def shifts_of(table: pd.DataFrame) -> list[str]:
    """The shifts in a table, in alphabetical order."""
    return sorted(name for name in map(str, table.columns) if name != CLEAN)


class Accuracies(NamedTuple):
    """Accuracies (r,) of a model in every resample, on clean prompts and on their shifted forms, half an answer away from 0 and 1."""

    clean: Array
    shifted: Array

    @classmethod
    def of(cls, table: pd.DataFrame, shift: str, weights: Array) -> "Accuracies":
        """Those on the facts that have a prompt of the shift."""
        pairs = table[[CLEAN, shift]].to_numpy(dtype=float)
        present = ~np.isnan(pairs).any(axis=1, keepdims=True)
        sums = weights @ np.hstack([np.where(present, pairs, 0.0), present])
        with np.errstate(invalid="ignore", divide="ignore"):
            means = sums[:, :2] / sums[:, 2:]
        edge = 0.5 / max(1, int(present.sum()))
        clean, shifted = np.clip(means, edge, 1 - edge).T
        return cls(clean, shifted)


class Line(NamedTuple):
    """Logits of shifted accuracy on those of clean accuracy, in every resample (r,)."""

    intercept: Array
    slope: Array

    @classmethod
    def through(cls, ordinary: Sequence[Accuracies]) -> "Line":
        """The line of least squares through ordinary models.

        Raises:
            NotMeasured: if they are too few, or all of one clean accuracy.
        """
        if len(ordinary) < LEAST_MODELS:
            raise NotMeasured(f"a line needs {LEAST_MODELS} ordinary models, found {len(ordinary)}")
        x, y = (np.stack([logit(one[side]) for one in ordinary]) for side in (0, 1))  # (m, r)
        dx, dy = x - x.mean(0), y - y.mean(0)
        if not (dx**2).sum(0).any():
            raise NotMeasured("ordinary models are all of one clean accuracy, which no line goes through")
        with np.errstate(invalid="ignore", divide="ignore"):
            slope = (dx * dy).sum(0) / (dx**2).sum(0)
        return cls(y.mean(0) - slope * x.mean(0), slope)

    def at(self, clean: Array) -> Array:
        """Shifted accuracy that is usual at a clean one."""
        return 1 / (1 + np.exp(-(self.intercept + self.slope * logit(clean))))


def logit(share: Array) -> Array:
    """log(p / (1 − p))."""
    return np.log(share) - np.log1p(-share)


def effective_robustness(tables: Sequence[pd.DataFrame], ordinary: Sequence[pd.DataFrame], shift: str) -> Statistic:
    """Mean of ρ over some models of one draw under one shift, the line fitted again in every resample."""

    def of(weights: Array) -> Array:
        line = Line.through([Accuracies.of(one, shift, weights) for one in ordinary])
        found = [Accuracies.of(table, shift, weights) for table in tables]
        return np.mean([one.shifted - line.at(one.clean) for one in found], axis=0)

    return of


def mean_robustness(tables: Sequence[pd.DataFrame], ordinary: Sequence[pd.DataFrame]) -> Statistic:
    """Mean of ρ over shifts and over some models of one draw, all with the same facts in the same order.

    Raises:
        NotMeasured: if no shift was asked.
    """
    each = [effective_robustness(tables, ordinary, shift) for shift in shifts_of(tables[0])]
    if not each:
        raise NotMeasured("no shift of a prompt was asked")
    return lambda weights: np.mean([one(weights) for one in each], axis=0)


def shifted_accuracy(table: pd.DataFrame) -> Statistic:
    """Mean over shifts of the accuracy on shifted prompts."""
    return _mean_over_columns(table[shifts_of(table)])


def clean_accuracy(table: pd.DataFrame) -> Statistic:
    """Accuracy on clean prompts."""
    return _mean_over_columns(table[[CLEAN]])


def relative_robustness(table: pd.DataFrame, unedited: pd.DataFrame) -> Statistic:
    """Change of shifted accuracy minus that of clean accuracy against the unedited model, mean over shifts; it needs no line."""

    def of(weights: Array) -> Array:
        changes = []
        for shift in shifts_of(table):
            now, before = (Accuracies.of(one, shift, weights) for one in (table, unedited))
            changes.append((now.shifted - before.shifted) - (now.clean - before.clean))
        return np.mean(changes, axis=0)

    return of


def _mean_over_columns(table: pd.DataFrame) -> Statistic:
    values = table.to_numpy(dtype=float)
    present = ~np.isnan(values)
    filled = np.where(present, values, 0.0)

    def of(weights: Array) -> Array:
        with np.errstate(invalid="ignore", divide="ignore"):
            return (weights @ filled / (weights @ present)).mean(1)

    return of


def interval(statistic: Statistic, facts: int) -> IntervalEstimate:
    """A statistic of facts with its bootstrap interval over them."""
    low, high = percentiles(bootstrap(facts, statistic))
    return IntervalEstimate(value_of(statistic, facts), float(low), float(high), facts)


def value_of(statistic: Statistic, facts: int) -> float:
    """A statistic of the facts as they are."""
    return float(statistic(np.ones((1, facts)))[0])
