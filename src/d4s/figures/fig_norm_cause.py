"""Figure (ours): does the norm or the direction of a change do the damage? Editors beside their scrambled and rescaled changes."""

from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from d4s.analysis.curves import at_step, benchmark_curve, summary_curve
from d4s.analysis.display_names import method_name
from d4s.analysis.intervals import IntervalEstimate
from d4s.analysis.norm_comparison import norm_at
from d4s.analysis.study_results import Panel, Results
from d4s.figures.captions import benchmark_description, on_datasets, title_suffix
from d4s.figures.plot_elements import Drawing, FigureSkipped, label_panels, label_points, legend, panels, percent_axis, ratio_axis
from d4s.figures.style import MUTED, PAPER, Page, method_style

HEIGHT = 2.75
SCRAMBLED = "X"
QUANTITIES = {"locality_accuracy": "Specificity", "benchmark_mean": "Benchmarks"}


class Point(NamedTuple):
    """One editor at one length: its norm, what it retains by quantity, and how it was derived from its base editor."""

    base: str
    kind: str
    factor: float
    norm: float
    scores: dict[str, IntervalEstimate]


def figure(results: Results) -> Drawing:
    """The figure, two panels per data set: retained specificity and benchmark score against the norm.

    Raises:
        FigureSkipped: if no editor was run with its whole change scrambled or rescaled.
    """
    shown = {panel: _points(results, panel) for panel in results.main_panels}
    shown = {panel: points for panel, points in shown.items() if points}
    if not shown:
        raise FigureSkipped("no editor was run beside itself with its whole change scrambled or rescaled")
    lengths = " / ".join(str(_length(results, panel)) for panel in shown)
    benchmarks = f" and on the benchmarks ({benchmark_description(results)})" if len(results.benchmark) else ""
    bars = "one seed, 95 % over facts or items" if len(results.seeds) == 1 else f"95 % over {len(results.seeds)} seeds"
    caption = (
        f"What is kept on what was not edited{benchmarks} after {lengths} edits, against the L1 norm of the edited matrices relative "
        f"to the unedited ones (mean over layers, log axis){on_datasets(results, list(shown))}. Crosses: the entries of the whole change "
        "in random order, which keeps its norm and no direction; hollow: the whole change times the factor beside it, which keeps its "
        "direction. If the norm did the damage, a cross would lie as low as the filled point that it is joined to; if the direction "
        f"does it, the cross stays high. Dotted: the unedited model. Bars: {bars}."
    )
    return Drawing("Norm or direction: what does the damage", caption, lambda page: _draw(shown, results, page))


def _length(results: Results, panel: Panel) -> int | None:
    """The longest length shared by all editors with controls and all controls."""
    found = results.controls(panel)
    return results.shared_length(panel, {name for control in found for name in (control.base, control.editor)})


def _points(results: Results, panel: Panel) -> list[Point]:
    length, found = _length(results, panel), results.controls(panel)
    if length is None:
        return []
    bases = [(base, base, "edited", 1.0) for base in dict.fromkeys(control.base for control in found)]
    named = bases + [(control.editor, control.base, control.kind, control.factor) for control in found]
    points = []
    for editor, base, kind, factor in named:
        norm, scores = norm_at(results, panel, editor, length), _scores(results, panel, editor, length)
        if norm is not None and scores:
            points.append(Point(base, kind, factor, norm.value, scores))
    return points


def _scores(results: Results, panel: Panel, editor: str, length: int) -> dict[str, IntervalEstimate]:
    found = {
        "locality_accuracy": at_step(summary_curve(results, panel, editor, "retained", "locality_accuracy"), length),
        "benchmark_mean": at_step(benchmark_curve(results, panel, editor), length),
    }
    return {name: estimate for name, estimate in found.items() if estimate is not None}


def _draw(shown: dict[Panel, list[Point]], results: Results, page: Page) -> Figure:
    drawn = [(panel, name) for panel, points in shown.items() for name in QUANTITIES if any(name in point.scores for point in points)]
    fig, axes = panels(page, len(drawn), 2 if page.columns > 2 else 1, HEIGHT)
    for ax, (panel, name) in zip(axes, drawn, strict=True):
        points = [point for point in shown[panel] if name in point.scores]
        _lines(ax, points, name)
        for point in points:
            _mark(ax, point, point.scores[name])
        base = benchmark_curve(results, panel, "unedited")
        level = 1.0 if name == "locality_accuracy" else float(base["mean"].iloc[0]) if len(base) else None
        if level is not None:
            ax.axhline(level, color=MUTED, linestyle=(0, (1, 1.6)), linewidth=0.9)
        ax.margins(x=0.16, y=0.1)
        percent_axis(ax, "agreement with the unedited model, %" if name == "locality_accuracy" else "mean score, %", whole=False)
        ratio_axis(ax, "L1 norm relative to unedited", axis="x")
    label_panels(axes, [QUANTITIES[name] + title_suffix(results, panel, shown) for panel, name in drawn])
    legend(fig, page, _handles(), columns=4 if page.columns > 2 else 2)
    fig.draw_without_rendering()  # labels are placed by their final size, so the layout comes first
    for ax, (panel, name) in zip(axes, drawn, strict=True):
        points = [point for point in shown[panel] if name in point.scores]
        label_points(ax, [(point.norm, point.scores[name].value, _label(point), method_style(point.base).colour) for point in points])
    return fig


def _lines(ax: Axes, points: list[Point], name: str) -> None:
    """Draw a line through an editor's rescaled changes, and a dotted one to its scrambled change of the same norm."""
    for base in dict.fromkeys(point.base for point in points):
        own = [point for point in points if point.base == base]
        edited = [point for point in own if point.kind == "edited"]
        along = sorted((point for point in own if point.kind != "scramble"), key=lambda point: point.factor)
        colour = method_style(base).colour
        ax.plot([p.norm for p in along], [p.scores[name].value for p in along], color=colour, linewidth=0.8, zorder=2)
        for point in own:
            if point.kind == "scramble" and edited:
                ends = (edited[0], point)
                values = [end.scores[name].value for end in ends]
                ax.plot([end.norm for end in ends], values, color=colour, linewidth=0.9, linestyle=(0, (1, 1.5)), zorder=2)


def _mark(ax: Axes, point: Point, scores: IntervalEstimate) -> None:
    style = method_style(point.base)
    ax.plot([point.norm] * 2, [scores.low, scores.high], color=style.colour, linewidth=0.9, alpha=0.6, zorder=2)
    is_star = style.marker == "*" and point.kind != "scramble"
    hollow = {"markerfacecolor": PAPER, "markeredgecolor": style.colour, "markeredgewidth": 1.0}
    marker_style = hollow if point.kind == "rescale" else {"color": style.colour, "markeredgecolor": PAPER, "markeredgewidth": 0.5}
    marker = SCRAMBLED if point.kind == "scramble" else style.marker
    ax.plot(point.norm, scores.value, marker=marker, markersize=9.5 if is_star else 6, linestyle="None", zorder=3, **marker_style)


def _label(point: Point) -> str:
    return {"edited": method_name(point.base), "rescale": f"×{point.factor:g}"}.get(point.kind, "")


def _handles() -> list[Line2D]:
    plain = {"linestyle": "None", "markersize": 5.5, "markeredgewidth": 0.5}
    return [
        Line2D([], [], marker="o", color=MUTED, markeredgecolor=PAPER, label="as edited", **plain),
        Line2D([], [], marker=SCRAMBLED, color=MUTED, markeredgecolor=PAPER, label="scrambled: norm alone", **plain),
        Line2D([], [], marker="o", markerfacecolor=PAPER, markeredgecolor=MUTED, linestyle="None", markersize=5, label="rescaled"),
        Line2D([], [], color=MUTED, linestyle=(0, (1, 1.6)), linewidth=0.9, label="unedited"),
    ]
