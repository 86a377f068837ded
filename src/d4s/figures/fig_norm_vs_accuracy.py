"""Figure: norm against retained accuracy, one point per run and length, with rank correlations per editor and pooled."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from scipy import stats

from d4s.analysis.display_names import method_name, sorted_editors
from d4s.analysis.norm_comparison import norm_points
from d4s.analysis.study_results import Results
from d4s.figures.captions import on_datasets, seeds_note
from d4s.figures.plot_elements import Drawing, FigureSkipped, handle, legend, panels, percent_axis, ratio_axis
from d4s.figures.style import PAPER, Page, method_style

HEIGHT = 2.9


def figure(results: Results) -> Drawing:
    """The figure, one panel.

    Raises:
        FigureSkipped: if fewer than three points have both.
    """
    points = norm_points(results, results.main_panels)
    if len(points) < 3:
        raise FigureSkipped("fewer than three points with both norm and retained accuracy")
    pooled = _spearman(points)
    pearson = float(np.corrcoef(np.log(points["norm"]), points["efficacy"])[0, 1])
    caption = (
        "L1 norm of the edited matrices (relative to the unedited ones, mean over layers, log axis) against retained efficacy, one point "
        f"per run and length{on_datasets(results, results.main_panels)}; lines join the lengths of a run, larger points are longer "
        f"sequences. ρ is Spearman's rank correlation within a method; pooled over all {len(points)} points ρ = {_signed(pooled)} and "
        f"Pearson's r (log norm) = {_signed(pearson)}. Within one method norm and accuracy both follow the number of edits; only the "
        f"pooled number compares norms at like lengths. {seeds_note(results)}"
    )
    return Drawing("Norm against retained accuracy", caption, lambda page: _draw(points, page))


def _spearman(points: pd.DataFrame) -> float:
    if len(points) < 3 or points["efficacy"].nunique() < 2:
        return float("nan")
    return float(np.asarray(stats.spearmanr(points["norm"], points["efficacy"]))[0])


def _signed(value: float) -> str:
    return "–" if np.isnan(value) else f"{value:+.2f}".replace("-", "−")


def _draw(points: pd.DataFrame, page: Page) -> Figure:
    fig, (ax,) = panels(page, 1, 1, HEIGHT)
    handles = []
    for editor in sorted_editors(points["editor"]):
        part = points[points["editor"] == editor]
        style = method_style(editor)
        for _, run in part.sort_values("step").groupby(["model", "dataset", "seed"]):
            ax.plot(run["norm"], run["efficacy"], color=style.colour, linestyle=style.dash, linewidth=0.8, alpha=0.7)
            area = 14 + 50 * run["step"] / points["step"].max()
            ax.scatter(
                run["norm"],
                run["efficacy"],
                s=area * (1.8 if style.marker == "*" else 1),
                color=style.colour,
                marker=style.marker,
                edgecolor=PAPER,
                linewidth=0.5,
                zorder=3,
            )
        handles.append(handle(editor, f"{method_name(editor)}  ρ {_signed(_spearman(part))}"))
    percent_axis(ax, "retained efficacy, %")
    ratio_axis(ax, "L1 norm relative to unedited", axis="x")
    legend(fig, page, handles, columns=min(4, page.columns))
    return fig
