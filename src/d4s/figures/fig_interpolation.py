"""Figure: on the way from the original to the edited weights, success of edits against shifted accuracy, and both losses."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from d4s.analysis.display_names import method_order
from d4s.analysis.robustness import shifts_of
from d4s.analysis.robustness_results import Cell, Robustness, Way
from d4s.analysis.study_results import Panel, Results
from d4s.analysis.verdicts import NotMeasured
from d4s.figures.captions import on_datasets, seeds_note, title_suffix
from d4s.figures.plot_elements import Drawing, FigureSkipped, handle, label_panels, legend, panels, percent_axis, percent_ticks
from d4s.figures.style import INK, Page, method_style

HEIGHT = 2.1
Walked = Mapping[Panel, Mapping[Cell, Sequence[Way]]]


def figure(results: Results) -> Drawing:
    """The figure, three panels per data set.

    Raises:
        FigureSkipped: if no models were asked on the way to their weights.
    """
    answers = Robustness(results)
    try:
        walked = {panel: _ways(answers, panel) for panel in answers.panels if answers.walked(panel)}
    except NotMeasured as reason:
        raise FigureSkipped(str(reason)) from None
    if not walked:
        raise FigureSkipped("no models were asked on the way to their weights")
    names = ", ".join(dict.fromkeys(cell.name.partition(", ")[2] or "own layers" for cells in walked.values() for cell in cells))
    edits = " / ".join(dict.fromkeys(str(cell.edits) for cells in walked.values() for cell in cells))
    caption = (
        f"Shares of the change of weights from 0, the original model, to 1, the edited one ({names}, {edits} edits)"
        f"{on_datasets(results, list(walked))}. Success is that of clean prompts about edited facts; shifted accuracy is about facts that "
        "no request edits, mean over shifts. Ringed: the smallest share at which the requests that choose it succeed 0.9 times as often as "
        f"in the end. {seeds_note(results)}"
    )
    return Drawing("On the way to the edited weights", caption, lambda page: _draw(results, walked, page))


def _ways(answers: Robustness, panel: Panel) -> dict[Cell, list[Way]]:
    return {
        cell: [answers.ways[draw, cell] for draw in answers.draws_of(panel) if (draw, cell) in answers.ways]
        for cell in answers.walked(panel)
    }


def _draw(results: Results, walked: Walked, page: Page) -> Figure:
    fig, axes = panels(page, 3 * len(walked), 3 if page.columns >= 3 else 1, HEIGHT)
    titles = []
    for place, (panel, cells) in enumerate(walked.items()):
        front, edited, general = axes[3 * place : 3 * place + 3]
        for cell, ways in cells.items():
            _draw_front(front, cell.method, ways)
            _draw_losses(edited, general, cell.method, ways)
        percent_ticks(front, "success of edits, %", 4)
        percent_axis(front, "shifted accuracy, %", whole=False)
        for ax in (edited, general):
            ax.set_xlabel("share of the change")
            ax.set_ylabel("loss, nats per token")
        parts = ("Success and robustness", "Edited facts", "Other facts, shifted")
        titles += [part + title_suffix(results, panel, list(walked)) for part in parts]
    label_panels(axes, titles)
    methods = sorted({cell.method for cells in walked.values() for cell in cells}, key=method_order)
    ring = Line2D(
        [], [], linestyle="", marker="o", markersize=7, markerfacecolor="none", markeredgecolor=INK, label="smallest enough share"
    )
    legend(fig, page, [*map(handle, methods), ring])
    return fig


def _draw_front(ax: Axes, method: str, ways: Sequence[Way]) -> None:
    """One editor's models by success and shifted accuracy, means over draws, with a ring at the share that is enough."""
    style = method_style(method)
    shares = ways[0].shares
    success = [float(np.mean([way.success(share) for way in ways])) for share in shares]
    accuracy = [float(np.mean([way.shifted_accuracy(share) for way in ways])) for share in shares]
    ax.plot(success, accuracy, color=style.colour, linestyle=style.dash, marker=style.marker, markersize=3, zorder=3)
    try:
        chosen = [way.operating_share for way in ways]
    except NotMeasured:
        return
    x = float(np.mean([way.success(share) for way, share in zip(ways, chosen, strict=True)]))
    y = float(np.mean([way.shifted_accuracy(share) for way, share in zip(ways, chosen, strict=True)]))
    ax.plot([x], [y], linestyle="", marker="o", markersize=7, markerfacecolor="none", markeredgecolor=INK, zorder=4)


def _draw_losses(edited: Axes, general: Axes, method: str, ways: Sequence[Way]) -> None:
    """Mean losses by share, over facts and draws."""
    style = method_style(method)
    of_edited = [np.mean([float(way.edited_loss[share]["clean"].mean()) for way in ways]) for share in ways[0].shares]
    of_general = [np.mean([_shifted_loss(way, share) for way in ways]) for share in ways[0].shares]
    for ax, values in ((edited, of_edited), (general, of_general)):
        ax.plot(ways[0].shares, values, color=style.colour, linestyle=style.dash, marker=style.marker, markersize=3, zorder=3)


def _shifted_loss(way: Way, share: float) -> float:
    table = way.general_loss[share]
    return float(table[shifts_of(table)].mean().mean())
