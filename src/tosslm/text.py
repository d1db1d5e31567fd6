"""Foreign text made harmless, and numbers as readers see them; page and terminal have no other way."""

from __future__ import annotations

import re

HIDDEN = re.compile(
    "[\0-\x08\x0b-\x1f\x7f-\x9f\u00ad\u034f\u061c\u115f\u1160\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\u3164"
    "\ufeff\uffa0\ufff9-\ufffb\U000e0000-\U000e007f\U000e0100-\U000e01ef]"
)
"""Characters that steer what is around them or hide beside it; the report's ``data.js`` has the same. Joiners stay:
letters and emoji need them."""


LISTED_SOURCES = 50
"""Sources with a line of their own, on the page as in the terminal: the largest; the others share one, since a line
for each of thousands would be read by nobody."""


def name_hidden(text: object) -> str:
    r"""The text with every such character named by its code, for a page.

    Examples:
        >>> name_hidden("a\u202eb")
        'a‹U+202E›b'
    """
    return HIDDEN.sub(lambda match: f"\u2039U+{ord(match.group()):04X}\u203a", str(text))


def mask_hidden(text: str) -> str:
    r"""The text with � for every such character, for a terminal: as long as before, so that offsets still fit.

    Examples:
        >>> mask_hidden("a\u202eb")
        'a�b'
    """
    return HIDDEN.sub("\ufffd", text)


def number(value: float, spec: str) -> str:
    """A formatted number with a true minus sign, which is as wide as the plus and does not break from its digits."""
    return format(value, spec).replace("-", "\u2212")


def duration(seconds: float) -> str:
    """Seconds as people say them.

    Examples:
        >>> duration(4.2), duration(75), duration(7260)
        ('0 min 04 s', '1 min 15 s', '2 h 01 min')
    """
    hours, rest = divmod(round(seconds), 3600)
    return f"{hours} h {rest // 60:02d} min" if hours else f"{rest // 60} min {rest % 60:02d} s"


def memory_size(size: float) -> str:
    """Bytes as people say them.

    Examples:
        >>> memory_size(16.06e9), memory_size(4e6)
        ('16.1 GB', '4.0 MB')
    """
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"
