"""Figure (after Hase et al. 2023): how much the edited layer explains of the rewrite score, and what the tracing effect adds."""

from collections.abc import Mapping

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from d4s.analysis.display_names import method_order
from d4s.analysis.localisation import Localisation, Method
from d4s.analysis.localisation_fits import ProblemFit, problem_fits
from d4s.analysis.localisation_scores import PROBLEMS
from d4s.analysis.study_results import Results
from d4s.figures.captions import seeds_note
from d4s.figures.plot_elements import Drawing, FigureSkipped, label_panels, legend, panels
from d4s.figures.style import INK, MUTED, TASK_STYLES, Page

HEIGHT, ROW = 0.75, 0.2
LAYER, ADDED = TASK_STYLES[0][0], TASK_STYLES[1][0]


def figure(results: Results) -> Drawing:
    """The figure, one panel per problem and a bar per method.

    Raises:
        FigureSkipped: if no edits were swept over layers of traced facts.
    """
    fits = [fit for fit in problem_fits(Localisation(results)) if fit.reading == ""]
    if not fits:
        raise FigureSkipped("no edits were swept over layers of traced facts, or their scores do not vary")
    caption = (
        "Adjusted R² of the rewrite score by the edited layer (a mean per layer), and what the tracing effect at that layer with its "
        "interaction adds; lines: 95 % bootstrap intervals, over facts, of both together. "
        f"Problems without a bar for a method were not run, or their scores do not vary. {seeds_note(results)}"
    )
    return Drawing("What explains how well an edit works", caption, lambda page: _draw(results, fits, page))


def _draw(results: Results, fits: list[ProblemFit], page: Page) -> Figure:
    problems = [problem for problem in PROBLEMS if any(fit.problem == problem for fit in fits)]
    rows = sorted({(fit.model, fit.method) for fit in fits}, key=lambda row: (row[0], method_order(row[1].preset), row[1].window))
    fig, axes = panels(page, len(problems), 3, HEIGHT + ROW * len(rows), sharex=True, sharey=True)
    for ax, problem in zip(axes, problems, strict=True):
        _bars(ax, {(fit.model, fit.method): fit for fit in fits if fit.problem == problem}, rows)
    names = [method.name + (f" ({model})" if len(results.models) > 1 else "") for model, method in rows]
    axes[0].set_yticks(range(len(rows)), names)
    axes[0].invert_yaxis()
    label_panels(axes, [problem.capitalize() for problem in problems])
    legend(fig, page, [Patch(color=LAYER, label="edited layer"), Patch(color=ADDED, label="added by tracing")])
    return fig


def _bars(ax: Axes, fits: Mapping[tuple[str, Method], ProblemFit], rows: list[tuple[str, Method]]) -> None:
    for place, row in enumerate(rows):
        if row not in fits:
            continue
        layer, both = fits[row].layer, fits[row].both
        ax.barh(place, layer.value, height=0.62, color=LAYER)
        ax.barh(place, both.value - layer.value, left=layer.value, height=0.62, color=ADDED)
        ax.plot([both.low, both.high], [place, place], color=INK, linewidth=0.8)
    ax.set_xlim(min(0.0, ax.get_xlim()[0]), 1.02)
    ax.axvline(0, color=MUTED, linewidth=0.6)
    ax.set_xlabel("R² of the rewrite score")
