"""Figure: retained efficacy, paraphrase and specificity against the number of edits, for all editors."""

from matplotlib.figure import Figure

from d4s.analysis.curves import summary_curve
from d4s.analysis.display_names import METRIC_NAMES, sorted_editors
from d4s.analysis.study_results import Panel, Results
from d4s.figures.captions import interval_note, on_datasets, sample_sizes, title_suffix
from d4s.figures.plot_elements import (
    NO_SEQUENCE,
    Drawing,
    FigureSkipped,
    curve,
    edits_axis,
    label_panels,
    methods_legend,
    panels,
    percent_axis,
)
from d4s.figures.style import Page

HEIGHT = 1.9


def figure(results: Results) -> Drawing:
    """The figure, three panels per data set.

    Raises:
        FigureSkipped: if there are single edits alone.
    """
    shown = results.main_panels
    if not shown:
        raise FigureSkipped(NO_SEQUENCE)
    caption = (
        "Retained efficacy, paraphrase and specificity (teacher-forced token accuracy; specificity is agreement with the frozen unedited "
        f"model), measured on all edits after the whole sequence{on_datasets(results, shown)}. "
        f"{sample_sizes(results, shown)} {interval_note(results)}"
    )
    return Drawing("What is left after the whole sequence", caption, lambda page: _draw(results, shown, page))


def _draw(results: Results, shown: list[Panel], page: Page) -> Figure:
    columns = 3 if page.columns >= 3 else 1
    fig, axes = panels(page, 3 * len(shown), columns, HEIGHT)
    titles = []
    for number, (panel, metric) in enumerate((panel, metric) for panel in shown for metric in METRIC_NAMES):
        for editor in results.editors(panel):
            curve(axes[number], summary_curve(results, panel, editor, "retained", metric), editor)
        percent_axis(axes[number], "%" if number % columns == 0 else "")
        edits_axis(axes[number], results.longest(panel))
        titles.append(METRIC_NAMES[metric] + title_suffix(results, panel, shown))
    label_panels(axes, titles)
    methods_legend(fig, page, sorted_editors(editor for panel in shown for editor in results.editors(panel)))
    return fig
