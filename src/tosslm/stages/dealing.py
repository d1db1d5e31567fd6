"""Shares of work, dealt one by one to workers that may be gone before they are done."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable

from tosslm.stages.shard import Shard

TRIES = 3
"""How often a share is begun, and how many workers in a row may die before they can work."""
_LARGEST_SHARE = 4
_SHARES_PER_WORKER = 4


def cut_shares(files: int, workers: int) -> int:
    """How many shares to make of a round's files: small ones, so that little is lost with a worker.

    Each costs attaching two adapters, so that a share of one file is for small sets alone.

    Examples:
        >>> cut_shares(1000, 8), cut_shares(25, 2), cut_shares(2, 8)
        (250, 9, 2)
    """
    size = max(1, min(_LARGEST_SHARE, files // (workers * _SHARES_PER_WORKER)))
    return -(-files // size)


class Deal:
    """Which shares wait, which are out, and which have been tried often enough.

    Args:
        shares: to be done.

    Attributes:
        left: shares that nobody is to try again.
    """

    def __init__(self, shares: Iterable[Shard]) -> None:
        self._waiting, self._out = deque(shares), 0
        self._lost: Counter[Shard] = Counter()
        self._stillborn = 0
        self.left: list[Shard] = []

    @property
    def unfinished(self) -> int:
        """How many shares wait or are out: no more workers than that are of use."""
        return len(self._waiting) + self._out

    def next(self) -> Shard | None:
        """A share for a worker; None where none waits."""
        if not self._waiting:
            return None
        self._out += 1
        return self._waiting.popleft()

    def done(self) -> None:
        """A share that was out is done."""
        self._out -= 1
        self._stillborn = 0

    def lost(self, share: Shard | None) -> None:
        """A worker is gone, with its share, or with None before it had one."""
        if share is None:
            self._stillborn += 1
            if self._stillborn == TRIES:
                self.stop()
            return
        self._out -= 1
        self._lost[share] += 1
        (self._waiting if self._lost[share] < TRIES else self.left).append(share)

    def stop(self) -> None:
        """Deal no more of those that wait."""
        self.left += self._waiting
        self._waiting.clear()
