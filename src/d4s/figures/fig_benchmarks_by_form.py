"""Figure: benchmark scores against the number of edits, for the three forms of the multi-question set."""

from d4s.analysis.display_names import FORM_NAMES
from d4s.analysis.study_results import Results
from d4s.figures.benchmark_panels import benchmark_figure
from d4s.figures.plot_elements import Drawing


def figure(results: Results) -> Drawing:
    """The figure, one panel per form and editor.

    Raises:
        FigureSkipped: if no benchmark was run after edits.
    """
    shown = [panel for panel in results.panels if results.form(panel.dataset) in FORM_NAMES]
    return benchmark_figure(results, shown, "Benchmarks by form of the question")
