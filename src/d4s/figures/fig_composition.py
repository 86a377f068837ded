"""Figure (ours): what each part of an editor adds, one row per combination of history, preservation, target and residual schedule."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from d4s.analysis.compositions import Composition, composition, history_name
from d4s.analysis.curves import at_step, summary_curve
from d4s.analysis.display_names import method_name
from d4s.analysis.intervals import IntervalEstimate
from d4s.analysis.norm_comparison import norm_at
from d4s.analysis.study_results import Panel, Results
from d4s.editors.presets import PRESETS
from d4s.figures.captions import on_datasets
from d4s.figures.plot_elements import NO_SEQUENCE, Drawing, FigureSkipped, panels, percent_ticks, ratio_axis
from d4s.figures.style import GRID, MUTED, PAPER, Page, method_style

FEWEST = 4
ROW = 0.165
COLUMNS = {"efficacy_accuracy": "Efficacy", "locality_accuracy": "Specificity", "norm": "L1 norm"}
# A group has the look of a method that keeps earlier edits like it.
_GROUP_STYLES = {"none": "memit", "keys": "alphaedit", "refit": "d4s", "adaptive_refit": "pmet"}


class Row(NamedTuple):
    """One editor: its name, its parts, and its estimates by column."""

    editor: str
    parts: Composition
    numbers: Mapping[str, IntervalEstimate]


def figure(results: Results) -> Drawing:
    """The figure, dot plots for the data set with the most combinations.

    Raises:
        FigureSkipped: if there are fewer than four different ones.
    """
    if not results.main_panels:
        raise FigureSkipped(NO_SEQUENCE)
    shown = max(results.main_panels, key=lambda panel: len(_combinations(results, panel)))
    found = _combinations(results, shown)
    length = results.shared_length(shown, found)
    if len(set(found.values())) < FEWEST or length is None:
        raise FigureSkipped(f"fewer than {FEWEST} combinations of history, preservation, target and schedule were run to one length")
    rows = [Row(editor, found[editor], _numbers(results, shown, editor, length)) for editor in found]
    rows = _ordered(rows)
    named = [
        f"{method_name(row.editor)} ({history_name(row.parts.history).lower()}: {row.parts.label})" for row in rows if row.editor in PRESETS
    ]
    names = f" Named methods among them: {', '.join(named)}." if named else ""
    seeds = (
        "one seed, intervals over facts, none for the norm"
        if len(results.seeds) == 1
        else f"means with 95 % t-intervals over {len(results.seeds)} seeds"
    )
    caption = (
        f"Combinations of parts after {length} edits{on_datasets(results, [shown])}, grouped by history; a row names the "
        "parts in which it differs from MEMIT (preservation; target; residual schedule; keys; rounds), `plain` is none; the weight "
        "of the preserved matrix is each editor's own. The "
        "dashed line of a group stands at its first row, from which most others differ in one part, so the distance is what that "
        "part adds. Efficacy is measured on all edits after the whole sequence, specificity is agreement with the unedited model; the "
        f"norm is relative to the unedited matrices, mean over layers, log axis.{names} Bars: {seeds}."
    )
    return Drawing("What each part of an editor adds", caption, lambda page: _draw(rows, page))


def _combinations(results: Results, panel: Panel) -> dict[str, Composition]:
    """Editors of a panel with the parts that they consist of."""
    found = {editor: composition(results.editor_settings(panel.model, editor)) for editor in results.editors(panel, references=False)}
    return {editor: parts for editor, parts in found.items() if parts is not None}


def _ordered(rows: list[Row]) -> list[Row]:
    """Rows by group: first the one from which most others of its group differ in one part, then few parts before many."""
    rows = sorted(rows, key=lambda row: (row.parts.sort_key, row.editor))
    ordered = []
    for history in dict.fromkeys(row.parts.history for row in rows):
        group = [row for row in rows if row.parts.history == history]
        first = max(group, key=lambda row: sum(other.parts.differs_in(row.parts) == 1 for other in group))
        ordered += [first, *(row for row in group if row is not first)]
    return ordered


def _numbers(results: Results, panel: Panel, editor: str, length: int) -> dict[str, IntervalEstimate]:
    found = {metric: at_step(summary_curve(results, panel, editor, "retained", metric), length) for metric in COLUMNS if metric != "norm"}
    found["norm"] = norm_at(results, panel, editor, length)
    return {column: estimate for column, estimate in found.items() if estimate is not None}


def _draw(rows: list[Row], page: Page) -> Figure:
    """The figure: rows from top to bottom with a heading above each group."""
    heights, headings, y, is_wide = {}, {}, 0.0, page.columns > 2
    for row in rows:
        if row.parts.history not in headings:
            y += 0.55 if headings else 0.0
            headings[row.parts.history] = y
            y += 1.0
        heights[row.editor] = y
        y += 1.0
    fig, axes = panels(page, len(COLUMNS), len(COLUMNS), y * ROW + 0.45, sharey=True, is_row=True)
    for ax, (column, title) in zip(axes, COLUMNS.items(), strict=True):
        _dots(ax, rows, heights, column)
        ax.set_title(title, fontsize=8 if is_wide else 7)
        ax.grid(visible=False, axis="y")
        ax.margins(x=0.1)
        if column == "norm":
            ratio_axis(ax, "relative to unedited" if is_wide else "of unedited", axis="x")
        else:
            percent_ticks(ax, "retained, %" if column == "efficacy_accuracy" and is_wide else "%", 4 if is_wide else 2)
    axes[0].set_yticks([*headings.values(), *heights.values()], [*(history_name(history) for history in headings), *_labels(rows)])
    for label in axes[0].get_yticklabels()[: len(headings)]:
        label.set_fontweight("bold")
    axes[0].set_ylim(y - 0.3, -0.6)
    return fig


def _labels(rows: list[Row]) -> list[str]:
    """The labels of rows: their parts, with the editor's name where two rows of a group have the same parts."""
    alike = [sum(other.parts == row.parts for other in rows) > 1 for row in rows]
    return [f"{row.parts.label} ({method_name(row.editor)})" if same else row.parts.label for row, same in zip(rows, alike, strict=True)]


def _dots(ax: Axes, rows: list[Row], heights: Mapping[str, float], column: str) -> None:
    """Draw a dot with its interval for every row, and a line at the first row of every group."""
    for history in dict.fromkeys(row.parts.history for row in rows):
        group = [row for row in rows if row.parts.history == history and column in row.numbers]
        colour = method_style(_GROUP_STYLES.get(history, history)).colour
        for row in group:
            found, y = row.numbers[column], heights[row.editor]
            ax.axhline(y, color=GRID, linewidth=0.5, zorder=1)
            if not np.isnan(found.low):
                ax.plot([found.low, found.high], [y, y], color=colour, linewidth=1.1, alpha=0.7, zorder=2)
            ax.plot(found.value, y, marker="o", markersize=4.6, color=colour, markeredgecolor=PAPER, markeredgewidth=0.5, zorder=3)
        if group:
            first, last = heights[group[0].editor], heights[group[-1].editor]
            ax.plot([group[0].numbers[column].value] * 2, [first, last + 0.4], color=MUTED, linewidth=0.7, linestyle=(0, (3, 2)), zorder=1)
