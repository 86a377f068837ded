"""Figure: benchmark scores against the number of edits, for the paper's editors and D4S on every data set of facts."""

from d4s.analysis.study_results import Results
from d4s.figures.benchmark_panels import benchmark_figure
from d4s.figures.plot_elements import Drawing


def figure(results: Results) -> Drawing:
    """The figure, one panel per data set and editor.

    Raises:
        FigureSkipped: if no benchmark was run after edits.
    """
    shown = [panel for panel in results.panels if results.form(panel.dataset) is None]
    return benchmark_figure(results, shown, "Benchmarks by data set")
