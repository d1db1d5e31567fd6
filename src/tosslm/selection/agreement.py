"""How near the losses of two ways to score come, and what that changes of the mask; pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np

from tosslm.selection.cut import select_tokens

Losses = Mapping[str, Sequence[np.ndarray]]
"""``utility`` and ``degraded``: float32 ``[n]`` a row, in nats."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """Two ways to score, on the same rows.

    Attributes:
        rows: how many.
        tokens: their response tokens.
        largest_difference: of a loss, under either reference, in nats.
        mean_difference: the mean of the absolute differences, in nats.
        dropped: tokens that are dropped.
        moved: of these, those in whose place the other way drops another.
    """

    rows: int
    tokens: int
    largest_difference: float
    mean_difference: float
    dropped: int
    moved: int

    @property
    def mask_change(self) -> float:
        """Share of the dropped tokens in whose place the other way drops others; 0 where none is dropped."""
        return self.moved / self.dropped if self.dropped else 0.0


@dataclass(frozen=True, slots=True)
class Bounds:
    """How far apart two ways to score may be; named as the fields of ``Agreement``."""

    largest_difference: float
    mean_difference: float
    mask_change: float

    def exceeded(self, found: Agreement) -> list[str]:
        """The bounds that are not kept, each with its value.

        Examples:
            >>> Bounds(1e-3, 1e-4, 0.01).exceeded(Agreement(2, 40, 0.002, 1e-5, 4, 1))
            ['largest_difference of 0.001', 'mask_change of 0.01']
        """
        names = [one.name for one in fields(self)]
        return [f"{name} of {getattr(self, name):g}" for name in names if getattr(found, name) > getattr(self, name)]


def compare_losses(own: Losses, other: Losses, discard_fraction: float) -> Agreement:
    """Compare two ways to score.

    Args:
        own: the losses to be trusted.
        other: those in question, of the same tokens.
        discard_fraction: share of the tokens that are dropped, highest ``utility - degraded`` first.

    Raises:
        ValueError: rows or tokens are not as many, or there is no token; or as for ``select_tokens``.

    Examples:
        >>> own = {"utility": [np.float32([3, 1])], "degraded": [np.float32([1, 1])]}
        >>> other = {"utility": [np.float32([3, 1])], "degraded": [np.float32([1.5, 1])]}
        >>> found = compare_losses(own, other, 0.5)
        >>> found.largest_difference, found.mean_difference, found.mask_change
        (0.5, 0.125, 0.0)
    """
    names = ("utility", "degraded")
    if any([len(row) for row in own[name]] != [len(row) for row in other[name]] for name in names):
        raise ValueError("the two ways to score do not have the same tokens")
    mine, theirs = ({name: np.concatenate(side[name]) for name in names} for side in (own, other))
    if not len(mine["utility"]):
        raise ValueError("there is no token to compare")
    apart = np.concatenate([np.abs(mine[name].astype(np.float64) - theirs[name]) for name in names])
    mask, another = (select_tokens(side["utility"] - side["degraded"], discard_fraction) for side in (mine, theirs))
    return Agreement(
        rows=len(own["utility"]),
        tokens=len(mask),
        largest_difference=float(apart.max()),
        mean_difference=float(apart.mean()),
        dropped=int((~mask).sum()),
        moved=int((~mask & another).sum()),
    )
