"""Figure (ours): retained accuracy by age of the edit, after the longest sequence."""

from matplotlib.figure import Figure

from d4s.analysis.curves import age_curve
from d4s.analysis.display_names import METRIC_NAMES, sorted_editors
from d4s.analysis.study_results import Panel, Results
from d4s.figures.captions import interval_note, on_datasets, title_suffix
from d4s.figures.plot_elements import Drawing, FigureSkipped, curve, label_panels, methods_legend, panels, percent_axis
from d4s.figures.style import Page

BINS = 6
HEIGHT = 2.3
METRICS = ("efficacy_accuracy", "paraphrase_accuracy")


def figure(results: Results) -> Drawing:
    """The figure, efficacy and paraphrase by age, per data set.

    Raises:
        FigureSkipped: if no run is long enough to have ages.
    """
    shown = {panel: results.shared_length(panel, results.editors(panel, references=False)) or 0 for panel in results.main_panels}
    shown = {panel: length for panel, length in shown.items() if length >= BINS}
    if not shown:
        raise FigureSkipped("no sequence is long enough to tell old edits from young ones")
    lengths = " / ".join(str(length) for length in shown.values())
    caption = (
        f"Retained efficacy and paraphrase after {lengths} edits by age: the number of edits made since, in {BINS} bins of equal size"
        f"{on_datasets(results, list(shown))}. A flat line forgets nothing; a falling one forgets the oldest edits first; a low right-hand "
        f"start means that even the newest edits fail. {interval_note(results)}"
    )
    return Drawing("Retention by age of the edit", caption, lambda page: _draw(results, shown, page))


def _draw(results: Results, shown: dict[Panel, int], page: Page) -> Figure:
    columns = 2 if page.columns >= 3 else 1
    fig, axes = panels(page, 2 * len(shown), columns, HEIGHT)
    titles = []
    for number, (panel, metric) in enumerate((panel, metric) for panel in shown for metric in METRICS):
        ax = axes[number]
        for editor in results.editors(panel, references=False):
            curve(ax, age_curve(results, panel, editor, shown[panel], metric=metric, bins=BINS), editor)
        percent_axis(ax, "%" if number % columns == 0 else "")
        ax.set_xlim(shown[panel], 0)
        ax.set_xlabel("edits made since (oldest left)")
        titles.append(METRIC_NAMES[metric] + title_suffix(results, panel, shown))
    label_panels(axes, titles)
    methods_legend(fig, page, sorted_editors(editor for panel in shown for editor in results.editors(panel, references=False)))
    return fig
