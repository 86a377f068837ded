"""Figure: L1 norm of every edited layer against the number of edits, and the mean benchmark score."""

from matplotlib.figure import Figure

from d4s.analysis.curves import benchmark_curve, layer_norms, norm_curve
from d4s.analysis.study_results import Panel, Results
from d4s.figures.captions import benchmark_interval_note, on_datasets
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
    ratio_axis,
    ratio_range,
)
from d4s.figures.style import Page

HEIGHT = 1.85
FEW = 20  # curves with more points than this have no markers


def figure(results: Results) -> Drawing:
    """The figure, one panel per layer and one for the benchmarks, for the data set with the most editors.

    Raises:
        FigureSkipped: if no run logged norms.
    """
    if not results.main_panels:
        raise FigureSkipped(NO_SEQUENCE)
    shown = max(results.main_panels, key=lambda panel: len(_editors_with_norms(results, panel)))
    editors = _editors_with_norms(results, shown)
    if not editors:
        raise FigureSkipped("no run logged norms, or those of the unedited model are not known")
    caption = (
        "L1 norm (mean absolute weight) of each edited matrix relative to the unedited one, after every edit (where all edits are "
        f"made or finished together: at the lengths), and the mean benchmark score{on_datasets(results, [shown])}. Log axes for the norms, "
        f"as far as the curves reach; a method that edits fewer layers is drawn only there. {benchmark_interval_note(results)}"
    )
    return Drawing("L1 norm by layer, and the benchmarks", caption, lambda page: _draw(results, shown, editors, page))


def _editors_with_norms(results: Results, panel: Panel) -> list[str]:
    return [editor for editor in results.editors(panel) if len(norm_curve(results, panel, editor))]


def _draw(results: Results, panel: Panel, editors: list[str], page: Page) -> Figure:
    layers = sorted(
        {int(layer) for editor in editors for run in results.runs_of(panel, editor) for layer in layer_norms(results, run).columns}
    )
    has_benchmarks = any(len(benchmark_curve(results, panel, editor)) > 1 for editor in editors)
    fig, axes = panels(page, len(layers) + has_benchmarks, 4, HEIGHT)
    longest = results.longest(panel)
    for ax, layer in zip(axes, layers, strict=False):
        for editor in editors:
            points = norm_curve(results, panel, editor, layer)
            curve(ax, points, editor, **({"marker": "None"} if len(points) > FEW else {}))
    ratio_range(axes[: len(layers)])
    for number, ax in enumerate(axes[: len(layers)]):
        ratio_axis(ax, "relative to unedited" if number % page.columns == 0 else "")
        edits_axis(ax, longest)
    if has_benchmarks:
        for editor in editors:
            curve(axes[-1], benchmark_curve(results, panel, editor), editor)
        percent_axis(axes[-1], "mean score, %", whole=False)
        edits_axis(axes[-1], longest)
    label_panels(axes, [f"Layer {layer}" for layer in layers] + ["Benchmarks"] * has_benchmarks)
    methods_legend(fig, page, editors)
    return fig
