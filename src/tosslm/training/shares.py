"""Which rows of each optimizer batch a process reads, and which of them in one forward pass."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import islice, pairwise
from typing import Any, Protocol, TypeVar

import numpy as np
from datasets import Dataset
from torch.utils.data import BatchSampler, DataLoader
from torch.utils.data import Dataset as Rows

from tosslm.team import Place
from tosslm.training.labels import IGNORED

FILLER = -1
"""The index of a row that trains nothing."""


class Order(Protocol):
    """An order of rows, another in each epoch."""

    def __iter__(self) -> Iterator[int]:
        """Row numbers."""

    def __len__(self) -> int:
        """How many rows there are."""

    def set_epoch(self, epoch: int) -> None:
        """Take the order of an epoch, from 0."""


class Shares(BatchSampler):
    """A process's micro-batches of an epoch: its share of each optimizer batch, whose rows are those of ``order``.

    Within an optimizer batch rows of like length go together, so that little of a micro-batch is padding; the longest
    come first, so that a lack of memory shows at once. All processes have as many micro-batches in an optimizer
    batch, at most ``micro_batch_size`` rows in each, so that they meet at its end; where rows do not suffice, a
    micro-batch is a single ``FILLER``.

    Args:
        order: of all rows.
        batch_size: rows of an optimizer batch, over all processes; the last of an epoch may have fewer.
        micro_batch_size: rows in one forward pass of one process.
        own: which process this is.
        lengths: tokens of every row; None leaves rows in their order.

    Examples:
        >>> from accelerate.data_loader import SeedableRandomSampler
        >>> order = SeedableRandomSampler(range(7), data_seed=1)
        >>> [[len(rows) for rows in Shares(order, 4, 1, Place(rank, 2))] for rank in (0, 1)]
        [[1, 1, 1, 1], [1, 1, 1, 1]]
    """

    def __init__(
        self,
        order: Order,
        batch_size: int,
        micro_batch_size: int,
        own: Place,
        lengths: Sequence[int] | np.ndarray | None = None,
    ) -> None:
        self._order, self._micro, self._own, self._batch_size = order, micro_batch_size, own, batch_size
        self._lengths = lengths

    def __iter__(self) -> Iterator[list[int]]:  # noqa: D105
        order = iter(self._order)
        while batch := list(islice(order, self._batch_size)):
            passes = self._passes(len(batch))
            if self._lengths is not None:
                lengths = self._lengths
                batch.sort(key=lambda row: -int(lengths[row]))
            own = batch[self._own.rank :: self._own.count]
            for micro_batch in evenly(own, passes):
                yield list(micro_batch) or [FILLER]

    def __len__(self) -> int:  # noqa: D105
        whole, rest = divmod(len(self._order), self._batch_size)
        return whole * self._passes(self._batch_size) + self._passes(rest)

    def set_epoch(self, epoch: int) -> None:
        """Take the order of an epoch."""
        self._order.set_epoch(epoch)

    def _passes(self, rows: int) -> int:
        return forward_passes(rows, self._micro, self._own.count)


def forward_passes(rows: int, micro_batch_size: int, processes: int) -> int:
    """Forward passes in which each process reads its share of a batch.

    Examples:
        >>> forward_passes(64, 8, 2), forward_passes(64, 8, 3), forward_passes(1, 8, 2)
        (4, 3, 1)
    """
    return math.ceil(math.ceil(rows / processes) / micro_batch_size)


Item = TypeVar("Item")


def evenly(items: Sequence[Item], parts: int) -> list[Sequence[Item]]:
    """Items cut into so many runs of neighbours, the first ones longer by one where they do not come out even.

    Examples:
        >>> evenly("abcde", 3)
        ['ab', 'cd', 'e']
    """
    least, more = divmod(len(items), parts)
    ends = [number * least + min(number, more) for number in range(parts + 1)]
    return [items[start:end] for start, end in pairwise(ends)]


class FilledRows(Rows[dict[str, Any]]):
    """Training rows with their ``number``, and at ``FILLER`` one that trains nothing.

    Args:
        rows: as ``write_training_rows`` makes them.
    """

    def __init__(self, rows: Dataset) -> None:
        self._rows = rows
        empty = {"input_ids": 0, "labels": IGNORED, "anchored": False, "weight": 0.0, "place": 0}
        self._filler: dict[str, Any] = {name: [empty[name]] * 2 if name in empty else 0 for name in rows.column_names}

    def __len__(self) -> int:  # noqa: D105
        return len(self._rows)

    def __getitem__(self, number: int) -> dict[str, Any]:  # noqa: D105
        row = self._filler if number == FILLER else self._rows[number]
        return row | {"number": max(number, 0)}


class EpochLoader(DataLoader[dict[str, Any]]):
    """A loader of shares that the trainer tells its epochs."""

    def set_epoch(self, epoch: int) -> None:
        """Take the order of an epoch."""
        assert isinstance(self.batch_sampler, Shares)
        self.batch_sampler.set_epoch(epoch)
