"""Figure: errors of dependent beliefs after single edits against the strength of the dependence, a line per editor."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from d4s.analysis.belief_results import BeliefResults
from d4s.analysis.intervals import mean_interval
from d4s.analysis.study_results import Panel, Results
from d4s.figures.captions import interval_note, on_datasets
from d4s.figures.plot_elements import Drawing, FigureSkipped, curve, methods_legend, panels, percent_axis, percent_ticks
from d4s.figures.style import Page

BINS = 4
HEIGHT = 2.4


def figure(results: Results) -> Drawing:
    """The figure, one panel.

    Raises:
        FigureSkipped: if no dependent beliefs were asked about.
    """
    beliefs = BeliefResults.of(results)
    points = [_points(beliefs, panel, editor) for panel in beliefs.panels[:1] for editor in beliefs.editors(panel)]
    lines = pd.concat(points) if points else pd.DataFrame()
    if lines.empty:
        raise FigureSkipped("no beliefs that depend on requested ones")
    caption = (
        "Mean |p − p_Bayes| of the dependent fact of the same subject after single edits, against the largest probability of a dependent "
        f"object given the requested one, in {BINS} groups of equally many requests{on_datasets(results, beliefs.panels[:1])}. "
        f"{interval_note(results, 'requests')}"
    )
    return Drawing("Dependent beliefs by strength of dependence", caption, lambda page: _draw(lines, page))


def _points(beliefs: BeliefResults, panel: Panel, editor: str) -> pd.DataFrame:
    """Means of an editor by group: step (the group's mean strength), mean, low, high, editor."""
    found = []
    for run in beliefs.singles.of_editor(panel, editor):
        cell = beliefs.cell(run)
        found.append(pd.DataFrame({"strength": cell.requests["strength"], "error": cell.errors_after["same_subject"]}).dropna())
    rows = pd.concat(found).sort_values("strength")
    groups = [part for part in np.array_split(np.arange(len(rows)), min(BINS, len(rows))) if len(part)]
    estimates = [(rows.iloc[part]["strength"].mean(), mean_interval(rows.iloc[part]["error"].to_numpy(dtype=float))) for part in groups]
    return pd.DataFrame(
        [{"editor": editor, "step": x, "mean": one.value, "low": one.low, "high": one.high} for x, one in estimates],
    )


def _draw(lines: pd.DataFrame, page: Page) -> Figure:
    fig, (ax,) = panels(page, 1, 1, HEIGHT)
    for editor, points in lines.groupby("editor", sort=False):
        curve(ax, points, str(editor))
    percent_axis(ax, "|p − p_Bayes|, points", whole=False)
    percent_ticks(ax, "strength of dependence, %", 5)
    methods_legend(fig, page, [*lines["editor"].unique()])
    return fig
