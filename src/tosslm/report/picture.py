"""Figures of the report as one picture that stands by itself, for those who want no page around it."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources

from markupsafe import escape

from tosslm.report.figures import Figure
from tosslm.text import name_hidden

_WIDTH, _HEIGHT, _GAP, _HEAD, _COLUMNS = 520, 290, 28, 46, 2
_OWN_STYLE = """
svg { background: var(--paper); font: 12px system-ui, sans-serif; }
text { fill: var(--soft); } text.title { fill: var(--ink); font-size: 15px; font-weight: 600; }
"""


def picture(figures: Sequence[Figure]) -> str:
    """An SVG document with the figures side by side, each under its title and legend, in the report's colours."""
    rows = -(-len(figures) // _COLUMNS)
    wide, high = _WIDTH + _GAP, _HEIGHT + _HEAD + _GAP
    size = (_COLUMNS * wide + _GAP, rows * high + _GAP)
    style = (resources.files("tosslm.report") / "assets/report.css").read_text(encoding="utf-8")
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {size[0]} {size[1]}" width="{size[0]}" '
        f'height="{size[1]}"><style>{style}{_OWN_STYLE}</style>'
    ]
    for number, figure in enumerate(figures):
        left, top = _GAP + number % _COLUMNS * wide, _GAP + number // _COLUMNS * high
        parts.append(f'<text class="title" x="{left}" y="{top + 8}">{escape(name_hidden(figure.title))}</text>')
        parts += _legend(figure, left, top + 28)
        parts.append(f'<svg x="{left}" y="{top + _HEAD}" width="{_WIDTH}" height="{_HEIGHT}">{figure.svg}</svg>')
    return "".join([*parts, "</svg>\n"])


def _legend(figure: Figure, left: int, y: int) -> list[str]:
    parts = []
    for name, colour in figure.legend:
        parts.append(f'<line class="line c{colour}" x1="{left}" x2="{left + 22}" y1="{y - 4}" y2="{y - 4}"/>')
        parts.append(f'<text x="{left + 28}" y="{y}">{escape(name_hidden(name))}</text>')
        left += 46 + 7 * len(name)
    return parts
