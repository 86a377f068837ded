"""Norm and retained accuracy side by side: one point per run and length."""

from collections.abc import Sequence

import pandas as pd

from d4s.studies.names import REFERENCES
from d4s.studies.results import Panel, Results

EFFICACY = "efficacy_accuracy"


def norm_points(results: Results, panels: Sequence[Panel]) -> pd.DataFrame:
    """Relative L1 norm and retained efficacy of methods that edit one after another and log their norm."""
    rows = []
    for run in results.runs:
        path = results.norm_path(run) if run.panel in panels and run.editor not in REFERENCES else pd.DataFrame()
        for length in results.lengths(run) if not path.empty else ():
            scores = results.retained(run, length)
            if length in path.index and len(scores):
                norm, efficacy = float(path.loc[[length]].to_numpy().mean()), float(scores[EFFICACY].mean())
                rows.append({**run._asdict(), "step": length, "norm": norm, "efficacy": efficacy})
    return pd.DataFrame(rows, columns=["model", "dataset", "editor", "seed", "step", "norm", "efficacy"])
