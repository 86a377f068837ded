"""Figure: probabilities of a model against those of the Bayesian reader, before and after single edits, one panel per case."""

from collections.abc import Mapping

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from d4s.analysis.belief_results import BeliefResults, EditedBeliefs
from d4s.analysis.display_names import method_name
from d4s.analysis.rules_beliefs import EDITOR
from d4s.analysis.study_results import Results
from d4s.figures.captions import on_datasets, seeds_note
from d4s.figures.plot_elements import Drawing, FigureSkipped, label_panels, legend, panels, percent_axis, percent_ticks
from d4s.figures.style import MUTED, PAPER, Page, method_style
from d4s.world.posterior import Case

TITLES: Mapping[Case, str] = {
    "same_same": "the request",
    "same_subject": "other relation",
    "same_relation": "other subject",
    "different": "both other",
}


def figure(results: Results) -> Drawing:
    """The figure, one panel per case, of the paper's own editor where it ran.

    Raises:
        FigureSkipped: if the study has no beliefs.
    """
    beliefs = BeliefResults.of(results)
    if not beliefs.panels:
        raise FigureSkipped("no single edits in a world of beliefs")
    panel = beliefs.panels[0]
    editor = EDITOR if EDITOR in beliefs.editors(panel) else beliefs.editors(panel)[0]
    cells = [beliefs.cell(run) for run in beliefs.singles.of_editor(panel, editor)]
    caption = (
        "Probability of an object under the model against that of the Bayesian reader, before (grey) and after each of "
        f"{sum(len(cell.after) for cell in cells)} single edits with {method_name(editor)}{on_datasets(results, [panel])}. The object "
        "is the one that the reader holds likeliest after the request. In the second and fourth panel the relation depends on the "
        "requested one where the subject has such a relation. On the dashed line model and reader agree. "
        f"{seeds_note(results)}"
    )
    return Drawing("Beliefs of the model and of a Bayesian reader", caption, lambda page: _draw(cells, editor, page))


def _draw(cells: list[EditedBeliefs], editor: str, page: Page) -> Figure:
    fig, axes = panels(page, len(TITLES), 4, 2.0, sharex=True, sharey=True)
    colour = method_style(editor).colour
    for ax, case in zip(axes, TITLES, strict=True):
        question = f"{case}.after"
        for bayes, model, shade in (("prior", "before", MUTED), ("posterior", "after", colour)):
            points = [(getattr(cell, bayes)[question], getattr(cell, model)[question]) for cell in cells]
            _scatter(ax, pd.concat([x for x, _ in points]), pd.concat([y for _, y in points]), shade)
        ax.plot([0, 1], [0, 1], color=MUTED, linestyle="--", linewidth=0.7, zorder=1)
        percent_axis(ax, "p, model, %" if ax is axes[0] else "")
        percent_ticks(ax, "p, reader, %", 4)
        ax.set_xlim(-0.03, 1.03)
    label_panels(axes, [*TITLES.values()])
    dots = {"before": MUTED, "after": colour}
    legend(fig, page, [Line2D([], [], color=shade, marker="o", linestyle="None", label=label) for label, shade in dots.items()])
    return fig


def _scatter(ax: Axes, x: "pd.Series[float]", y: "pd.Series[float]", colour: str) -> None:
    ax.scatter(x, y, s=9, color=colour, edgecolor=PAPER, linewidth=0.3, alpha=0.8, zorder=3)
