"""Figure: what is retained against what else changes and against what it costs, with the editors that no other one beats."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from d4s.analysis.display_names import method_name
from d4s.analysis.leaderboard import AVERAGE, CPU_SECONDS, FRONT, Leaderboard, LeaderboardRow, pareto_front
from d4s.analysis.study_results import Panel, Results
from d4s.figures.captions import on_datasets, seeds_note, title_suffix
from d4s.figures.plot_elements import (
    NO_SEQUENCE,
    Drawing,
    FigureSkipped,
    label_panels,
    label_points,
    logarithmic_axis,
    panels,
    percent_axis,
    percent_ticks,
)
from d4s.figures.style import MUTED, PAPER, Page, method_style

HEIGHT = 2.9
EFFICACY, SPECIFICITY, _ = FRONT
Axis = tuple[str, str]
AXES: Mapping[str, Axis] = {
    "Efficacy against specificity": (SPECIFICITY, EFFICACY),
    "Average against processor time": (CPU_SECONDS, AVERAGE),
}
"""Titles of the panels, with what is on the horizontal and on the vertical axis."""


def figure(results: Results) -> Drawing:
    """The figure, two panels per data set.

    Raises:
        FigureSkipped: if no sequence of edits was run.
    """
    board = Leaderboard(results)
    shown = {panel: [row for row in board.rows(board.final(panel)) if row.rank] for panel in results.panels}
    shown = {panel: rows for panel, rows in shown.items() if rows}
    if not shown:
        raise FigureSkipped(NO_SEQUENCE)
    caption = (
        "Every editor after the longest sequence of edits: retained efficacy against specificity, and the average of efficacy, paraphrase "
        "and specificity against processor time per edit, with what was prepared for it (log axis). Lines join the editors than which no "
        "other is at least as good on both axes and better on one; those are named. Other coloured points are on the front of efficacy, "
        f"specificity and processor time together{on_datasets(results, [*shown])}. {seeds_note(results)} Intervals stand in the table: "
        "neighbours on a front may not be told apart."
    )
    return Drawing("Fronts of retention, specificity and cost", caption, lambda page: _draw(results, shown, page))


def _draw(results: Results, shown: Mapping[Panel, Sequence[LeaderboardRow]], page: Page) -> Figure:
    fig, axes = panels(page, 2 * len(shown), 2 if page.columns > 2 else 1, HEIGHT)
    titles = [f"{title}{title_suffix(results, panel, shown.keys())}" for panel in shown for title in AXES]
    drawn = [
        (ax, [row for row in rows if all(name in row.values for name in names)], names)
        for ax, (rows, names) in zip(axes, ((rows, names) for rows in shown.values() for names in AXES.values()), strict=True)
    ]
    for ax, rows, names in drawn:
        _draw_points(ax, rows, names)
    label_panels(axes, titles)
    fig.draw_without_rendering()
    for ax, rows, names in drawn:
        if rows:
            _label_front(ax, rows, names)
    return fig


def _draw_points(ax: Axes, rows: Sequence[LeaderboardRow], names: Axis) -> None:
    across, along = names
    best = _front(rows, names)
    for row in rows:
        style = method_style(row.editor)
        is_coloured = row in best or row.is_on_front
        ax.plot(
            *([row.values[name].value] for name in names),
            linestyle="none",
            marker=style.marker,
            color=style.colour if is_coloured else MUTED,
            alpha=1.0 if is_coloured else 0.45,
            markersize=7.0 if style.marker == "*" else 5.0 if is_coloured else 3.6,
            markeredgecolor=PAPER,
            markeredgewidth=0.4,
            zorder=3,
        )
    ax.plot(
        *np.array(sorted((row.values[across].value, row.values[along].value) for row in best)).T,
        color=MUTED,
        alpha=0.5,
        linewidth=0.7,
        zorder=2,
    )
    percent_axis(ax, "retained efficacy, %" if along == EFFICACY else "average, %")
    if across == CPU_SECONDS:
        logarithmic_axis(ax, "CPU-seconds per edit", "x")
    else:
        percent_ticks(ax, "specificity, %", 5)
        ax.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))


def _front(rows: Sequence[LeaderboardRow], names: Axis) -> list[LeaderboardRow]:
    """The rows that no other one beats on both axes."""
    values: dict[str, Mapping[str, Any]] = {row.editor: row.values for row in rows}
    best = pareto_front(values, names)
    return [row for row in rows if row.editor in best]


def _label_front(ax: Axes, rows: Sequence[LeaderboardRow], names: Axis) -> None:
    named = {row.editor for row in _front(rows, names)}
    points = [(row.values[names[0]].value, row.values[names[1]].value, row.editor) for row in rows]
    label_points(ax, [(x, y, method_name(name) if name in named else "", method_style(name).colour) for x, y, name in points])
