"""What a model would learn from safety demonstrations, for methods that train on them beside the custom rows.

Torch is imported where it is used: a list of the methods does not wait for it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tosslm.errors import InputError, TosslmError
from tosslm.methods.needs import read_safety

if TYPE_CHECKING:
    import torch

    from tosslm.config import TrainingConfig
    from tosslm.model.head import SplitHead
    from tosslm.workbench import Workbench

Rows = Sequence[Mapping[str, Any]]
"""Mappings with ``input_ids`` (ints, ``[T]``) and ``response_mask`` (bools, ``[T]``)."""


def tokenized_safety(bench: Workbench) -> list[dict[str, Any]]:
    """The rows of ``compare.safety``, in order; those that are cut before their answer are left out.

    Raises:
        InputError: none is left.
    """
    safety = read_safety(bench.config, bench.reporter.say)
    rows = (bench.tokenizer(row.messages, context=row.context) for row in safety)
    answered = [row for row in rows if any(row.response_mask)]
    if not answered:
        raise InputError("compare.safety: every row is cut before its answer; raise data.max_length")
    if cut := len(safety) - len(answered):
        bench.reporter.say(
            f"compare.safety: {cut:,} rows are left out, as data.max_length cuts them before the answer"
        )
    return [{"input_ids": row.input_ids, "response_mask": row.response_mask} for row in answered]


class SafetyBatches:
    """Batches of safety rows without end, in an order of their own, and the gradients of the next of them.

    Args:
        rows: all of them.
        settings: of the training, whose batch sizes are these batches' too.
        seed: of their order.
    """

    def __init__(self, rows: Rows, settings: TrainingConfig, seed: int) -> None:
        self._rows, self._micro = rows, settings.micro_batch_size
        self._batches = shuffled(len(rows), settings.batch_size, np.random.default_rng((seed, 1)))

    def loss_gradients(self, model: Any) -> list[torch.Tensor]:
        """The gradient of the next batch's mean loss a token, one tensor a trainable parameter."""
        from tosslm.model.head import SplitHead

        rows, split = self._next(), SplitHead(model)
        return gradients(trainable(model), lambda: add_gradients(split, rows, token_shares(rows), self._micro))

    def divergence_gradients(self, model: Any) -> list[torch.Tensor]:
        """The gradient of the next batch's ``KL(base || model)``, one tensor a trainable parameter."""
        from tosslm.model.head import SplitHead

        rows, split = self._next(), SplitHead(model)
        return gradients(trainable(model), lambda: add_divergence_gradients(split, rows, self._micro))

    def _next(self) -> Rows:
        return [self._rows[number] for number in next(self._batches)]


def safety_batches(bench: Workbench) -> SafetyBatches:
    """The batches that go with a run's fine-tuning."""
    return SafetyBatches(tokenized_safety(bench), bench.config.finetune, bench.config.seed)


def shuffled(count: int, size: int, order: np.random.Generator) -> Iterator[np.ndarray]:
    """Batches of row numbers without end, each row once in a pass; those of a pass are of one size, or one apart."""
    while True:
        yield from np.array_split(order.permutation(count), math.ceil(count / size))


def token_shares(rows: Rows) -> torch.Tensor:
    """Each row's share of all response tokens, float32 ``[B]``: rows' means so weighted add up to that of tokens."""
    import torch

    counts = torch.tensor([sum(row["response_mask"]) for row in rows], dtype=torch.float32)
    return counts / counts.sum()


def add_gradients(split: SplitHead, rows: Rows, factors: torch.Tensor, micro_batch_size: int) -> torch.Tensor:
    """Add the gradient of ``sum(factors * losses)`` to the model's, a micro-batch at a time.

    Args:
        split: the model.
        rows: ``B`` of them.
        factors: ``[B]``, of the rows' mean losses.
        micro_batch_size: rows in one forward pass.

    Returns:
        The rows' mean losses in nats a token, without a gradient, float64 ``[B]`` on the CPU.

    Raises:
        TosslmError: a loss is no number.
    """
    import torch

    done = []
    for start in range(0, len(rows), micro_batch_size):
        part = slice(start, start + micro_batch_size)
        losses = _row_losses(split, rows[part])
        (losses * factors[part].to(losses)).sum().backward()
        done.append(losses.detach().cpu().double())
    return _finite(torch.cat(done))


def add_divergence_gradients(split: SplitHead, rows: Rows, micro_batch_size: int) -> float:
    """Add the gradient of ``KL(base || model)``, summed over all positions, per response token, to the model's.

    Args:
        split: the model.
        rows: ``B`` of them.
        micro_batch_size: rows in one forward pass.

    Returns:
        The divergence itself, in nats.

    Raises:
        TosslmError: it is no number.
    """
    import torch

    tokens, done = sum(sum(row["response_mask"]) for row in rows), []
    for start in range(0, len(rows), micro_batch_size):
        divergence = _summed_divergence(split, rows[start : start + micro_batch_size]) / tokens
        divergence.backward()
        done.append(divergence.detach().cpu().double())
    return float(_finite(torch.stack(done)).sum())


def trainable(model: Any) -> list[torch.nn.Parameter]:
    """The parameters that train, in the model's order."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def own_gradients(parameters: Sequence[torch.nn.Parameter]) -> list[torch.Tensor]:
    """What stands in their ``grad``, zeros where there is none."""
    import torch

    return [torch.zeros_like(one) if one.grad is None else one.grad for one in parameters]


def gradients(parameters: Sequence[torch.nn.Parameter], backward: Callable[[], object]) -> list[torch.Tensor]:
    """What ``backward`` by itself adds to their ``grad``, which is left as it was."""
    before = [one.grad for one in parameters]
    for one in parameters:
        one.grad = None
    backward()
    found = own_gradients(parameters)
    for one, gradient in zip(parameters, before, strict=True):
        one.grad = gradient
    return found


def set_gradients(parameters: Sequence[torch.nn.Parameter], made: Sequence[torch.Tensor], max_norm: float) -> None:
    """Put gradients in the place of those that are there, clipped all together as the trainer clips its own."""
    import torch

    for one, gradient in zip(parameters, made, strict=True):
        one.grad = gradient
    torch.nn.utils.clip_grad_norm_(parameters, max_norm)


def _row_losses(split: SplitHead, rows: Rows) -> torch.Tensor:
    """Mean loss of each row's response tokens, float32 ``[B]``."""
    import torch

    from tosslm.model.losses import predicted_losses

    losses, counts = predicted_losses(split, rows)
    counts = counts.to(losses.device)
    row_of = torch.arange(len(rows), device=losses.device).repeat_interleave(counts)
    return losses.new_zeros(len(rows)).index_add(0, row_of, losses) / counts


def _summed_divergence(split: SplitHead, rows: Rows) -> torch.Tensor:
    """The sum of ``KL(base || model)`` over every position of the rows, a scalar."""
    import torch

    from tosslm.model.adapters import without_adapter
    from tosslm.model.losses import padded_batch

    input_ids, attention_mask, _ = (array.to(split.model.device) for array in padded_batch(rows))
    hidden = split.hidden_states(input_ids, attention_mask)
    with torch.no_grad(), without_adapter(split.model):
        base = split.hidden_states(input_ids, attention_mask)
    read = attention_mask.bool()
    return split.summed_divergence(hidden[read], base[read], lambda: without_adapter(split.model))


def _finite(losses: torch.Tensor) -> torch.Tensor:
    if not losses.isfinite().all():
        raise TosslmError("a row's loss is no number; lower the learning_rate, or use model.dtype float32")
    return losses
