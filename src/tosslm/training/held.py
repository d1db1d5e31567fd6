"""What the base says where a model is anchored to it, read once before a training of several epochs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from datasets import Dataset

from tosslm.model.adapters import without_adapter
from tosslm.model.head import SplitHead
from tosslm.model.losses import batch_budget, plan_batches
from tosslm.ragged import row_starts

MOST_BYTES = 2 * 2**30
"""Hidden states are held in memory up to here; of more the base is read anew in every epoch."""
_BATCH_TOKENS = 16384


@dataclass(frozen=True, slots=True)
class BaseStates:
    """The base's hidden states at the anchored tokens of all rows.

    Attributes:
        states: ``[A, H]`` in the model's dtype, on the CPU, row after row.
        starts: int64 ``[R + 1]``, where each row's begin.
    """

    states: torch.Tensor
    starts: np.ndarray

    def of(self, numbers: Sequence[int], device: torch.device) -> torch.Tensor:
        """Those of some rows, by their places among the training rows, ``[N, H]``."""
        return torch.cat([self.states[self.starts[i] : self.starts[i + 1]] for i in numbers]).to(device)


def fits(split: SplitHead, anchored: int) -> bool:
    """Whether the states of so many anchored tokens are held."""
    weight: torch.Tensor = split.head.weight
    return anchored * weight.shape[1] * weight.dtype.itemsize <= MOST_BYTES


def base_states(split: SplitHead, rows: Dataset) -> BaseStates:
    """Read the base where rows are anchored, rows of like length together and none beyond its last anchor.

    The batches depend on the rows alone, so a training that goes on after a kill holds the same states.

    Args:
        split: the model, its adapter on.
        rows: training rows with ``input_ids`` and ``anchored``.
    """
    # Nothing predicts the first token.
    places = [np.flatnonzero(row["anchored"][1:]) for row in rows.select_columns(["anchored"])]
    starts = row_starts([len(own) for own in places])
    held = [number for number, own in enumerate(places) if len(own)]
    ends = [int(places[number][-1]) + 1 for number in held]
    device = split.model.device
    weight: torch.Tensor = split.head.weight
    states = torch.empty((int(starts[-1]), weight.shape[1]), dtype=weight.dtype)
    for batch in plan_batches(ends, batch_budget(split.model, _BATCH_TOKENS)):
        numbers, end = [held[i] for i in batch], max(ends[i] for i in batch)
        ids = torch.zeros((len(batch), end), dtype=torch.long)
        for place, row in enumerate(rows.select(numbers)["input_ids"]):
            ids[place, : min(end, len(row))] = torch.as_tensor(row[:end])
        with torch.no_grad(), without_adapter(split.model):
            hidden = split.hidden_states(ids.to(device), None).cpu()
        for place, number in enumerate(numbers):
            states[starts[number] : starts[number + 1]] = hidden[place, places[number]]
    return BaseStates(states, starts)
