"""Benchmark scores against the number of edits, for the three forms of the multi-question set."""

from d4s.figures.benchmarks import benchmark_figure
from d4s.figures.draw import Drawing
from d4s.studies.names import FORM_NAMES
from d4s.studies.results import Results


def figure(results: Results) -> Drawing:
    """One panel per form and editor.

    Raises:
        NotDrawn: if no benchmark was run after edits.
    """
    shown = [panel for panel in results.panels if results.form(panel.dataset) in FORM_NAMES]
    return benchmark_figure(results, shown, "Benchmarks by form of the question")
