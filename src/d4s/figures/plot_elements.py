"""Elements of figures: panel grids, curves with bands, axes, titles, legends, point labels."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.text import Annotation
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator
from matplotlib.transforms import Bbox, BboxBase

from d4s.analysis.display_names import method_name
from d4s.figures.style import PAPER, Page, method_style


class FigureSkipped(Exception):
    """Data that a figure shows are missing from the study; the message names them."""


NO_SEQUENCE = "no sequence of edits was run"


@dataclass(frozen=True, slots=True)
class Drawing:
    """A figure before it is drawn: its title, its caption, and a function that draws it for a page."""

    title: str
    caption: str
    draw: Callable[[Page], Figure]


def panels(page: Page, count: int, columns: int, height: float = 1.75, *, is_row: bool = False, **shared: Any) -> tuple[Figure, list[Axes]]:
    """A figure with `count` panels, at most `columns` side by side where the page is wide enough; returns the used axes only."""
    columns = max(1, min(columns, count if is_row else page.columns, count))
    rows = -(-count // columns)
    figure = Figure(figsize=(page.width, rows * height + 0.35))
    axes = list(np.asarray(figure.subplots(rows, columns, squeeze=False, **shared)).flat)
    for spare in axes[count:]:
        spare.set_axis_off()
    return figure, axes[:count]


def curve(ax: Axes, points: pd.DataFrame, editor: str, **changes: Any) -> None:
    """Draw mean against `step` in the method's style, with its interval as a band."""
    style = method_style(editor)
    points = points.sort_values("step")
    line_options: dict[str, Any] = {
        "color": style.colour,
        "linestyle": style.dash,
        "marker": style.marker,
        "markeredgecolor": PAPER,
        "markeredgewidth": 0.4,
        "zorder": 3,
    } | changes
    if style.marker == "*":
        line_options.setdefault("markersize", 6.5)
    ax.plot(points["step"], points["mean"], **line_options)
    if points["low"].notna().any():
        ax.fill_between(points["step"], points["low"], points["high"], color=style.colour, alpha=0.13, linewidth=0, zorder=2)


def percent_axis(ax: Axes, label: str = "", whole: bool = True) -> None:
    """Show shares on the vertical axis in percent; `whole` fixes the range to 0–100 %."""
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value * 100:.0f}"))
    ax.set_ylabel(label)
    if whole:
        ax.set_ylim(-0.03, 1.03)
        ax.set_yticks([0, 0.25, 0.5, 0.75, 1.0])


def percent_ticks(ax: Axes, label: str, most: int) -> None:
    """Show shares on the horizontal axis in percent, with at most this number of intervals between ticks."""
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value * 100:.0f}"))
    ax.xaxis.set_major_locator(MaxNLocator(most))
    ax.set_xlabel(label)


def edits_axis(ax: Axes, longest: float | int, label: str = "number of edits") -> None:
    """Set the horizontal axis: number of edits, from zero."""
    ax.set_xlim(0, longest * 1.03)
    ax.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 2.5, 5, 10], integer=True))
    ax.set_xlabel(label)


def ratio_axis(ax: Axes, label: str, axis: str = "y") -> None:
    """Set the vertical axis: ratios to the unedited model, logarithmic, with ticks such as ×2."""
    getattr(ax, f"set_{axis}scale")("log")
    side = ax.yaxis if axis == "y" else ax.xaxis
    low, high = (ax.get_ylim if axis == "y" else ax.get_xlim)()
    spread = high / low
    subs = (1.0, 2.0, 5.0) if spread > 3 else (1.0, 1.2, 1.5, 2.0, 3.0, 5.0)
    side.set_major_locator(LogLocator(10, subs=subs, numticks=12))
    side.set_major_formatter(FuncFormatter(lambda value, _: f"×{value:g}"))
    side.set_minor_formatter(NullFormatter())
    (ax.set_ylabel if axis == "y" else ax.set_xlabel)(label)


def logarithmic_axis(ax: Axes, label: str, axis: str = "y") -> None:
    """Set an axis whose values are drawn: logarithmic, with few round ticks: 1, 2 and 5 of up to two decades, powers of ten of more."""
    getattr(ax, f"set_{axis}scale")("log")
    side = ax.yaxis if axis == "y" else ax.xaxis
    low, high = (ax.get_ylim if axis == "y" else ax.get_xlim)()
    of_decades = LogLocator(10, subs=(1.0, 2.0, 5.0) if high < 100 * low else (1.0,), numticks=8)
    side.set_major_locator(MaxNLocator(3, steps=[1, 2, 5, 10]) if high < 10 * low else of_decades)
    side.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    side.set_minor_locator(NullLocator())
    (ax.set_ylabel if axis == "y" else ax.set_xlabel)(label)


def ratio_range(axes: Sequence[Axes]) -> None:
    """Give panels of ratios one vertical range, that of their curves; bands may reach below zero, which a log axis cannot show."""
    values = np.concatenate([np.asarray(line.get_ydata(), dtype=float) for ax in axes for line in ax.lines] or [np.empty(0)])
    values = values[np.isfinite(values) & (values > 0)]
    for ax in axes if len(values) else ():
        ax.set_ylim(0.94 * values.min(), 1.08 * values.max())


def label_panels(axes: Sequence[Axes], titles: Sequence[str]) -> None:
    """Set titles, with the letters a, b … z, aa, ab … where there are several panels."""
    for number, (ax, title) in enumerate(zip(axes, titles, strict=True)):
        first = chr(96 + number // 26) if number >= 26 else ""
        ax.set_title(f"{first}{chr(97 + number % 26)}  {title}" if len(axes) > 1 else title)


def handle(editor: str, label: str = "") -> Line2D:
    """A method's legend entry."""
    style = method_style(editor)
    size = 6.5 if style.marker == "*" else 4
    return Line2D(
        [], [], color=style.colour, linestyle=style.dash, marker=style.marker, markersize=size, markeredgecolor=PAPER,
        markeredgewidth=0.4, label=label or method_name(editor),
    )  # fmt: skip


def legend(figure: Figure, page: Page, handles: Sequence[Line2D | Patch], columns: int | None = None) -> None:
    """Draw one legend above all panels, as wide as the page allows."""
    columns = min(len(handles), columns or page.legend_columns)
    figure.legend(handles=list(handles), loc="outside upper left", ncols=columns, borderaxespad=0.1)


def methods_legend(figure: Figure, page: Page, editors: Sequence[str], *more: Line2D | Patch) -> None:
    """Draw the legend of methods, in the order in which they are always shown."""
    legend(figure, page, [*(handle(editor) for editor in editors), *more])


# Positions of a point's label, in points from it, with its alignment: beside it first, then above and below.
_LABEL_OFFSETS = (
    (6, 0, "left", "center"),
    (-6, 0, "right", "center"),
    (0, 6, "center", "bottom"),
    (0, -6, "center", "top"),
    (5, 5, "left", "bottom"),
    (-5, 5, "right", "bottom"),
    (5, -5, "left", "top"),
    (-5, -5, "right", "top"),
)


def label_points(ax: Axes, points: Sequence[tuple[float, float, str, str]]) -> None:
    """Place text beside each point (x, y, text, colour) where it hides the fewest points and labels; empty texts only reserve space.

    The layout of the figure must have been computed before.
    """
    dot = 4 * ax.figure.dpi / 72
    centres = [ax.transData.transform((x, y)) for x, y, *_ in points]
    occupied = [Bbox.from_extents(x - dot, y - dot, x + dot, y + dot) for x, y in centres]
    along = np.concatenate([_pixels(line) for line in ax.lines])
    for x, y, text, colour in points:
        if text:
            label = ax.annotate(text, (x, y), (0, 0), textcoords="offset points", fontsize=6.5, color=colour, zorder=4)
            costs = [_cost(_move_label(label, place), occupied, along, ax.bbox) for place in _LABEL_OFFSETS]
            occupied.append(_move_label(label, _LABEL_OFFSETS[int(np.argmin(costs))]))


def _move_label(label: Annotation, place: tuple[int, int, str, str]) -> Bbox:
    """Move a label to a position; returns its bounding box there."""
    right, up, across, along = place
    label.xyann = (right, up)
    label.set(ha=across, va=along)
    return label.get_window_extent()


def _pixels(line: Line2D) -> np.ndarray:
    """Points along a drawn line, in pixels."""
    corners = line.get_transform().transform(line.get_xydata())
    shares = np.linspace(0, 1, 60)[:, None]
    return np.concatenate([start + shares * (end - start) for start, end in itertools.pairwise(corners)] or [corners])


def _cost(box: Bbox, occupied: Sequence[Bbox], along: np.ndarray, frame: BboxBase) -> int:
    """How much a label would hide of lines, points and labels; leaving the panel costs most."""
    hidden = ((along >= box.min) & (along <= box.max)).all(axis=1).sum()
    is_inside = box.x0 >= frame.x0 and box.x1 <= frame.x1 and box.y0 >= frame.y0 and box.y1 <= frame.y1
    return 10 * sum(bool(box.overlaps(other)) for other in occupied) + 100 * (not is_inside) + min(int(hidden), 9)
