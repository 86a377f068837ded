"""Figure (ours): damage by data set against properties of its targets, one panel per property."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from d4s.analysis.display_names import CONTROL_NAMES, FORM_NAMES, dataset_name, method_name
from d4s.analysis.drivers import FEWEST_ROWS, TARGET_PROPERTIES, DamageTable, Effect, damage_table, effects
from d4s.analysis.study_results import Results
from d4s.figures.captions import seeds_note
from d4s.figures.plot_elements import Drawing, FigureSkipped, label_panels, label_points, legend, panels
from d4s.figures.style import INK, MUTED, PAPER, TASK_STYLES, Page

HEIGHT = 2.4
KINDS = {"data set": "o", "form": "s", "control": "^"}
LABELS = {"perplexity": "log perplexity per token, nats", "tokens": "tokens per target", "diversity": "diversity, bits"}


def figure(results: Results) -> Drawing:
    """The figure, one panel per property of the targets.

    Raises:
        FigureSkipped: if too few data sets have benchmarks.
    """
    found = damage_table(results)
    if found is None or not found.can_separate_predictors:
        raise FigureSkipped(f"benchmarks after edits of at least {FEWEST_ROWS} data sets are needed")
    each = effects(found)
    numbers = "; ".join(
        f"{TARGET_PROPERTIES[name].lower()} {_effect_text(each, name, True)} alone, {_effect_text(each, name, False)} together"
        for name in TARGET_PROPERTIES
    )
    editors = ", ".join(map(method_name, found.editors))
    caption = (
        f"Loss of the mean benchmark score after {found.length} edits (mean of {editors}), one point per data set, against properties of "
        "its counterfactual targets under the unedited model; lines are least squares of the property alone. Points lost per standard "
        f"deviation, with 95 % HC3 intervals: {numbers}. {seeds_note(results)}"
    )
    return Drawing("What about the data does the damage", caption, lambda page: _draw(results, found, page))


def _effect_text(each: list[Effect], name: str, is_univariate: bool) -> str:
    found = next(effect.estimate for effect in each if effect.predictor == name and effect.is_univariate == is_univariate)
    value, low, high = (f"{100 * number:+.1f}".replace("-", "−") for number in (found.value, found.low, found.high))
    return f"{value} [{low}, {high}]"


def _draw(results: Results, found: DamageTable, page: Page) -> Figure:
    columns = 3 if page.columns >= 3 else 1
    fig, axes = panels(page, len(TARGET_PROPERTIES), columns, HEIGHT, sharey=True)
    rows = found.rows.to_dict(orient="records")
    colours = [TASK_STYLES[number % len(TASK_STYLES)][0] for number in range(len(rows))]
    markers = [KINDS[_kind(results, str(row["dataset"]))] for row in rows]
    points = [_panel(ax, found, name, markers, colours) for ax, name in zip(axes, TARGET_PROPERTIES, strict=True)]
    for ax in axes[::columns]:
        ax.set_ylabel("points lost")
    label_panels(axes, list(TARGET_PROPERTIES.values()))
    handles = [
        Line2D(
            [], [], color=colours[place], marker=markers[place], linestyle="None", markersize=5, label=f"{place + 1}  {_name(rows, place)}"
        )
        for place in range(len(rows))
    ]
    legend(fig, page, handles, columns=4 if page.columns > 2 else 2)
    fig.draw_without_rendering()  # labels are placed by their final size, so the layout comes first
    for ax, along in zip(axes, points, strict=True):
        label_points(ax, [(x, y, str(place), INK) for place, (x, y) in enumerate(along, start=1)])
    return fig


def _panel(ax: Axes, found: DamageTable, name: str, markers: Sequence[str], colours: Sequence[str]) -> list[tuple[float, float]]:
    """Draw damage against one property with the fitted line; returns the points."""
    x, y = found.rows[name].to_numpy(dtype=float), 100 * found.rows["damage"].to_numpy(dtype=float)
    slope, start = np.polyfit(x, y, 1)
    ends = np.array([x.min(), x.max()])
    shown = np.exp if name == "tokens" else np.asarray
    ax.plot(shown(ends), start + slope * ends, color=MUTED, linewidth=0.9, zorder=1)
    points = [(float(at), float(height)) for at, height in zip(shown(x), y, strict=True)]
    for (at, height), marker, colour in zip(points, markers, colours, strict=True):
        ax.plot(at, height, marker=marker, color=colour, markersize=6, markeredgecolor=PAPER, markeredgewidth=0.5)
    if name == "tokens":
        ax.set_xscale("log", base=2)
        ax.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    ax.set_xlabel(LABELS[name])
    return points


def _name(rows: Sequence[Mapping[Any, Any]], place: int) -> str:
    models = {row["model"] for row in rows}
    name = dataset_name(str(rows[place]["dataset"]))
    return name if len(models) == 1 else f"{name}, {rows[place]['model']}"


def _kind(results: Results, dataset: str) -> str:
    form = results.form(dataset)
    return "form" if form in FORM_NAMES else "control" if form in CONTROL_NAMES else "data set"
