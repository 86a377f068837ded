"""Figure: what routers make of each kind of probe, success and specificity against the number of edits, and the time of a query."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from d4s.analysis.curves import summary_curve
from d4s.analysis.display_names import sorted_editors
from d4s.analysis.memory_results import KINDS, MemoryResults
from d4s.analysis.study_results import Panel, Results
from d4s.figures.captions import interval_note, on_datasets, title_suffix
from d4s.figures.plot_elements import (
    Drawing,
    FigureSkipped,
    curve,
    edits_axis,
    label_panels,
    logarithmic_axis,
    methods_legend,
    panels,
    percent_axis,
)
from d4s.figures.style import PAPER, Page, method_style

HEIGHT = 2.1
CURVES = {"efficacy_accuracy": "Efficacy", "locality_accuracy": "Specificity"}
KIND_NAMES = ("edit", "paraphrase", "other relation", "shared name", "neighbour", "unrelated")


def figure(results: Results) -> Drawing:
    """The figure, four panels per data set.

    Raises:
        FigureSkipped: if no memory was asked.
    """
    memory = MemoryResults(results)
    shown = [panel for panel in results.panels if memory.editors(panel)]
    if not shown:
        raise FigureSkipped("no memory was asked: the study has no `measure.memory`")
    caption = (
        "Memories of edits: the share of prompts that the router sends where they belong, by kind of probe (the edit's own and its "
        "paraphrases to its entry, the others to none) at the longest length that all memories share; retained efficacy and specificity "
        "of all editors; and "
        "processor time to find the entry of one prompt, the memory's entries repeated to the number shown"
        f"{on_datasets(results, shown)}. {interval_note(results)}"
    )
    return Drawing("Memories: routes, scores and time", caption, lambda page: _draw(memory, shown, page))


def _draw(memory: MemoryResults, shown: Sequence[Panel], page: Page) -> Figure:
    results = memory.results
    fig, axes = panels(page, 4 * len(shown), 2, HEIGHT)
    titles = list[str]()
    for number, panel in enumerate(shown):
        of_kinds, *of_curves, of_times = axes[4 * number : 4 * number + 4]
        _draw_kinds(of_kinds, memory, panel)
        for ax, metric in zip(of_curves, CURVES, strict=True):
            for editor in results.editors(panel):
                curve(ax, summary_curve(results, panel, editor, "retained", metric), editor)
            percent_axis(ax, "%")
            edits_axis(ax, results.longest(panel))
        _draw_times(of_times, memory, panel)
        names = ("Routed where it belongs", *CURVES.values(), "Time of a query")
        titles += [name + title_suffix(results, panel, shown) for name in names]
    label_panels(axes, titles)
    methods_legend(fig, page, sorted_editors(editor for panel in shown for editor in results.editors(panel)))
    return fig


def _draw_kinds(ax: Axes, memory: MemoryResults, panel: Panel) -> None:
    """A row of markers per kind of probe, the editors a little apart."""
    editors, results = memory.editors(panel), memory.results
    shared = min(max(results.lengths(run)) for editor in editors for run in results.runs_of(panel, editor))
    for number, editor in enumerate(editors):
        rates = [memory.rates(run, shared) for run in results.runs_of(panel, editor)]
        shares, style = [float(np.nanmean([rate[kind] for rate in rates])) for kind in KINDS], method_style(editor)
        places = np.arange(len(KINDS)) + 0.6 * ((number + 0.5) / len(editors) - 0.5)
        ax.plot(shares, places, linestyle="none", marker=style.marker, color=style.colour, markeredgecolor=PAPER, markeredgewidth=0.4)
    ax.set_yticks(range(len(KINDS)), KIND_NAMES)
    ax.set_ylim(len(KINDS) - 0.5, -0.5)
    ax.set_xlim(-0.03, 1.03)
    ax.set_xticks([0, 0.25, 0.5, 0.75, 1.0], ["0", "25", "50", "75", "100"])
    ax.set_xlabel("%")


def _draw_times(ax: Axes, memory: MemoryResults, panel: Panel) -> None:
    """Milliseconds against the number of entries, both logarithmic; means over seeds at the longest length."""
    rows = memory.sizes[memory.sizes["quantity"] == "query_seconds"]
    for editor in memory.editors(panel):
        own = rows[(rows["editor"] == editor) & (rows["model"] == panel.model) & (rows["dataset"] == panel.dataset)]
        own = own[own["step"] == own["step"].max()]
        means = pd.Series(own.groupby("entries")["value"].mean() * 1000)
        style = method_style(editor)
        ax.plot(
            means.index, means, color=style.colour, linestyle=style.dash, marker=style.marker, markeredgecolor=PAPER, markeredgewidth=0.4
        )
    logarithmic_axis(ax, "entries", "x")
    logarithmic_axis(ax, "CPU-ms per query")
