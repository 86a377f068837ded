"""Figure: efficacy and paraphrase of injected targets by block, from a settings file of `d4s tune`."""

from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure

from d4s.editors.settings_file import TunedSettings
from d4s.figures.style import INK, MUTED, RC, SPARE_COLOURS

WIDTH, HEIGHT = 5.5, 2.4  # inches


def write_layer_figure(settings: TunedSettings, path: Path) -> None:
    """Write the scores of the sweep by block as a picture, the block that was chosen marked."""
    style: Any = dict(RC)
    with rc_context(style):
        _draw(settings).savefig(path, bbox_inches="tight")


def _draw(settings: TunedSettings) -> Figure:
    figure = Figure(figsize=(WIDTH, HEIGHT))
    axes = figure.subplots()
    sweep = sorted(settings.first_scores.values(), key=lambda one: one.layer)
    blocks = [one.layer for one in sweep]
    for name, colour, marker in (("efficacy", SPARE_COLOURS[1], "o"), ("paraphrase", SPARE_COLOURS[2], "s")):
        axes.plot(blocks, [getattr(one, name) for one in sweep], color=colour, marker=marker, markersize=4, label=name)
    axes.plot(blocks, [one.score for one in sweep], color=INK, linestyle="--", label="harmonic mean")
    axes.axvline(settings.target_layer, color=MUTED, linewidth=0.8)
    axes.annotate("chosen", (settings.target_layer, 0.02), xytext=(3, 0), textcoords="offset points", color=MUTED)
    axes.set_xlabel("block at which the target is injected")
    axes.set_ylim(0, 1.02)
    axes.set_xlim(-0.5, settings.model.layers - 0.5)
    axes.set_title("Which block takes a target")
    axes.legend(loc="lower right")
    return figure
