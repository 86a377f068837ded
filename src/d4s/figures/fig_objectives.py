"""Figure: perplexity, length and diversity of the edit targets by data set and form, and the damage by editing."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from d4s.analysis.curves import at_step, benchmark_curve
from d4s.analysis.display_names import DAMAGE_METHODS, sorted_editors
from d4s.analysis.intervals import IntervalEstimate
from d4s.analysis.study_results import Panel, Results
from d4s.analysis.target_statistics import TargetStatistics, target_statistics
from d4s.figures.captions import seeds_note
from d4s.figures.plot_elements import Drawing, FigureSkipped, handle, label_panels, legend, panels
from d4s.figures.style import INK, MUTED, PAPER, Page, method_style

NEW, TRUE = "#a8574a", "#4f8f9d"
ROW = 0.42


def figure(results: Results) -> Drawing:
    """The figure: a row per data set, a panel per quantity.

    Raises:
        FigureSkipped: if no targets were scored.
    """
    shown = [panel for panel in results.panels if len(results.targets(panel, "new"))]
    if not shown:
        raise FigureSkipped("no targets were scored under the unedited model")
    numbers = {panel: target_statistics(results.targets(panel, "new")) for panel in shown}
    true = {panel: target_statistics(results.targets(panel, "true")) for panel in shown if len(results.targets(panel, "true"))}
    damages = {panel: _damages(results, panel) for panel in shown}
    counts = " / ".join(str(number.n) for number in numbers.values())
    caption = (
        "The edit targets under the unedited model. Perplexity (log axis) is exp of the mean negative log-likelihood: per token, of the "
        "first token, and of the whole target. Filled: counterfactual targets, with 95 % bootstrap intervals over facts; hollow: true "
        f"targets, per token. Diversity is the entropy of the target texts. {_damage_note(results, damages)}n = {counts} targets. "
        f"{seeds_note(results)}"
    )
    names = [results.panel_name(panel) for panel in shown]
    return Drawing(
        "What the targets are like, and what editing them costs", caption, lambda page: _draw(names, numbers, true, damages, page)
    )


def _draw(
    names: list[str],
    numbers: dict[Panel, TargetStatistics],
    true: dict[Panel, TargetStatistics],
    damages: dict[Panel, dict[str, IntervalEstimate]],
    page: Page,
) -> Figure:
    shown = list(numbers)
    has_damage = any(damages.values())
    columns = 2 if page.columns < 4 else 4
    fig, axes = panels(page, 3 + has_damage, columns, 0.75 + ROW * len(shown), sharey=True)
    _perplexities(axes[0], numbers, true)
    for row, panel in enumerate(shown):
        axes[1].barh(row, numbers[panel].tokens, height=0.5, color=MUTED, alpha=0.55)
        axes[2].barh(row, numbers[panel].entropy, height=0.5, color=MUTED, alpha=0.55)
        for axis, value in ((axes[1], numbers[panel].tokens), (axes[2], numbers[panel].entropy)):
            axis.text(value, row, f" {value:.1f}", va="center", fontsize=6.5)
    for ax, label in zip(axes[1:3], ("tokens per target", "bits"), strict=True):
        ax.set_xlabel(label)
        ax.set_xlim(0, ax.get_xlim()[1] * 1.22)
    if has_damage:
        _damage_dots(axes[3], damages)
    axes[0].set_yticks(range(len(shown)), names)
    axes[0].set_ylim(len(shown) - 0.5, -0.5)
    label_panels(axes, ["Perplexity", "Length", "Diversity"] + ["Damage"] * has_damage)
    legend(fig, page, _handles(damages), columns=4 if page.columns > 2 else 2)
    return fig


KINDS = (("log_perplexity", "o", "per token"), ("log_first_token", "^", "first token"), ("log_joint", "s", "whole target"))


def _perplexities(ax: Axes, numbers: dict[Panel, TargetStatistics], true: dict[Panel, TargetStatistics]) -> None:
    for row, panel in enumerate(numbers):
        for offset, (quantity, marker, _) in zip((-0.2, 0.0, 0.2), KINDS, strict=True):
            found: IntervalEstimate = getattr(numbers[panel], quantity)
            ax.plot(np.exp([found.low, found.high]), [row + offset] * 2, color=NEW, linewidth=1)
            ax.plot(np.exp(found.value), row + offset, marker=marker, color=NEW, markersize=4, markeredgecolor=PAPER, markeredgewidth=0.4)
        if panel in true:
            ax.plot(true[panel].perplexity, row - 0.2, marker="o", markerfacecolor=PAPER, markeredgecolor=TRUE, markersize=4)
    ax.set_xscale("log")
    ax.xaxis.set_major_locator(LogLocator(10, numticks=4))
    ax.xaxis.set_major_formatter(FuncFormatter(_power))
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.set_xlabel("perplexity")


def _power(value: float, _: object) -> str:
    return f"{value:g}" if value < 1_000 else f"$10^{{{round(np.log10(value))}}}$"


def _damages(results: Results, panel: Panel) -> dict[str, IntervalEstimate]:
    """Loss of the mean benchmark score by editor, at the longest length that these editors share."""
    editors = [name for name in (*DAMAGE_METHODS, "d4s") if any(map(results.benchmark_lengths, results.runs_of(panel, name)))]
    length = results.shared_benchmark_length(panel, editors)
    if length is None:
        return {}
    found = {}
    for editor in editors:
        start, end = (at_step(benchmark_curve(results, panel, editor), step) for step in (0, length))
        if start is not None and end is not None:
            found[editor] = IntervalEstimate(start.value - end.value, start.value - end.high, start.value - end.low, end.n)
    return found


def _damage_note(results: Results, damages: dict[Panel, dict[str, IntervalEstimate]]) -> str:
    """A sentence with the lengths at which damage was measured, in the order of the rows; empty where there is none."""
    lengths = [str(results.shared_benchmark_length(panel, by_editor) or "–") for panel, by_editor in damages.items()]
    if set(lengths) == {"–"}:
        return ""
    edits = " / ".join(lengths if len(set(lengths)) > 1 else lengths[:1])
    return (
        f"Damage is the loss of the mean benchmark score after {edits} edits, the longest length that the editors shown share; bars leave "
        "out the unedited model's own error. "
    )


def _damage_dots(ax: Axes, damages: dict[Panel, dict[str, IntervalEstimate]]) -> None:
    for row, by_editor in enumerate(damages.values()):
        for offset, (editor, found) in zip(np.linspace(-0.2, 0.2, max(len(by_editor), 1)), by_editor.items(), strict=False):
            style = method_style(editor)
            ax.plot([found.low, found.high], [row + offset] * 2, color=style.colour, linewidth=1)
            size = 6.5 if style.marker == "*" else 4
            ax.plot(
                found.value,
                row + offset,
                marker=style.marker,
                color=style.colour,
                markersize=size,
                markeredgecolor=PAPER,
                markeredgewidth=0.4,
            )
    ax.axvline(0, color=INK, linewidth=0.6)
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value * 100:.0f}".replace("-", "−")))
    ax.set_xlabel("points lost")


def _handles(damages: dict[Panel, dict[str, IntervalEstimate]]) -> list[Line2D]:
    kinds = [Line2D([], [], color=NEW, marker=marker, linestyle="None", markersize=4, label=label) for _, marker, label in KINDS]
    hollow = Line2D([], [], marker="o", linestyle="None", markerfacecolor=PAPER, markeredgecolor=TRUE, markersize=4, label="true target")
    editors = sorted_editors(editor for by_editor in damages.values() for editor in by_editor)
    return [*kinds, hollow, *(handle(editor) for editor in editors)]
