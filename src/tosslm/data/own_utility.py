"""Rows of the custom set that stand in for a utility set: which, which fold each is of, and who scores it. Pure.

No token is scored by a reference that learnt from its content, and no held-out row is fine-tuned on.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice

from tosslm.data.rows import base_id, in_order
from tosslm.errors import InputError

FOLDS = (0, 1)
_AT_ONCE = 100_000


def rows_dealt(row_ids: Iterable[str], most: int | None) -> set[str]:
    """The contents of the custom set that stand in for a utility set, by the ids that copies share.

    Args:
        row_ids: of the custom set.
        most: how many contents; None takes all. No more than those are kept in memory.
    """
    found: set[str] = set()
    ids = iter(row_ids)
    while batch := list(islice(ids, _AT_ONCE)):
        found = set(in_order([*found, *batch])[:most])
    return found


def check_folds(row_ids: Iterable[str], apart: set[str]) -> None:
    """Refuse contents that stand in for a utility set where a fold would have none.

    Args:
        row_ids: of them.
        apart: contents that are held out, and in no fold.

    Raises:
        InputError: there are too few.
    """
    if {fold_of(row_id) for row_id in row_ids if base_id(row_id) not in apart} != set(FOLDS):
        raise InputError(
            "data.utility.from: custom: the custom set has too few rows to make two folds of; name a utility set in "
            "data.utility.path"
        )


def fold_of(row_id: str) -> int:
    """Which fold a row is of, 0 or 1: a coin that its content has thrown, so that copies are of one.

    Examples:
        >>> fold_of("00000000000000a1"), fold_of("00000000000000a1-2"), fold_of("00000000000000a2")
        (1, 1, 0)
    """
    return int(base_id(row_id), 16) % len(FOLDS)


def scoring_fold(row_id: str) -> int:
    """The fold whose reference scores a row: the other one."""
    return 1 - fold_of(row_id)
