"""Figure (after Yang et al. 2024): benchmark mean against perplexity, a point per edited model of a sequence."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from d4s.analysis.collapse import Collapse
from d4s.analysis.display_names import sorted_editors
from d4s.analysis.study_results import Results
from d4s.figures.captions import benchmark_description
from d4s.figures.plot_elements import Drawing, FigureSkipped, label_panels, methods_legend, panels, percent_axis
from d4s.figures.style import PAPER, Page, method_style

HEIGHT, CEILING = 2.2, 1e9


def figure(results: Results) -> Drawing:
    """The figure, a panel per model.

    Raises:
        FigureSkipped: if no sequence was benchmarked.
    """
    found = Collapse(results)
    if found.models.empty:
        raise FigureSkipped("no sequence of edits was benchmarked")
    caption = (
        f"Mean score of {benchmark_description(results)}, against the perplexity of held-out text (mean over rows), after sequences of "
        "edits of several lengths; a point per edited model. Perplexities beyond 10⁹ stand at the right edge."
    )
    return Drawing("Perplexity as an alarm", caption, lambda page: _draw(found, page))


def _draw(found: Collapse, page: Page) -> Figure:
    models = sorted(set(found.models["model"]))
    fig, axes = panels(page, len(models), 2, HEIGHT)
    for ax, model in zip(axes, models, strict=True):
        _points(ax, found, model)
    label_panels(axes, models)
    methods_legend(fig, page, sorted_editors(found.models["editor"]))
    return fig


def _points(ax: Axes, found: Collapse, model: str) -> None:
    for editor, part in found.models[found.models["model"] == model].groupby("editor"):
        style = method_style(str(editor))
        values = np.minimum(part["perplexity"].to_numpy(dtype=float), CEILING)
        ax.plot(
            values, part["score"], linestyle="", marker=style.marker, color=style.colour, markersize=4, markeredgecolor=PAPER,
            markeredgewidth=0.4,
        )  # fmt: skip
    ax.set_xscale("log")
    ax.set_xlabel("perplexity")
    percent_axis(ax, "benchmark mean, %", whole=False)
