"""Along the sequence: probability of the target at edit time, success right after the edit, and the norm."""

from matplotlib.figure import Figure

from d4s.figures.draw import Drawing, NotDrawn, curve, edits_axis, letter, methods_legend, panels, percent_axis, ratio_axis, ratio_range
from d4s.figures.style import Page
from d4s.figures.words import interval_words, place_beside, places
from d4s.studies.curves import binned_curve, norm_curve
from d4s.studies.results import Panel, Results

BINS = 10
HEIGHT = 1.95
PROBABILITY, EFFICACY = "target_probability_after", "efficacy_accuracy"


def figure(results: Results) -> Drawing:
    """Three panels per data set.

    Raises:
        NotDrawn: if no run logged its edits.
    """
    shown = {panel: _logged(results, panel) for panel in results.main_panels}
    shown = {panel: editors for panel, editors in shown.items() if editors}
    if not shown:
        raise NotDrawn("no run logged scores right after its edits")
    caption = (
        "The bottleneck along the sequence: probability of the new target at the end of its optimisation (methods that optimise a target), "
        "share of target tokens right straight after the edit, and L1 norm of the edited matrices relative to the unedited ones (mean "
        f"over layers, log axis){places(results, list(shown))}. Edits are averaged in {BINS} bins by position. "
        + interval_words(results, "edits")
    )
    return Drawing("The bottleneck: success and norm along the sequence", caption, lambda page: _draw(results, shown, page))


def _logged(results: Results, panel: Panel) -> list[str]:
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
        place = place_beside(results, panel, shown)
        titles += [f"Target probability{place}", f"Success right after{place}", f"L1 norm{place}"]
    letter(axes, titles)
    methods_legend(fig, page, list(dict.fromkeys(editor for editors in shown.values() for editor in editors)))
    return fig
