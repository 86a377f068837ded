"""Figure: the score against the size of batches, read right after each batch and after all, and specificity against the norm."""

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, NullLocator, ScalarFormatter

from d4s.analysis.batch_series import READINGS, RETAINED, BatchSeries, batch_series
from d4s.analysis.curves import curve_of, summary_curve
from d4s.analysis.display_names import method_name
from d4s.analysis.editing_score import score_interval
from d4s.analysis.study_results import Results
from d4s.figures.captions import interval_note, on_datasets, title_suffix
from d4s.figures.plot_elements import Drawing, FigureSkipped, curve, label_panels, legend, logarithmic_axis, panels, percent_axis
from d4s.figures.style import DASHED, MUTED, PAPER, Page, method_style

HEIGHT = 1.9
SPECIFICITY, NORM = "locality_accuracy", "frobenius_delta"


def figure(results: Results) -> Drawing:
    """The figure, a panel per editor, and one for the norms, per data set.

    Raises:
        FigureSkipped: if no requests were edited both at once and in smaller batches.
    """
    found = [
        (series, total) for panel in results.main_panels for series in batch_series(results, panel) if (total := series.total(results))
    ]
    if not found:
        raise FigureSkipped("no requests were edited both at once and in smaller batches")
    shown = list(dict.fromkeys(series.panel for series, _ in found))
    totals = " / ".join(map(str, dict.fromkeys(total for _, total in found)))
    caption = (
        f"S, the harmonic mean of efficacy, paraphrase and specificity, of {totals} requests in batches of a size: retained (solid, after "
        f"all batches) and immediate (dashed, each batch right after itself){on_datasets(results, shown)}. The two meet where all are one "
        "batch. The last panel has one point per editor, size and length: specificity against the norm of the change, which tells whether "
        f"size acts through the norm. {interval_note(results)}"
    )
    return Drawing("The size of batches", caption, lambda page: _draw(results, found, page))


def _draw(results: Results, found: Sequence[tuple[BatchSeries, int]], page: Page) -> Figure:
    shown = list(dict.fromkeys(series.panel for series, _ in found))
    fig, axes = panels(page, len(found) + len(shown), 3 if page.columns >= 3 else 1, HEIGHT)
    titles = []
    for ax, (series, total) in zip(axes, found, strict=False):
        _draw_sizes(ax, results, series, total)
        titles.append(method_name(series.name) + title_suffix(results, series.panel, shown))
    for ax, panel in zip(axes[len(found) :], shown, strict=True):
        _draw_norms(ax, results, [series for series, _ in found if series.panel == panel])
        titles.append("Specificity and norm" + title_suffix(results, panel, shown))
    label_panels(axes, titles)
    lines: dict[str, Any] = {RETAINED: "-", "immediate": DASHED}
    points = {series.name: _look(series.preset(results)) for series, _ in found}
    handles = [Line2D([], [], color=MUTED, linestyle=dash, label=reading) for reading, dash in lines.items()]
    legend(fig, page, [*handles, *(Line2D([], [], linestyle="", label=method_name(name), **look) for name, look in points.items())])
    return fig


def _draw_sizes(ax: Axes, results: Results, series: BatchSeries, total: int) -> None:
    """S against the size of batches by both readings."""
    sizes = [size for size in series.editors if total in series.lengths(results, size)]
    for reading, read in READINGS.items():
        points = []
        for size in sizes:
            frames = [read(results, run, total) for run in results.runs_of(series.panel, series.editors[size])]
            points.append((float(size), [score_interval(frame) for frame in frames if len(frame)]))
        dash: dict[str, Any] = {} if reading == RETAINED else {"linestyle": DASHED, "zorder": 2.5}
        curve(ax, curve_of(points), series.preset(results), **({"linestyle": "-"} | dash))
    ax.set_xscale("log", base=2)
    ax.xaxis.set_major_locator(FixedLocator(sizes))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(ScalarFormatter())
    ax.set_xlabel("requests per batch")
    percent_axis(ax, "S, %")


def _draw_norms(ax: Axes, results: Results, found: Sequence[BatchSeries]) -> None:
    """Specificity against the norm of the change, a point per size and length."""
    for series in found:
        for editor in series.editors.values():
            norms = summary_curve(results, series.panel, editor, "state", NORM).set_index("step")["mean"]
            kept = summary_curve(results, series.panel, editor, RETAINED, SPECIFICITY).set_index("step")["mean"]
            steps = norms.index[norms > 0].intersection(kept.index)
            ax.plot(norms[steps], kept[steps], linestyle="", **_look(series.preset(results)))
    logarithmic_axis(ax, "Frobenius norm of the change", "x")
    percent_axis(ax, "specificity, %")


def _look(editor: str) -> dict[str, Any]:
    style = method_style(editor)
    return {"color": style.colour, "marker": style.marker, "markersize": 4, "markeredgecolor": PAPER, "markeredgewidth": 0.4}
