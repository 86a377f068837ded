"""Figure: probability of the target when it is optimised, success right after the edit, and L1 norm, along the sequence."""

from matplotlib.figure import Figure

from d4s.analysis.curves import binned_curve, norm_curve
from d4s.analysis.study_results import Panel, Results
from d4s.figures.captions import interval_note, on_datasets, title_suffix
from d4s.figures.plot_elements import (
    Drawing,
    FigureSkipped,
    curve,
    edits_axis,
    label_panels,
    methods_legend,
    panels,
    percent_axis,
    ratio_axis,
    ratio_range,
)
from d4s.figures.style import Page

BINS = 10
HEIGHT = 1.95
PROBABILITY, EFFICACY = "target_probability_after", "efficacy_accuracy"


def figure(results: Results) -> Drawing:
    """The figure, three panels per data set.

    Raises:
        FigureSkipped: if no run logged its edits.
    """
    shown = {panel: _editors_with_log(results, panel) for panel in results.main_panels}
    shown = {panel: editors for panel, editors in shown.items() if editors}
    if not shown:
        raise FigureSkipped("no run logged scores right after its edits")
    caption = (
        "The bottleneck along the sequence: probability of the new target at the end of its optimisation (methods that optimise a target), "
        "share of target tokens right straight after the edit, and L1 norm of the edited matrices relative to the unedited ones (mean "
        f"over layers, log axis){on_datasets(results, list(shown))}. Edits are averaged in {BINS} bins by position. "
        + interval_note(results, "edits")
    )
    return Drawing("The bottleneck: success and norm along the sequence", caption, lambda page: _draw(results, shown, page))


def _editors_with_log(results: Results, panel: Panel) -> list[str]:
    return [editor for editor in results.editors(panel, references=False) if len(binned_curve(results, panel, editor, EFFICACY, BINS))]


def _draw(results: Results, shown: dict[Panel, list[str]], page: Page) -> Figure:
    columns = 3 if page.columns >= 3 else 1
    fig, axes = panels(page, 3 * len(shown), columns, HEIGHT)
    titles = []
    for row, (panel, editors) in enumerate(shown.items()):
        probability, success, norm = axes[3 * row : 3 * row + 3]
        for editor in editors:
            curve(probability, binned_curve(results, panel, editor, PROBABILITY, BINS), editor)
            curve(success, binned_curve(results, panel, editor, EFFICACY, BINS), editor)
            curve(norm, norm_curve(results, panel, editor), editor, marker="None")
        for ax in (probability, success):
            percent_axis(ax, "%")
        ratio_range([norm])
        ratio_axis(norm, "relative to unedited")
        for ax in (probability, success, norm):
            edits_axis(ax, results.longest(panel), "position in the sequence")
        place = title_suffix(results, panel, shown)
        titles += [f"Target probability{place}", f"Success right after{place}", f"L1 norm{place}"]
    label_panels(axes, titles)
    methods_legend(fig, page, list(dict.fromkeys(editor for editors in shown.values() for editor in editors)))
    return fig
