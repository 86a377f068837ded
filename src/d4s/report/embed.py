"""Figures for an HTML page: SVG inlined in the page's colours, or PNG as a data URI."""

import base64
import re
from pathlib import Path

from markupsafe import Markup

from d4s.figures.style import GRID, INK, MUTED, PAPER

THEME = {INK: "var(--ink)", MUTED: "var(--muted)", GRID: "var(--grid)", PAPER: "var(--paper)"}
_REMOVED = re.compile(r"<\?xml.*?\?>|<!DOCTYPE.*?>|<!--.*?-->|<metadata>.*?</metadata>", re.DOTALL)
_SIZE = re.compile(r'(<svg[^>]*?)\s(?:width|height)="[^"]*"', re.DOTALL)
_PATH = re.compile(r'(\sd=")([^"]*)"')
_DIGITS = re.compile(r"(\.\d{2})\d+")


def inline_svg(path: Path, prefix: str, label: str) -> Markup:
    """A figure's SVG for inlining: no prologue or metadata, prefixed ids, neutral colours from the page's theme."""
    text = _REMOVED.sub("", path.read_text(encoding="utf-8"))
    for _ in range(2):
        text = _SIZE.sub(r"\1", text, count=1)
    text = re.sub(r'(\sid=")', rf"\g<1>{prefix}-", text)
    text = re.sub(r'(href="#|url\(#)', rf"\g<1>{prefix}-", text)
    text = _PATH.sub(_shorten_path, text)
    for ink, variable in THEME.items():
        text = text.replace(ink, variable)
    svg_tag = Markup('<svg role="img" aria-label="{}"').format(label)
    return Markup(text.strip().replace("<svg", str(svg_tag), 1))


def _shorten_path(path: re.Match[str]) -> str:
    """An SVG path with coordinates of two decimals, a hundredth of a point."""
    return path[1] + _DIGITS.sub(r"\1", path[2]) + '"'


def data_uri(path: Path) -> str:
    """The data URI of a PNG file."""
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode("ascii")
