"""Text and numbers as the page shows them."""

from __future__ import annotations

import re

STEERING = re.compile(
    "[\0-\x08\x0b-\x1f\x7f-\x9f\u00ad\u034f\u061c\u115f\u1160\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\u3164"
    "\ufeff\uffa0\ufff9-\ufffb\U000e0000-\U000e007f\U000e0100-\U000e01ef]"
)
"""Characters that steer what is around them or hide beside it; ``data.js`` has the same. Joiners stay: letters and
emoji need them."""


def visible(text: object) -> str:
    """The text with every such character named by its code: ``‹U+202E›``."""
    return STEERING.sub(lambda match: f"\u2039U+{ord(match.group()):04X}\u203a", str(text))


def number(value: float, spec: str) -> str:
    """A formatted number with a true minus sign, which is as wide as the plus and does not break from its digits."""
    return format(value, spec).replace("-", "\u2212")
