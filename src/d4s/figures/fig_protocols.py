"""Figure: immediate against retained accuracy; the area between them is the forgetting that immediate evaluation does not show."""

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.patheffects import withStroke

from d4s.analysis.curves import summary_curve
from d4s.analysis.display_names import method_name
from d4s.analysis.study_results import Panel, Results
from d4s.figures.captions import interval_note, on_datasets, sample_sizes, title_suffix
from d4s.figures.plot_elements import Drawing, FigureSkipped, curve, edits_axis, legend, panels, percent_axis
from d4s.figures.style import MUTED, PAPER, Page, method_style

EFFICACY = "efficacy_accuracy"
HEIGHT = 1.55


def figure(results: Results) -> Drawing:
    """The figure, one panel per editor and data set.

    Raises:
        FigureSkipped: if no run logged scores right after its edits.
    """
    shown = [
        (panel, editor)
        for panel in results.main_panels
        for editor in results.editors(panel, references=False)
        if len(summary_curve(results, panel, editor, "immediate", EFFICACY))
    ]
    if not shown:
        raise FigureSkipped("no run logged scores right after its edits")
    caption = (
        "Efficacy of the same edits by two protocols: right after each edit (dashed, mean over the edits so far) and after the whole "
        f"sequence (solid){on_datasets(results, results.main_panels)}. The shaded gap is forgetting that immediate evaluation hides. "
        f"{sample_sizes(results, results.main_panels)} {interval_note(results)}"
    )
    return Drawing("Immediate against retained efficacy", caption, lambda page: _draw(results, shown, page))


def _draw(results: Results, shown: list[tuple[Panel, str]], page: Page) -> Figure:
    fig, axes = panels(page, len(shown), 4, HEIGHT, sharey=True)
    for number, (ax, (panel, editor)) in enumerate(zip(axes, shown, strict=True)):
        immediate, retained = (summary_curve(results, panel, editor, protocol, EFFICACY) for protocol in ("immediate", "retained"))
        both = immediate.merge(retained, on="step", suffixes=("_now", "_later"))
        colour = method_style(editor).colour
        ax.fill_between(both["step"], both["mean_now"], both["mean_later"], color=colour, alpha=0.18, linewidth=0)
        ax.plot(immediate["step"], immediate["mean"], color=colour, linestyle=(0, (3, 1.5)), linewidth=1.1)
        curve(ax, retained, editor, linestyle="-")
        percent_axis(ax, "efficacy, %" if number % page.columns == 0 else "")
        edits_axis(ax, float(retained["step"].max()), "number of edits" if number >= len(shown) - page.columns else "")
        ax.set_title(method_name(editor) + title_suffix(results, panel, {panel for panel, _ in shown}), color=colour)
        if len(both):
            gap = float(both["mean_now"].iloc[-1] - both["mean_later"].iloc[-1])
            gap_text, halo = f"gap {gap * 100:.0f} pp".replace("-", "−"), [withStroke(linewidth=2.5, foreground=PAPER)]
            ax.text(0.05, 0.06, gap_text, transform=ax.transAxes, fontsize=7, path_effects=halo)
    lines = [Line2D([], [], color=MUTED, linestyle=(0, (3, 1.5)), label="immediate"), Line2D([], [], color=MUTED, label="retained")]
    legend(fig, page, [*lines, Patch(color=MUTED, alpha=0.25, linewidth=0, label="hidden forgetting")])
    return fig
