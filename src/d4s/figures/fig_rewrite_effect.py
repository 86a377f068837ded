"""Figure (after Hase et al. 2023): rewrite score of each fact against the tracing effect at the edited layer, one panel per layer."""

from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from d4s.analysis.localisation import Localisation, Method
from d4s.analysis.study_results import Results
from d4s.figures.plot_elements import Drawing, FigureSkipped, label_panels, legend, panels, percent_axis
from d4s.figures.style import Page, method_style

HEIGHT = 1.75


def figure(results: Results) -> Drawing:
    """The figure, for the model with the most edits.

    Raises:
        FigureSkipped: if no injected errors were swept over layers of traced facts.
    """
    located = Localisation(results)
    injected = {key: frame for key, frame in located.cells.items() if key.problem == "injection"}
    if not injected:
        raise FigureSkipped("no injected errors were swept over layers of traced facts")
    models = {key.model: sum(len(frame) for other, frame in injected.items() if other.model == key.model) for key in injected}
    model = max(models, key=lambda name: models[name])
    methods: dict[Method, pd.DataFrame] = {}
    for key, frame in injected.items():
        if key.model == model:
            methods[key.method] = pd.concat([methods.get(key.method, frame.iloc[:0]), frame])
    caption = (
        f"Error injection into {model}: rewrite score of every fact against the share of the answer that restoring the edited layers "
        "brings back, one panel per layer that is edited. Were tracing to say where to edit, points would rise within a panel. "
        "Shares above 100 % are cut at the right. r: correlation over facts of each method, in the order of the legend; "
        "– where scores or effects do not vary."
    )
    return Drawing("Editing against tracing, by layer", caption, lambda page: _draw(methods, page))


def _draw(methods: Mapping[Method, pd.DataFrame], page: Page) -> Figure:
    layers = sorted({int(layer) for frame in methods.values() for layer in frame["layer"].unique()})
    fig, axes = panels(page, len(layers), 3, HEIGHT, sharex=True, sharey=True)
    for ax, layer in zip(axes, layers, strict=True):
        for method, frame in methods.items():
            _points(ax, method, frame[frame["layer"] == layer])
        ax.set_xlim(-0.05, 1.05)
        percent_axis(ax)
        ax.set_xlabel(f"tracing effect\nr: {_correlations(methods.values(), layer)}")
    axes[0].set_ylabel("rewrite score, %")
    label_panels(axes, [f"layer {layer}" for layer in layers])
    handles = [
        Line2D([], [], color=style.colour, marker=style.marker, linestyle="None", markersize=4, fillstyle=_fill(method), label=method.name)
        for method, style in ((method, method_style(method.preset)) for method in methods)
    ]
    legend(fig, page, handles)
    return fig


def _points(ax: Axes, method: Method, frame: pd.DataFrame) -> None:
    style = method_style(method.preset)
    look: dict[str, Any] = {"marker": style.marker, "color": style.colour, "markersize": 2.6, "alpha": 0.5, "fillstyle": _fill(method)}
    look["markeredgewidth"] = 0 if method.window == 1 else 0.6
    ax.plot(frame["effect"].clip(upper=1.0), frame["score"], linestyle="None", **look)


def _fill(method: Method) -> Any:
    """Open marks of methods that edit several layers together."""
    return "full" if method.window == 1 else "none"


def _correlations(frames: Iterable[pd.DataFrame], layer: int) -> str:
    """Correlations of score and effect at a layer, one per method."""
    shown = []
    for frame in frames:
        here = frame[frame["layer"] == layer]
        varies = len(here) > 2 and here["effect"].nunique() > 1 and here["score"].nunique() > 1
        shown.append(f"{here['effect'].corr(here['score']):+.2f}".replace("-", "−") if varies else "–")
    return ", ".join(shown)
