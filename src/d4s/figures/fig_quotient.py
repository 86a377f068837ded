"""Figure (after Yang et al. 2024): numerator and denominator of ROME's step, and which edits collapse the model."""

from collections.abc import Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from d4s.analysis.collapse import Collapse
from d4s.analysis.display_names import method_name, sorted_editors
from d4s.analysis.study_results import Panel, Results
from d4s.figures.plot_elements import Drawing, FigureSkipped, label_panels, legend, logarithmic_axis, panels
from d4s.figures.style import MUTED, TASK_STYLES, Page

HEIGHT = 1.8
COLLAPSED = TASK_STYLES[1][0]


def figure(results: Results) -> Drawing:
    """The figure, a panel per editor whose step is a quotient, model and data set.

    Raises:
        FigureSkipped: if there is no such editor among single edits.
    """
    found = Collapse(results)
    edits = found.edits if found.edits.empty else found.edits.dropna(subset=["numerator_norm", "denominator"])
    shown = [(panel, editor) for panel in found.panels for editor in sorted_editors(_of(edits, panel)["editor"])] if len(edits) else []
    if not shown:
        raise FigureSkipped("no single edit by ROME or a variant of it, whose step is a quotient")
    caption = (
        "ROME adds r uᵀ / (k·u): norm of the residual r against |k·u|, a point per single edit. Edits after which the model has "
        "collapsed are marked; edits that diverged have no such numbers."
    )
    return Drawing("The quotient of ROME's step", caption, lambda page: _draw(found, edits, shown, page))


def _of(edits: pd.DataFrame, panel: Panel) -> pd.DataFrame:
    return edits[(edits["model"] == panel.model) & (edits["dataset"] == panel.dataset)]


def _draw(found: Collapse, edits: pd.DataFrame, shown: Sequence[tuple[Panel, str]], page: Page) -> Figure:
    fig, axes = panels(page, len(shown), 3, HEIGHT)
    for ax, (panel, editor) in zip(axes, shown, strict=True):
        of = _of(edits, panel)
        _points(ax, of[of["editor"] == editor])
    label_panels(axes, [f"{method_name(editor)}\n{found.panel_name(panel)}" for panel, editor in shown])
    looks = [look for flag, look in _LOOKS.items() if (edits["collapsed"] == flag).any()]
    handles = [Line2D([], [], linestyle="", marker="o", markersize=3, color=colour, label=label) for label, colour in looks]
    legend(fig, page, handles)
    return fig


_LOOKS = {False: ("model stays whole", MUTED), True: ("model has collapsed", COLLAPSED)}
"""By whether the model has collapsed: label and colour."""


def _points(ax: Axes, edits: pd.DataFrame) -> None:
    for flag, (_, colour) in _LOOKS.items():
        some = edits[edits["collapsed"] == flag]
        ax.plot(some["denominator"], some["numerator_norm"], linestyle="", marker="o", markersize=2.2, color=colour)
    logarithmic_axis(ax, "|k·u|", "x")
    logarithmic_axis(ax, "‖r‖")
