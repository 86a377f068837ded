"""Figure: how varied the texts are that models write about edited subjects, and how many end in a loop, against the number of edits."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from d4s.analysis.curves import summary_curve
from d4s.analysis.display_names import sorted_editors
from d4s.analysis.study_results import Panel, Results
from d4s.figures.captions import interval_note, on_datasets, title_suffix
from d4s.figures.plot_elements import Drawing, FigureSkipped, curve, edits_axis, label_panels, methods_legend, panels, percent_axis
from d4s.figures.style import Page
from d4s.schemas import ENTROPY, LOOPS

HEIGHT = 2.0
SHOWN_LOSS, ABOVE = 0.6, 0.1  # bits below the lowest entropy of the unedited model, and above the highest of all, that are drawn
TITLES = {ENTROPY: "N-gram entropy", LOOPS: "Texts that end in a loop"}


def figure(results: Results) -> Drawing:
    """The figure, two panels per data set.

    Raises:
        FigureSkipped: if nothing was written.
    """
    shown = [panel for panel in results.panels if _editors(results, panel)]
    if not shown:
        raise FigureSkipped("no model wrote anything: the study has no `measure.fluency`")
    caption = (
        "What models write about edited subjects, drawn from the likeliest tokens: n-gram entropy (H₂/3 + 2 H₃/3 of words, bits; the "
        "continuation alone), and the share of texts whose last 20 words repeat one n-gram of at most 4"
        f"{on_datasets(results, shown)}. Entropies more than {SHOWN_LOSS} bits below the unedited model's are cut off. "
        f"{interval_note(results)}"
    )
    return Drawing("Fluency of what is written", caption, lambda page: _draw(results, shown, page))


def _editors(results: Results, panel: Panel) -> list[str]:
    return [editor for editor in results.editors(panel) if len(summary_curve(results, panel, editor, "retained", ENTROPY))]


def _draw(results: Results, shown: list[Panel], page: Page) -> Figure:
    fig, axes = panels(page, 2 * len(shown), 2, HEIGHT)
    titles = []
    for ax, (panel, metric) in zip(axes, ((panel, metric) for panel in shown for metric in TITLES), strict=True):
        for editor in _editors(results, panel):
            curve(ax, summary_curve(results, panel, editor, "retained", metric), editor)
        percent_axis(ax, "%") if metric == LOOPS else _entropy_axis(ax, results, panel)
        edits_axis(ax, results.longest(panel))
        titles.append(TITLES[metric] + title_suffix(results, panel, shown))
    label_panels(axes, titles)
    methods_legend(fig, page, sorted_editors(editor for panel in shown for editor in _editors(results, panel)))
    return fig


def _entropy_axis(ax: Axes, results: Results, panel: Panel) -> None:
    """Bits, so far down that losses of fluency can be compared; a model that only repeats itself lies far below."""
    ax.set_ylabel("bits")
    whole = summary_curve(results, panel, "unedited", "retained", ENTROPY)
    if len(whole):
        highest = max(float(np.max(line.get_ydata())) for line in ax.lines)
        ax.set_ylim(float(whole["mean"].min()) - SHOWN_LOSS, highest + ABOVE)
