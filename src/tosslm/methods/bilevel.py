"""SEAL's selector: a weight for each custom row, learnt along with a model that learns to be safe.

The upper level is the loss of safety demonstrations, the lower level the weighted loss of custom rows. The model
descends on a mixture of both, safety first; the weights descend on the lower level, so that they leave the rows that
the model, as safe as it is by then, finds unlikely (arXiv 2410.07471).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import get_scheduler

from tosslm.config import Config, TrainingConfig
from tosslm.data.tokenize import RowTokenizer
from tosslm.errors import InputError, TosslmError
from tosslm.files import read_batches
from tosslm.methods.safety import read_safety
from tosslm.model.base import Base, fresh_adapter
from tosslm.model.head import SplitHead
from tosslm.model.losses import predicted_losses
from tosslm.progress import Reporter
from tosslm.training.train import scheduler_name

FIRST_UPPER_WEIGHT = 0.9
UPPER_WEIGHT_FALL = 0.1
SELECTOR_RATE = 0.02
"""How far a row's logit falls, for each nat of its loss, when the row is read at weight 1.

As far as the authors' falls in an epoch; at ten times as much, weights change so fast that the order of rows tells.
"""


def upper_weight(epoch: int) -> float:
    """The share of the upper level in the model's loss, by epoch from 0."""
    return max(0.0, FIRST_UPPER_WEIGHT - UPPER_WEIGHT_FALL * epoch)


def relative_weights(logits: torch.Tensor) -> torch.Tensor:
    """``R * softmax(logits)``, ``[R]``: 1 on average, so that the lower level does not vanish in a large set."""
    return torch.softmax(logits, 0) * len(logits)


def selector_loss(logits: torch.Tensor, batch: np.ndarray, losses: torch.Tensor) -> torch.Tensor:
    """The lower level over one batch, as the selector sees it.

    Args:
        logits: float64 ``[R]``, of all custom rows.
        batch: int64 ``[B]``, which of them were read.
        losses: float64 ``[B]``, their mean losses in nats a token, without a gradient.

    Returns:
        A scalar. Its gradient at row ``j`` is ``w_j * (loss_j - mean_loss) / B``, where ``loss_j`` is 0 for a row
        that was not read, ``w`` are the relative weights, and ``mean_loss`` is ``sum(w_i * loss_i) / R``.
    """
    return (relative_weights(logits)[batch] * losses).mean()


def selector_weights(
    data: Path, config: Config, base: Base, tokenizer: RowTokenizer, reporter: Reporter
) -> np.ndarray:
    """The weight of each custom row of a run, float64 ``[R]``, 1 on average.

    Args:
        data: the run's data folder.
        config: ``compare.safety`` names the demonstrations, ``references`` says how the model is trained.
        base: what the model starts from, and is again afterwards.
        tokenizer: of the demonstrations.
        reporter: where progress goes.

    Raises:
        InputError: there is no demonstration.
        TosslmError: a loss is no number.
    """
    columns = ["input_ids", "response_mask"]
    custom = [row for batch in read_batches(data / "custom.parquet", columns) for row in batch]
    tokens = [tokenizer(row.messages) for row in read_safety(config)]
    safe = [{"input_ids": row.input_ids, "response_mask": row.response_mask} for row in tokens]
    if not safe:
        raise InputError("compare.safety: no row there that can be read")
    return train_selector(base, custom, safe, config.references, seed=config.seed, reporter=reporter)


def train_selector(
    base: Base,
    custom: Sequence[Mapping[str, Any]],
    safe: Sequence[Mapping[str, Any]],
    settings: TrainingConfig,
    *,
    seed: int,
    reporter: Reporter,
) -> np.ndarray:
    """Train selector and model on batches of both sets; only the selector is kept.

    Args:
        base: what the model starts from, with a fresh LoRA.
        custom: ``R`` mappings with ``input_ids`` (ints, ``[T]``) and ``response_mask`` (bools, ``[T]``).
        safe: safety demonstrations, likewise.
        settings: how the model is trained; an epoch is a pass over the custom rows.
        seed: of the adapter's start, the order of rows, and dropout.
        reporter: where progress goes.

    Returns:
        float64 ``[R]``, 1 on average.

    Raises:
        TosslmError: a loss is no number.
    """
    epoch_steps = math.ceil(len(custom) / settings.batch_size)
    steps = settings.epochs * epoch_steps
    logits = torch.zeros(len(custom), dtype=torch.float64, requires_grad=True)
    selector = torch.optim.SGD([logits], lr=SELECTOR_RATE)
    custom_batches = _shuffled(len(custom), settings.batch_size, np.random.default_rng((seed, 0)))
    safe_batches = _shuffled(len(safe), settings.batch_size, np.random.default_rng((seed, 1)))
    with _learning(base, settings, seed) as model, reporter.task("seal's selector", steps) as task:
        split, micro = SplitHead(model), settings.micro_batch_size
        learnt = [parameter for parameter in model.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(learnt, lr=settings.learning_rate, weight_decay=settings.weight_decay)
        scheduler = get_scheduler(scheduler_name(settings), optimizer, settings.warmup_steps, steps)
        for step, read, shown in zip(range(steps), custom_batches, safe_batches, strict=False):
            upper = upper_weight(step // epoch_steps)
            weights = relative_weights(logits.detach())[read]
            rows, demonstrations = [custom[i] for i in read], [safe[i] for i in shown]
            add_gradients(split, demonstrations, torch.full((len(shown),), upper / len(shown)), micro)
            losses = add_gradients(split, rows, (1 - upper) / len(read) * weights, micro)
            torch.nn.utils.clip_grad_norm_(learnt, settings.max_grad_norm)
            _descend(optimizer)
            scheduler.step()
            # The sum instead of the mean: how many rows are read together does not change how far each falls.
            (len(read) * selector_loss(logits, read, losses)).backward()
            _descend(selector)
            tokens = sum(len(row["input_ids"]) for row in (*rows, *demonstrations))
            task.advance(1, tokens, f"custom loss {losses.mean():.3f}")
    return relative_weights(logits.detach()).numpy()


def add_gradients(
    split: SplitHead, rows: Sequence[Mapping[str, Any]], factors: torch.Tensor, micro_batch_size: int
) -> torch.Tensor:
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
    done = []
    for start in range(0, len(rows), micro_batch_size):
        part = slice(start, start + micro_batch_size)
        losses = _row_losses(split, rows[part])
        (losses * factors[part].to(losses)).sum().backward()
        done.append(losses.detach().cpu().double())
    found = torch.cat(done)
    if not torch.isfinite(found).all():
        raise TosslmError("seal: a row's loss is no number; lower references.learning_rate, or use float32")
    return found


def _row_losses(split: SplitHead, rows: Sequence[Mapping[str, Any]]) -> torch.Tensor:
    """Mean loss of each row's response tokens, float32 ``[B]``."""
    losses, counts = predicted_losses(split, rows)
    counts = counts.to(losses.device)
    row_of = torch.arange(len(rows), device=losses.device).repeat_interleave(counts)
    return losses.new_zeros(len(rows)).index_add(0, row_of, losses) / counts


def _shuffled(count: int, size: int, order: np.random.Generator) -> Iterator[np.ndarray]:
    """Batches of row numbers without end, each row once in a pass; those of a pass are of one size, or one apart."""
    while True:
        yield from np.array_split(order.permutation(count), math.ceil(count / size))


def _descend(optimizer: torch.optim.Optimizer) -> None:
    optimizer.step()
    optimizer.zero_grad()


@contextmanager
def _learning(base: Base, settings: TrainingConfig, seed: int) -> Iterator[Any]:
    """The base with a fresh LoRA, ready to be trained."""
    with fresh_adapter(base, settings.lora, seed) as model:
        if settings.gradient_checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        try:
            yield model.train()
        finally:
            if settings.gradient_checkpointing:
                model.gradient_checkpointing_disable()
