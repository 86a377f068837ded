"""Figure: accuracy on clean against shifted prompts, of ordinary models with the line through them, and of every edited model."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from d4s.analysis.display_names import method_name
from d4s.analysis.robustness import CLEAN, Accuracies, Line, shifts_of
from d4s.analysis.robustness_results import Cell, Robustness
from d4s.analysis.study_results import Panel, Results
from d4s.analysis.verdicts import NotMeasured
from d4s.figures.captions import on_datasets, seeds_note, title_suffix
from d4s.figures.plot_elements import Drawing, FigureSkipped, label_panels, legend, panels, percent_axis, percent_ticks
from d4s.figures.style import MUTED, PAPER, Page, method_style

HEIGHT, COLUMNS = 1.9, 3
Shown = tuple[Panel, str]


def figure(results: Results) -> Drawing:
    """The figure, a panel per shift and data set.

    Raises:
        FigureSkipped: if no shifted prompts were asked.
    """
    answers = Robustness(results)
    try:
        lengths = {panel: answers.judged_length(panel) for panel in answers.panels}
    except NotMeasured as reason:
        raise FigureSkipped(str(reason)) from None
    shown = [(panel, shift) for panel in answers.panels for shift in shifts_of(answers.unedited[answers.draws_of(panel)[0]])]
    edits = " / ".join(map(str, dict.fromkeys(lengths.values())))
    caption = (
        f"Accuracy about facts that no request edits, on clean prompts and on the same prompts shifted, after {edits} edits"
        f"{on_datasets(results, answers.panels)}; one point per editor and layer. Grey: models kept on the way of training, and the line "
        f"of least squares through their logits; below it a model is less robust than usual at its clean accuracy. {seeds_note(results)}"
    )
    return Drawing("Robustness to shifted prompts", caption, lambda page: _draw(results, answers, shown, lengths, page))


def _draw(results: Results, answers: Robustness, shown: Sequence[Shown], lengths: dict[Panel, int], page: Page) -> Figure:
    fig, axes = panels(page, len(shown), COLUMNS if page.columns >= COLUMNS else 1, HEIGHT)
    methods: list[str] = []
    for ax, (panel, shift) in zip(axes, shown, strict=True):
        cells = [cell for cell in answers.cells(panel) if cell.edits == lengths[panel]]
        _draw_ordinary(ax, answers, panel, shift)
        for cell in cells:
            x, y = _point(answers, panel, cell, shift)
            ax.plot([x], [y], linestyle="", **_look(cell.method))
        methods += [cell.method for cell in cells]
        percent_ticks(ax, "clean prompts, %", 4)
        percent_axis(ax, "shifted prompts, %", whole=False)
    label_panels(axes, [shift.replace("_", " ") + title_suffix(results, panel, answers.panels) for panel, shift in shown])
    marks = [Line2D([], [], linestyle="", label=method_name(method), **_look(method)) for method in dict.fromkeys(methods)]
    legend(fig, page, [Line2D([], [], color=MUTED, marker=".", label="ordinary models"), *marks])
    return fig


def _draw_ordinary(ax: Axes, answers: Robustness, panel: Panel, shift: str) -> None:
    """Ordinary models of the first draw, and the line through them where there are enough of them."""
    draw = answers.draws_of(panel)[0]
    one = np.ones((1, len(answers.unedited[draw])))
    found = [Accuracies.of(table, shift, one) for table in answers.ordinary[draw]]
    ax.plot([float(each.clean[0]) for each in found], [float(each.shifted[0]) for each in found], ".", color=MUTED, zorder=2)
    try:
        line = Line.through(found)
    except NotMeasured:
        return
    clean = np.linspace(0.01, 0.99, 99)
    ax.plot(clean, Line(line.intercept[0], line.slope[0]).at(clean), color=MUTED, linewidth=0.8, zorder=1.5)


def _point(answers: Robustness, panel: Panel, cell: Cell, shift: str) -> tuple[float, float]:
    """Clean and shifted accuracy of a cell on the facts that have the shift, mean over draws."""
    pairs = []
    for draw in answers.draws_of(panel):
        if (draw, cell) in answers.ways:
            table = answers.ways[draw, cell].general[1.0]
            pairs.append(table[[CLEAN, shift]].dropna().mean().to_numpy(dtype=float))
    x, y = np.mean(pairs, axis=0)
    return float(x), float(y)


def _look(method: str) -> dict[str, Any]:
    style = method_style(method)
    return {
        "color": style.colour, "marker": style.marker, "markersize": 4, "markeredgecolor": PAPER, "markeredgewidth": 0.4, "zorder": 3,
    }  # fmt: skip
