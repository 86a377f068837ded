"""Figure (after Yang et al. 2024): the share of sequences whose model is still whole, of hard cases and of normal ones."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from d4s.analysis.collapse import Collapse, SequenceEnd
from d4s.analysis.display_names import method_name, sorted_editors
from d4s.analysis.study_results import Results
from d4s.figures.captions import seeds_note
from d4s.figures.plot_elements import Drawing, FigureSkipped, edits_axis, label_panels, legend, panels, percent_axis
from d4s.figures.style import DASHED, INK, MUTED, Page, method_style

HEIGHT = 1.6
DASHES = {"hard": "-", "normal": DASHED}
LEGEND = {"hard": MUTED, "normal": INK}
WIDTHS = {"hard": 2.4, "normal": 1.0}  # so that both are seen where they are one


def figure(results: Results) -> Drawing:
    """The figure, a panel per editor.

    Raises:
        FigureSkipped: if no sequences of hard and of normal cases were run.
    """
    ends = Collapse(results).sequences
    if not ends:
        raise FigureSkipped("no sequences of hard and of normal cases were run")
    caption = (
        "Sequences, one per seed, of the hardest single edits (solid) and of normal ones beside them (dashed): the share whose model "
        f"has not collapsed, at the lengths that were measured. {seeds_note(results).replace('Means over', 'Shares of')}"
    )
    return Drawing("How many edits until the model collapses", caption, lambda page: _draw(ends, page))


def _draw(ends: Sequence[SequenceEnd], page: Page) -> Figure:
    editors = sorted_editors(end.editor for end in ends)
    longest = max(end.edits for end in ends)
    fig, axes = panels(page, len(editors), 3, HEIGHT, sharey=True)
    for ax, editor in zip(axes, editors, strict=True):
        for cases in DASHES:
            _steps(ax, [end for end in ends if end.editor == editor and end.cases == cases], longest)
        edits_axis(ax, longest)
        percent_axis(ax, "whole models, %")
    label_panels(axes, [method_name(editor) for editor in editors])
    legend(
        fig,
        page,
        [
            Line2D([], [], color=LEGEND[cases], linestyle=dash, linewidth=WIDTHS[cases], label=f"{cases} cases")
            for cases, dash in DASHES.items()
        ],
    )
    return fig


def _steps(ax: Axes, ends: Sequence[SequenceEnd], longest: int) -> None:
    """The curve of one set of sequences; it falls where a model collapses."""
    if not ends:
        return
    falls = sorted(end.edits for end in ends if end.collapsed)
    shares = [1 - number / len(ends) for number in range(len(falls) + 1)]
    ax.step(
        [0, *falls, longest],
        [*shares, shares[-1]],
        where="post",
        color=method_style(ends[0].editor).colour if ends[0].cases == "hard" else INK,
        linestyle=DASHES[ends[0].cases],
        linewidth=WIDTHS[ends[0].cases],
    )
