"""Figure: single edits at one layer after another, each from the original weights."""

from collections.abc import Sequence

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from d4s.analysis.batch_series import LayerScores, by_name, layer_sweeps
from d4s.analysis.curves import curve_of
from d4s.analysis.display_names import METRIC_NAMES
from d4s.analysis.editing_score import score_interval
from d4s.analysis.intervals import IntervalEstimate, mean_interval
from d4s.analysis.study_results import Panel, Results
from d4s.figures.captions import interval_note, on_datasets, title_suffix
from d4s.figures.plot_elements import Drawing, FigureSkipped, curve, label_panels, methods_legend, panels, percent_axis
from d4s.figures.style import Page

HEIGHT = 1.75
SCORE = "S"
MEASURES = {SCORE: "S", **METRIC_NAMES}


def figure(results: Results) -> Drawing:
    """The figure, a panel for S and for each of its three parts, per data set.

    Raises:
        FigureSkipped: if no editor was swept over layers.
    """
    sweeps = layer_sweeps(results)
    if not sweeps:
        raise FigureSkipped("no editor was swept over layers with single edits")
    shown = list(dict.fromkeys(sweep.panel for sweep in sweeps))
    requests = max(len(frame) for sweep in sweeps for frame in sweep.scores.values())
    caption = (
        "Single edits, each from the original weights, at one layer after another: S, the harmonic mean of efficacy, paraphrase and "
        f"specificity, and these three{on_datasets(results, shown)}. n = {requests} requests; an edit that diverged counts as 0. "
        f"{interval_note(results, 'requests')}"
    )
    return Drawing("Which layer takes an edit", caption, lambda page: _draw(results, shown, sweeps, page))


def _draw(results: Results, shown: Sequence[Panel], sweeps: Sequence[LayerScores], page: Page) -> Figure:
    fig, axes = panels(page, len(MEASURES) * len(shown), 4 if page.columns >= 4 else 2, HEIGHT)
    titles, names = [], list[str]()
    for number, (panel, measure) in enumerate((panel, measure) for panel in shown for measure in MEASURES):
        for of_panel, name, seeds in by_name(sweeps):
            if of_panel == panel:
                points = curve_of((layer, [_estimate(sweep, layer, measure) for sweep in seeds]) for layer in seeds[0].scores)
                curve(axes[number], points, name)
                names.append(name)
        percent_axis(axes[number], "%" if number % len(MEASURES) == 0 else "")
        axes[number].set_xlabel("layer")
        axes[number].xaxis.set_major_locator(MaxNLocator(6, integer=True))
        titles.append(MEASURES[measure] + title_suffix(results, panel, shown))
    label_panels(axes, titles)
    methods_legend(fig, page, list(dict.fromkeys(names)))
    return fig


def _estimate(sweep: LayerScores, layer: int, measure: str) -> IntervalEstimate:
    frame = sweep.scores[layer]
    return score_interval(frame) if measure == SCORE else mean_interval(frame[measure].to_numpy())
