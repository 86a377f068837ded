"""The look of all figures: sizes, neutral colours, one colour, dash and marker per method, and the page.

Colours are colour-blind safe (after Okabe and Ito) and of middle lightness, so that they read on white and on dark. A family
of methods shares a hue; its variants differ in lightness, dash and marker. The neutral colours have unusual hex values so
that the report can replace them by the colours of its light or dark theme.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any
from zlib import crc32

from d4s.editors.presets import PRESETS

INK = "#1b1f24"
MUTED = "#656d76"
GRID = "#dde1e6"
PAPER = "#fefefe"


@dataclass(frozen=True, slots=True)
class MethodStyle:
    """The style of one method in every figure."""

    colour: str
    marker: str = "o"
    dash: Any = "-"


DASHED = (0, (4, 1.4))
HUES: Mapping[str, tuple[MethodStyle, ...]] = {
    "unedited": (MethodStyle("#7d848c", "None", (0, (1, 1.6))),),
    "fine_tuning": (MethodStyle("#b57d00", "v"), MethodStyle("#8a6a3b", "<", DASHED)),
    "regularized": (MethodStyle("#c2504d", ">"), MethodStyle("#c96f6c", ">", DASHED)),
    "neurons": (MethodStyle("#6b7f3a", "P"),),
    "rome": (MethodStyle("#d1570c", "s"), MethodStyle("#cf7838", "s", DASHED)),
    "memit": (MethodStyle("#1f77c0", "o"), MethodStyle("#3394d0", "D", DASHED)),
    "pmet": (MethodStyle("#c374a7", "^", DASHED), MethodStyle("#bb5f9a", "^")),
    "null_space": (MethodStyle("#8159b5", "h"), MethodStyle("#9c80c7", "h", DASHED)),
    "codebook": (MethodStyle("#5b7083", "X"),),
    "memory": (MethodStyle("#4d7a8c", "H"),),
    "d4s": (MethodStyle("#0b9068", "*"), MethodStyle("#35a07b", "p", DASHED)),
    "batch": (MethodStyle("#8d949c", "d", (0, (5, 1.4, 1, 1.4))),),
}
"""Styles by the `hue` of presets, in the order of the presets that share it; the last one is for all that are left."""
MORE_MARKERS = "o^sDvPX*hd<>pH8"
"""Markers of the methods beyond the styles of their hue, which have the colour of its last one, and of those without a hue."""
SPARE_COLOURS = ("#9b6b9e", "#4f8f9d", "#a8574a", "#7b8a2e", "#5c6fb3", "#94713f", "#b0569b", "#3f8f5a")
TASK_STYLES = tuple(zip(("#4477aa", "#cc6677", "#ab861e", "#228833", "#aa4499", "#4a94c2"), "os^DvP", strict=True))

RC: Mapping[str, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 7.5,
    "axes.titlesize": 8,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 5,
    "axes.titlecolor": INK,
    "axes.labelsize": 7.5,
    "axes.labelcolor": INK,
    "axes.edgecolor": MUTED,
    "axes.linewidth": 0.6,
    "axes.facecolor": PAPER,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.5,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "xtick.major.size": 2.5,
    "ytick.major.size": 0,
    "xtick.major.width": 0.6,
    "xtick.minor.size": 0,
    "ytick.minor.size": 0,
    "text.color": INK,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "legend.handlelength": 2.4,
    "legend.columnspacing": 1.4,
    "lines.linewidth": 1.3,
    "lines.markersize": 3.6,
    "figure.facecolor": PAPER,
    "savefig.facecolor": PAPER,
    "figure.constrained_layout.use": True,
    "figure.constrained_layout.h_pad": 0.05,
    "figure.constrained_layout.w_pad": 0.05,
    "svg.fonttype": "path",
    "pdf.fonttype": 42,
}


@dataclass(frozen=True, slots=True)
class Page:
    """The page that a figure is drawn for: width in inches, and the largest number of panels side by side."""

    name: str
    width: float
    columns: int
    legend_columns: int


WIDE = Page("wide", 6.75, 4, 5)
NARROW = Page("narrow", 3.4, 2, 3)


def method_style(editor: str) -> MethodStyle:
    """How a method is drawn; those without a hue take a spare colour, a marker and a dash that depend on their name alone."""
    preset = PRESETS.get(editor)
    if preset is None or preset.hue not in HUES:
        rest, colour = divmod(crc32(editor.encode()), len(SPARE_COLOURS))
        rest, marker = divmod(rest, len(MORE_MARKERS))
        return MethodStyle(SPARE_COLOURS[colour], MORE_MARKERS[marker], DASHED if rest % 2 else "-")
    styles = HUES[preset.hue]
    place = [name for name, other in PRESETS.items() if other.hue == preset.hue].index(editor)
    if place < len(styles):
        return styles[place]
    return replace(styles[-1], marker=MORE_MARKERS[(place - len(styles)) % len(MORE_MARKERS)])
