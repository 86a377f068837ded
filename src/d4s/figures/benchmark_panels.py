"""Panels shared by the two benchmark figures: one per data set and editor, a curve per task and the mean over tasks."""

from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from d4s.analysis.curves import benchmark_curve
from d4s.analysis.display_names import DAMAGE_METHODS, method_name, task_name
from d4s.analysis.study_results import Panel, Results
from d4s.figures.captions import benchmark_description, benchmark_interval_note, on_datasets
from d4s.figures.plot_elements import Drawing, FigureSkipped, edits_axis, legend, panels, percent_axis
from d4s.figures.style import INK, PAPER, TASK_STYLES, Page

HEIGHT = 1.55
BENCHMARKED_METHODS = (*DAMAGE_METHODS, "d4s")
THIN: dict[str, Any] = {"linewidth": 0.8, "markersize": 3, "markeredgecolor": PAPER, "markeredgewidth": 0.3}


def benchmark_figure(results: Results, shown: Sequence[Panel], title: str) -> Drawing:
    """A figure of benchmark scores against the number of edits, one row of panels per data set.

    Raises:
        FigureSkipped: if no benchmark was run after edits.
    """
    cells = [(panel, editor) for panel in shown for editor in BENCHMARKED_METHODS if _lengths(results, panel, editor)]
    if not cells:
        raise FigureSkipped("no benchmarks were run after edits of these data sets")
    lengths = sorted({length for panel, editor in cells for length in _lengths(results, panel, editor)})
    caption = (
        f"Benchmark scores of the unedited model (at 0) and after {', '.join(map(str, lengths))} edits"
        f"{on_datasets(results, list(dict(cells)))}: {benchmark_description(results)} (thin), and their mean (thick). "
        + benchmark_interval_note(results)
    )
    return Drawing(title, caption, lambda page: _draw(results, cells, page))


def _lengths(results: Results, panel: Panel, editor: str) -> list[int]:
    return sorted({length for run in results.runs_of(panel, editor) for length in results.benchmark_lengths(run)})


def _draw(results: Results, cells: list[tuple[Panel, str]], page: Page) -> Figure:
    per_row = max(sum(other == panel for other, _ in cells) for panel, _ in cells)
    columns = per_row if per_row <= page.columns else page.columns
    tasks = sorted(set(results.benchmark["task"]))
    fig, axes = panels(page, len(cells), columns, HEIGHT, sharey=True)
    for number, (ax, (panel, editor)) in enumerate(zip(axes, cells, strict=True)):
        for task, (colour, marker) in zip(tasks, TASK_STYLES, strict=False):
            points = benchmark_curve(results, panel, editor, task)
            ax.plot(points["step"], points["mean"], color=colour, marker=marker, **THIN)
        mean = benchmark_curve(results, panel, editor)
        ax.fill_between(mean["step"], mean["low"], mean["high"], color=INK, alpha=0.12, linewidth=0)
        ax.plot(mean["step"], mean["mean"], color=INK, marker="o", markersize=3.5, markeredgewidth=0, linewidth=1.8)
        percent_axis(ax, "score, %" if number % columns == 0 else "")
        edits_axis(ax, float(mean["step"].max()), "number of edits" if number >= len(cells) - columns else "")
        ax.set_title(f"{method_name(editor)}\n{results.panel_name(panel)}")
    thick = Line2D([], [], color=INK, marker="o", markersize=3.5, markeredgewidth=0, linewidth=1.8, label="mean over tasks")
    legend(fig, page, [*_handles(tasks), thick], columns=4 if page.columns > 2 else 2)
    return fig


def _handles(tasks: Sequence[str]) -> list[Line2D]:
    return [
        Line2D([], [], color=colour, marker=marker, label=task_name(task), **THIN)
        for task, (colour, marker) in zip(tasks, TASK_STYLES, strict=False)
    ]
