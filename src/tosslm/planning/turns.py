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
    where it will fit into the unit's even share of what is left.

    Args:
        seconds: for all units, from now on.
        units: how many there will be.
        clock: in seconds.
    """

    def __init__(self, seconds: float, units: int, clock: Clock = time.perf_counter) -> None:
        self._clock, self._units = clock, units
        self._end = clock() + seconds

    def of(self, works: Sequence[Work]) -> list[list[float]]:
        """Time the next unit: in each turn one work after the other, so that a slower machine slows all.

        Args:
            works: of the unit.

        Returns:
            Seconds of each work, one list a turn, from one turn to ``MOST_TURNS``; the first round is not among them.
        """
        now = self._clock()
        share_end = now + (self._end - now) / max(self._units, 1)
        self._units -= 1
        self._round(works)
        turns = [self._round(works)]
        while len(turns) < MOST_TURNS and self._clock() + sum(turns[-1]) <= share_end:
            turns.append(self._round(works))
        return turns

    def _round(self, works: Sequence[Work]) -> list[float]:
        return [self._seconds(work) for work in works]

    def _seconds(self, work: Work) -> float:
        start = self._clock()
        work()
        return self._clock() - start
