"""Labels that do not stand at the tokens they are of: shifted already, of another text, or no labels at all."""

from __future__ import annotations

import numpy as np

IGNORED = -100
"""The label that PyTorch's cross-entropy leaves out, and every trainer with it."""
_AGREEING = 0.95
"""Share of a row's labels that have to stand at a neighbour's place for the row to count as shifted."""


def label_defects(ids: np.ndarray, labels: np.ndarray) -> dict[str, int]:
    """How labels differ from the tokens that they stand at.

    Args:
        ids: int64 ``[T]``.
        labels: int64; of other lengths, what both have is compared.

    Returns:
        ``early``: labels of a row in which they stand one place before their tokens, as a model gets them that does
        not shift by itself; ``late``: one place after; ``differ``: others than the token, in any other row;
        ``unknown``: below 0 and not -100. The first three exclude each other.
    """
    shared = min(len(ids), len(labels))
    ids, labels = ids[:shared], labels[:shared]
    counted = labels >= 0
    other = int((counted & (labels != ids)).sum())
    found = {"early": 0, "late": 0, "differ": 0, "unknown": int(((labels < 0) & (labels != IGNORED)).sum())}
    if other:
        shifts = {
            "early": (counted[:-1], labels[:-1] == ids[1:]),
            "late": (counted[1:], labels[1:] == ids[:-1]),
        }
        agreeing = {name: int((there & same).sum()) for name, (there, same) in shifts.items()}
        own = int((counted & (labels == ids)).sum())
        best = max(agreeing, key=lambda name: agreeing[name])
        comparable = int(shifts[best][0].sum())
        shifted = agreeing[best] >= max(2, _AGREEING * comparable) and agreeing[best] > own
        found[best if shifted else "differ"] = int(counted.sum()) if shifted else other
    return found
