"""Figure: teacher-forced efficacy against whole free answers to the same prompts, a point per editor, with both intervals."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from d4s.analysis.curves import at_step, summary_curve
from d4s.analysis.display_names import sorted_editors
from d4s.analysis.free_answers import READINGS, judge_note
from d4s.analysis.intervals import IntervalEstimate
from d4s.analysis.study_results import Panel, Results
from d4s.figures.captions import on_datasets, title_suffix
from d4s.figures.plot_elements import Drawing, FigureSkipped, label_panels, methods_legend, panels, percent_axis, percent_ticks
from d4s.figures.style import MUTED, PAPER, Page, method_style
from d4s.judging.judges import STAND_IN

HEIGHT = 2.3
FORCED, EXACT = "efficacy_forced", "efficacy_wild_exact"
TITLES = {EXACT: "Exact", "efficacy_judged": "Judged", f"efficacy_{STAND_IN}": "Stand-in"}
Point = tuple[IntervalEstimate, IntervalEstimate]


def figure(results: Results) -> Drawing:
    """The figure, a panel per data set and reading.

    Raises:
        FigureSkipped: if nothing was answered freely.
    """
    readings = (EXACT, *(f"efficacy_{reading}" for reading in READINGS))
    found = {(panel, metric): _points(results, panel, metric) for panel in results.panels for metric in readings}
    shown = {key: points for key, points in found.items() if points}
    if not shown:
        raise FigureSkipped("no model answered freely: the study has no `measure.free_answers`")
    caption = (
        "Efficacy of the same edits, retained at each editor's longest length: teacher-forced token accuracy against the share of whole "
        f"answers that are correct{on_datasets(results, list(dict.fromkeys(panel for panel, _ in shown)))}. On the line both agree. "
        f"Bars: 95 % intervals. {judge_note(results)}"
    )
    return Drawing("Forced against free answers", caption.rstrip(), lambda page: _draw(results, shown, page))


def _points(results: Results, panel: Panel, metric: str) -> dict[str, Point]:
    """The two estimates of every editor at its longest length."""
    found: dict[str, Point] = {}
    for editor in results.editors(panel):
        curve = summary_curve(results, panel, editor, "retained", metric)
        if curve.empty:
            continue
        length = int(curve["step"].max())
        forced, free = at_step(summary_curve(results, panel, editor, "retained", FORCED), length), at_step(curve, length)
        if forced is not None and free is not None:
            found[editor] = (forced, free)
    return found


def _draw(results: Results, shown: dict[tuple[Panel, str], dict[str, Point]], page: Page) -> Figure:
    fig, axes = panels(page, len(shown), 3, HEIGHT)
    datasets = list(dict.fromkeys(panel for panel, _ in shown))
    for ax, points in zip(axes, shown.values(), strict=True):
        ax.plot([0, 1], [0, 1], color=MUTED, linewidth=0.7, linestyle=(0, (1, 1.6)), zorder=1)
        for editor, point in points.items():
            _mark(ax, editor, point)
        percent_axis(ax, "free, %")
        percent_ticks(ax, "teacher-forced, %", 4)
        ax.set_xlim(-0.03, 1.03)
    label_panels(axes, [TITLES[metric] + title_suffix(results, panel, datasets) for panel, metric in shown])
    methods_legend(fig, page, sorted_editors(editor for points in shown.values() for editor in points))
    return fig


def _mark(ax: Axes, editor: str, point: Point) -> None:
    style = method_style(editor)
    (x, across), (y, along) = ((one.value, _bars(one)) for one in point)
    marker = "s" if style.marker == "None" else style.marker
    ax.errorbar(
        x, y, xerr=across, yerr=along, color=style.colour, marker=marker, markersize=7 if marker == "*" else 4.5, markeredgecolor=PAPER,
        markeredgewidth=0.4, elinewidth=0.8, linestyle="", zorder=3,
    )  # fmt: skip


def _bars(one: IntervalEstimate) -> np.ndarray:
    """Lengths of an error bar below and above a value, never negative."""
    return np.clip([[one.value - one.low], [one.high - one.value]], 0, None)
