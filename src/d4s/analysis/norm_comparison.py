"""Norms and accuracy: one point per run and length, the norm at one length, and the ratio of two editors' changes."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from d4s.analysis.curves import summary_curve
from d4s.analysis.display_names import REFERENCES
from d4s.analysis.intervals import IntervalEstimate, over_seeds
from d4s.analysis.study_results import Panel, Results

EFFICACY = "efficacy_accuracy"


def norm_points(results: Results, panels: Sequence[Panel]) -> pd.DataFrame:
    """Relative L1 norm and retained efficacy of methods that edit one after another and log their norm.

    A run that diverged counts with its last finite state at every later length.
    """
    rows = []
    for run in results.runs:
        path = results.norm_path(run) if run.panel in panels and run.editor not in REFERENCES else pd.DataFrame()
        for length in results.lengths(run) if not path.empty else ():
            scores = results.retained(run, length)
            if len(scores):
                norm, efficacy = float(path.loc[:length].iloc[-1].mean()), float(scores[EFFICACY].mean())
                rows.append({**run._asdict(), "step": length, "norm": norm, "efficacy": efficacy})
    return pd.DataFrame(rows, columns=["model", "dataset", "editor", "seed", "step", "norm", "efficacy"])


def norm_at(results: Results, panel: Panel, editor: str, length: int) -> IntervalEstimate | None:
    """Relative L1 norm of the edited model at a length, mean over the changed layers; no interval with one seed."""
    tables = [results.norms_at_lengths(run) for run in results.runs_of(panel, editor)]
    found = [IntervalEstimate(float(table.loc[[length]].to_numpy().mean()), np.nan, np.nan, 1) for table in tables if length in table.index]
    return over_seeds(found) if found else None


def change_ratio(results: Results, panel: Panel, editors: tuple[str, str], length: int) -> float | None:
    """Frobenius norm of one editor's change over another's, means over layers and seeds; None where one is not known."""
    curves = [summary_curve(results, panel, editor, "state", "frobenius_delta").set_index("step")["mean"] for editor in editors]
    if not all(length in curve.index and curve[length] > 0 for curve in curves):
        return None
    return float(curves[0][length] / curves[1][length])
