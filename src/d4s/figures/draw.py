"""The parts that figures are made of: a grid of panels, curves with bands, axes, titles, legends."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from d4s.figures.style import MUTED, PAPER, Page, look
from d4s.studies.names import method_name


class NotDrawn(Exception):
    """The study lacks what a figure shows; the message names it."""


@dataclass(frozen=True, slots=True)
class Drawing:
    """A figure to be drawn for any page: its title, what its caption says, and how it is drawn."""

    title: str
    caption: str
    draw: Callable[[Page], Figure]


def panels(page: Page, count: int, columns: int, height: float = 1.75, **shared: Any) -> tuple[Figure, list[Axes]]:
    """A figure with `count` panels, `columns` side by side where the page is wide enough; spare places stay empty."""
    columns = max(1, min(columns, page.columns, count))
    rows = -(-count // columns)
    figure = Figure(figsize=(page.width, rows * height + 0.35))
    axes = list(np.asarray(figure.subplots(rows, columns, squeeze=False, **shared)).flat)
    for spare in axes[count:]:
        spare.set_axis_off()
    return figure, axes[:count]


def curve(ax: Axes, points: pd.DataFrame, editor: str, **changes: Any) -> None:
    """Mean against `step` in the method's look, its interval as a band."""
    style = look(editor)
    points = points.sort_values("step")
    wanted: dict[str, Any] = {
        "color": style.colour,
        "linestyle": style.dash,
        "marker": style.marker,
        "markeredgecolor": PAPER,
        "markeredgewidth": 0.4,
        "zorder": 3,
    } | changes
    if style.marker == "*":
        wanted.setdefault("markersize", 6.5)
    ax.plot(points["step"], points["mean"], **wanted)
    if points["low"].notna().any():
        ax.fill_between(points["step"], points["low"], points["high"], color=style.colour, alpha=0.13, linewidth=0, zorder=2)


def percent_axis(ax: Axes, label: str = "", whole: bool = True) -> None:
    """Shares shown in percent; `whole` fixes the range to 0–100 %."""
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value * 100:.0f}"))
    ax.set_ylabel(label)
    if whole:
        ax.set_ylim(-0.03, 1.03)
        ax.set_yticks([0, 0.25, 0.5, 0.75, 1.0])


def edits_axis(ax: Axes, longest: float | int, label: str = "number of edits") -> None:
    """Number of edits from zero."""
    ax.set_xlim(0, longest * 1.03)
    ax.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 2.5, 5, 10], integer=True))
    ax.set_xlabel(label)


def ratio_axis(ax: Axes, label: str, axis: str = "y") -> None:
    """Ratios to the unedited model, logarithmic, written as ×2."""
    getattr(ax, f"set_{axis}scale")("log")
    side = ax.yaxis if axis == "y" else ax.xaxis
    low, high = (ax.get_ylim if axis == "y" else ax.get_xlim)()
    spread = high / low
    subs = (1.0, 2.0, 5.0) if spread > 3 else (1.0, 1.2, 1.5, 2.0, 3.0, 5.0)
    side.set_major_locator(LogLocator(10, subs=subs, numticks=12))
    side.set_major_formatter(FuncFormatter(lambda value, _: f"×{value:g}"))
    side.set_minor_formatter(NullFormatter())
    (ax.set_ylabel if axis == "y" else ax.set_xlabel)(label)


def letter(axes: Sequence[Axes], titles: Sequence[str]) -> None:
    """Titles with letters a, b, c … where there are several panels."""
    for number, (ax, title) in enumerate(zip(axes, titles, strict=True)):
        ax.set_title(f"{chr(97 + number)}  {title}" if len(axes) > 1 else title)


def handle(editor: str, label: str = "") -> Line2D:
    """A method's entry in a legend."""
    style = look(editor)
    size = 6.5 if style.marker == "*" else 4
    return Line2D(
        [], [], color=style.colour, linestyle=style.dash, marker=style.marker, markersize=size, markeredgecolor=PAPER,
        markeredgewidth=0.4, label=label or method_name(editor),
    )  # fmt: skip


def legend(figure: Figure, page: Page, handles: Sequence[Line2D | Patch], columns: int | None = None) -> None:
    """One legend above all panels, as wide as the page allows."""
    columns = min(len(handles), columns or page.legend_columns)
    figure.legend(handles=list(handles), loc="outside upper left", ncols=columns, borderaxespad=0.1)


def methods_legend(figure: Figure, page: Page, editors: Sequence[str], *more: Line2D | Patch) -> None:
    """The legend of methods, in the order in which they are always shown."""
    legend(figure, page, [*(handle(editor) for editor in editors), *more])


def note(ax: Axes, text: str) -> None:
    """A quiet remark inside a panel."""
    ax.text(0.98, 0.03, text, transform=ax.transAxes, ha="right", va="bottom", fontsize=6.5, color=MUTED)
