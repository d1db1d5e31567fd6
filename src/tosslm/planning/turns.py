"""How often pieces of work are timed within so many seconds for all of them; no torch."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

Clock = Callable[[], float]
Work = Callable[[], Any]
SECONDS = 18.0
"""What timing all units of a plan may take, beyond making the small models."""
MOST_TURNS = 9
"""Of one unit: more tell no more."""


class Turns:
    """Seconds that units of work share: what one leaves, those after it have.

    Each is done once before it is timed, and timed once, however little is left; beyond that a turn is begun only
    where it will fit into the unit's share of what is left.

    Args:
        seconds: for all units, from now on.
        weights: of all units together.
        clock: in seconds.
    """

    def __init__(self, seconds: float, weights: float, clock: Clock = time.perf_counter) -> None:
        self._clock, self._weights = clock, weights
        self._end = clock() + seconds

    def of(self, works: Sequence[Work], weight: float = 1.0) -> list[list[float]]:
        """Time the next unit: in each turn one work after the other, so that a slower machine slows all.

        Args:
            works: of the unit.
            weight: of the unit, above 0; its share of what is left is as its weight is to those still to come.

        Returns:
            Seconds of each work, one list a turn, from one turn to ``MOST_TURNS``; the first round is not among them.
            Of a single turn they are the less of its seconds and the first round's, since what disturbs only adds.
        """
        now = self._clock()
        share_end = now + (self._end - now) * weight / max(self._weights, weight)
        self._weights -= weight
        first = self._round(works)
        turns = [self._round(works)]
        while len(turns) < MOST_TURNS and self._clock() + sum(turns[-1]) <= share_end:
            turns.append(self._round(works))
        return turns if len(turns) > 1 else [[min(both) for both in zip(first, turns[0], strict=True)]]

    def _round(self, works: Sequence[Work]) -> list[float]:
        return [self._seconds(work) for work in works]

    def _seconds(self, work: Work) -> float:
        start = self._clock()
        work()
        return self._clock() - start
