"""A few hundred rows that stand for a set, and how they fall into micro-batches."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tosslm.model.losses import plan_batches

MOST = 512


@dataclass(slots=True)
class RowSample:
    """Every n-th row of a set that is read as a stream; n doubles when there are more than ``MOST``.

    Attributes:
        rows: ``input_ids``, int32 ``[T]``, and ``response_mask``, bool ``[T]``, of each.
        step: n.
        seen: rows that went by.

    Examples:
        >>> sample = RowSample()
        >>> for length in range(1, 1001):
        ...     sample.add({"input_ids": [0] * length, "response_mask": [True] * length})
        >>> len(sample.rows), sample.step, [len(row["input_ids"]) for row in sample.rows[:3]]
        (500, 2, [1, 3, 5])
    """

    rows: list[dict[str, Any]] = field(default_factory=list)
    step: int = 1
    seen: int = 0

    def add(self, row: Mapping[str, Any]) -> None:
        """Look at the next row of the set."""
        if self.seen % self.step == 0:
            ids, mask = np.asarray(row["input_ids"], dtype=np.int32), np.asarray(row["response_mask"], dtype=bool)
            self.rows.append({"input_ids": ids, "response_mask": mask})
        self.seen += 1
        if len(self.rows) > MOST:
            self.rows, self.step = self.rows[::2], 2 * self.step


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """What a training's forward pass reads, on average over a set.

    Attributes:
        padded: tokens with padding.
        responses: positions at which the head runs.
    """

    padded: float
    responses: float


def micro_batches(rows: Sequence[Mapping[str, Any]], batch_size: int, size: int) -> list[list[Mapping[str, Any]]]:
    """Rows in an order of their own, as a training reads them: ``size`` at a time, of each optimizer batch by length.

    Of rows that fill no micro-batch none is made, unless there are no others.

    Args:
        rows: with ``input_ids``.
        batch_size: rows of an optimizer batch.
        size: rows of a micro-batch.
    """
    order = random.Random(0).sample(range(len(rows)), len(rows))
    order = order[: max(size, len(rows) // size * size)]
    found: list[list[Mapping[str, Any]]] = []
    for begin in range(0, len(order), batch_size):
        batch = [rows[i] for i in order[begin : begin + batch_size]]
        batch.sort(key=lambda row: -len(row["input_ids"]))
        found += [batch[start : start + size] for start in range(0, len(batch), size)]
    return found


def mean_batch(batches: Sequence[Sequence[Mapping[str, Any]]]) -> MicroBatch:
    """What a micro-batch holds on average.

    Examples:
        >>> short, long = ({"input_ids": [0] * n, "response_mask": [False, True, True]} for n in (3, 7))
        >>> mean_batch([[short, long], [short, short]])
        MicroBatch(padded=10.0, responses=4.0)
    """
    if not batches:
        return MicroBatch(1.0, 1.0)
    responses = sum(int(np.sum(row["response_mask"])) for batch in batches for row in batch)
    return MicroBatch(sum(map(padded, batches)) / len(batches), responses / len(batches))


def asked_at_once(rows: Sequence[Mapping[str, Any]], count: float, new_tokens: int, budget: int) -> list[list[int]]:
    """The prompts of a batch, as diagnosis lets the base answer them.

    Args:
        rows: with ``input_ids`` and ``response_mask``.
        count: how many of them are held out.
        new_tokens: of each answer.
        budget: padded tokens of a batch.
    """
    prompts = [list(row["input_ids"][: int(np.flatnonzero(row["response_mask"])[0])]) for row in rows]
    asked = prompts[:: max(1, int(len(prompts) / max(count, 1)))][: max(1, round(count))]
    batches = plan_batches([len(prompt) + new_tokens for prompt in asked], budget)
    return [asked[i] for i in batches[len(batches) // 2]]


def padded(batch: Sequence[Mapping[str, Any]]) -> int:
    """Tokens of a batch with its padding."""
    return len(batch) * max(len(row["input_ids"]) for row in batch)


def nearest(batches: Sequence[Sequence[Mapping[str, Any]]], tokens: float) -> Sequence[Mapping[str, Any]]:
    """The batch with about so many padded tokens."""
    return min(batches, key=lambda batch: abs(padded(batch) - tokens))
