"""Whether trained runs begin and end one token too early or too late, told from what stands at their edges alone.

A chat template puts the same tokens before each answer and the same end of turn behind it, while answers themselves
begin and end differently. So where a mask is right, the token before a run is nearly always the same one. Where runs
begin one early, it is their own first token that is always the same, and the end of turn stands behind them, not in
them, so that what follows is more often the same than what they end with. Where they begin one late, the token before
them is the answer's first, which varies, and the one before that is the same.
"""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass, field

import numpy as np

PLACES = ("second", "before", "first", "last", "after")
_SAME, _VARIED, _MARGIN = 0.9, 0.8, 0.01
_FEWEST = 10
_KEPT_TOKENS = 200_000


@dataclass(frozen=True, slots=True)
class Shift:
    """Runs that look shifted.

    Attributes:
        early: else they are late.
        sequences: how many look so.
        of: how many were looked at.
        first: number of the first row with such a one.
        token: what always stands there: the runs' first token, or the one two before them.
    """

    early: bool
    sequences: int
    of: int
    first: int
    token: int


@dataclass
class Edges:
    """How often each token stands at each place around the trained runs of sequences.

    Of a sequence the beginning of its first run and the end of its last one count: between them, tokens may have been
    left out on purpose. Runs without two tokens before them have no header to tell by, and are not counted.

    Attributes:
        sequences: how many were counted.
        at: for each of ``PLACES``, for each token, the count and the first row.
    """

    sequences: int = 0
    at: dict[str, dict[int, list[int]]] = field(default_factory=lambda: {place: {} for place in PLACES})

    def add(self, ids: np.ndarray, trained: np.ndarray, starts: np.ndarray, number: int) -> None:
        """Count the sequences of one row.

        Args:
            ids: int64 ``[T]``.
            trained: bool ``[T]``.
            starts: int64, where its sequences begin.
            number: of the row.
        """
        for low, high in zip(starts, [*starts[1:], len(ids)], strict=True):
            places = np.flatnonzero(trained[low:high]) + low
            if not len(places) or places[0] < low + 2:
                continue
            self.sequences += 1
            begin, end = int(places[0]), int(places[-1]) + 1
            for place, at in zip(PLACES, (begin - 2, begin - 1, begin, end - 1, end), strict=True):
                if at < high:
                    self._count(place, int(ids[at]), number)

    def _count(self, place: str, token: int, number: int) -> None:
        counted = self.at[place]
        if token in counted:
            counted[token][0] += 1
        elif len(counted) < _KEPT_TOKENS:  # a bound on memory; what is nearly always the same comes early
            counted[token] = [1, number]

    def _most(self, place: str) -> tuple[float, int, int, int]:
        """Share, count, first row and id of the token that stands there most often."""
        if not self.at[place]:
            return 0.0, 0, 0, -1
        token, (count, first) = max(self.at[place].items(), key=lambda item: item[1][0])
        return count / self.sequences, count, first, token

    def shift(self, ends: Container[int] = ()) -> Shift | None:
        """What the edges say, or None where they look right, or nothing can be told.

        Args:
            ends: tokens that are known to end turns; without them, answers that all begin alike and end alike cannot
                be told from a mask that is one early.
        """
        if self.sequences < _FEWEST:
            return None
        share = {place: self._most(place)[0] for place in PLACES}
        # Nine answers of ten may end with a full stop, but an end of turn stands behind all of them.
        follows = share["after"] >= share["last"] + _MARGIN or (
            self._most("after")[3] in ends and self._most("last")[3] not in ends
        )
        early = min(share["first"], share["after"]) >= _SAME and follows
        late = share["second"] >= _SAME and share["before"] <= _VARIED
        if not early and not late:
            return None
        _, count, first, token = self._most("first" if early else "second")
        return Shift(early, count, self.sequences, first, token)
