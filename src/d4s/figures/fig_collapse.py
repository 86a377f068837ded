"""Figure (after Yang et al. 2024): what single edits do to the perplexity of text, sorted, one strip per editor."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from d4s.analysis.collapse import RATIO, Collapse
from d4s.analysis.display_names import method_name, sorted_editors
from d4s.analysis.study_results import Panel, Results
from d4s.figures.captions import seeds_note
from d4s.figures.plot_elements import Drawing, FigureSkipped, label_panels, panels, ratio_axis
from d4s.figures.style import DASHED, MUTED, Page, method_style

HEIGHT, STRIP, FILL = 0.6, 0.24, 0.8
CEILING = 1e6


def figure(results: Results) -> Drawing:
    """The figure, a panel per model and data set of single edits.

    Raises:
        FigureSkipped: if text was read after no single edit.
    """
    found = Collapse(results)
    if not found.panels:
        raise FigureSkipped("the perplexity of text was measured after no single edit")
    counts = found.edits.dropna(subset=RATIO).groupby(["model", "dataset", "editor"]).size()
    caption = (
        "Perplexity of held-out text (mean over rows) after a single edit, relative to the unedited model's, sorted within each editor's "
        f"strip, {counts.min()} to {counts.max()} edits each; the dashed line is the bound of a collapse, ×{found.times:g}. Edits that "
        f"diverged, and ratios beyond 10⁶, stand at the right edge. {seeds_note(results).replace('Means over', 'Edits of')}"
    )
    return Drawing("What one edit does to perplexity", caption, lambda page: _draw(found, page))


def _draw(found: Collapse, page: Page) -> Figure:
    editors = sorted_editors(found.edits["editor"])
    fig, axes = panels(page, len(found.panels), 3, HEIGHT + STRIP * len(editors), sharex=True, sharey=True)
    for ax, panel in zip(axes, found.panels, strict=True):
        _strips(ax, found, panel, editors)
    axes[0].set_yticks([place + FILL / 2 for place in range(len(editors))], [method_name(editor) for editor in editors])
    axes[0].invert_yaxis()
    label_panels(axes, [found.panel_name(panel) for panel in found.panels])
    return fig


def _strips(ax: Axes, found: Collapse, panel: Panel, editors: Sequence[str]) -> None:
    edits = found.edits[(found.edits["model"] == panel.model) & (found.edits["dataset"] == panel.dataset)].dropna(subset=RATIO)
    for place, editor in enumerate(editors):
        ratios = np.sort(edits.loc[edits["editor"] == editor, RATIO].to_numpy(dtype=float)).clip(max=CEILING)
        heights = place + FILL * (1 - np.arange(len(ratios)) / max(1, len(ratios) - 1))
        ax.plot(ratios, heights, linestyle="", marker=".", markersize=2.5, color=method_style(editor).colour)
    ax.axvline(found.times, color=MUTED, linewidth=0.8, linestyle=DASHED)
    ratio_axis(ax, "perplexity ratio", "x")
