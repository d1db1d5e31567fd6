"""SEAL: rows that do not suit a model trained to be safe are dropped.

Its selector is a weight for each custom row, learnt along with a model that learns to be safe. The upper level is the
loss of safety demonstrations, the lower level the weighted loss of custom rows. The model descends on a mixture of
both, safety first; the weights descend on the lower level, so that they leave the rows that the model, as safe as it
is by then, finds unlikely (arXiv 2410.07471).

Torch is imported where it is used: a list of the methods does not wait for it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from tosslm.config import TrainingConfig, covered
from tosslm.files import read_tables
from tosslm.methods.alignment import add_gradients, shuffled, tokenized_safety, trainable
from tosslm.methods.material import Material
from tosslm.methods.method import Method, keep_best_rows
from tosslm.methods.needs import SAFETY, safety_parts
from tosslm.progress import Reporter

if TYPE_CHECKING:
    import torch

    from tosslm.model.base import Base
    from tosslm.workbench import Workbench

ROW_WEIGHTS = "row weights"
FIRST_UPPER_WEIGHT = 0.9
UPPER_WEIGHT_FALL = 0.1
"""Both are defaults of the authors' argument parser; their scripts pass 1, and 0.02 or 0.03."""
SELECTOR_RATE = 0.02
"""How far a row's logit falls, for each nat of its loss, when the row is read at weight 1.

As far as the authors' falls in an epoch; at ten times as much, weights change so fast that the order of rows tells.
"""


def upper_weight(epoch: int) -> float:
    """The share of the upper level in the model's loss, by epoch from 0."""
    return max(0.0, FIRST_UPPER_WEIGHT - UPPER_WEIGHT_FALL * epoch)


def relative_weights(logits: torch.Tensor) -> torch.Tensor:
    """``R * softmax(logits)``, ``[R]``: 1 on average, so that the lower level does not vanish in a large set."""
    import torch

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


def drop_lightest_rows(material: Material) -> np.ndarray:
    """Rows of the lowest weight are dropped, within ``floor(d * N)`` tokens; bool ``[N]``."""
    return keep_best_rows(material, -material.signals[ROW_WEIGHTS])


def selector_weights(bench: Workbench) -> np.ndarray:
    """The weight of each custom row of a run, float64 ``[R]``, 1 on average.

    ``compare.safety`` names the demonstrations, ``references`` says how the model is trained.

    Raises:
        InputError: there is no demonstration.
        TosslmError: a loss is no number.
    """
    from datasets import Dataset

    # In Arrow, 4 bytes a token: batches are drawn from anywhere in the set.
    columns = ("input_ids", "response_mask")
    custom: Any = Dataset(pa.concat_tables(read_tables(bench.layout.rows("custom"), columns)))
    safe, config = tokenized_safety(bench), bench.config
    return train_selector(bench.base, custom, safe, config.references, seed=config.seed, reporter=bench.reporter)


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
    import torch
    from transformers import get_scheduler

    from tosslm.model.head import SplitHead
    from tosslm.training.train import scheduler_name

    epoch_steps = math.ceil(len(custom) / settings.batch_size)
    steps = settings.epochs * epoch_steps
    logits = torch.zeros(len(custom), dtype=torch.float64, requires_grad=True)
    selector = torch.optim.SGD([logits], lr=SELECTOR_RATE)
    custom_batches = shuffled(len(custom), settings.batch_size, np.random.default_rng((seed, 0)))
    safe_batches = shuffled(len(safe), settings.batch_size, np.random.default_rng((seed, 1)))
    with _learning(base, settings, seed) as model, reporter.task("seal's selector", steps) as task:
        split, micro = SplitHead(model), settings.micro_batch_size
        learnt = trainable(model)
        optimizer = torch.optim.AdamW(
            learnt, lr=settings.learning_rate, betas=settings.betas, weight_decay=settings.weight_decay
        )
        scheduler = get_scheduler(scheduler_name(settings), optimizer, settings.warmup_steps, steps)
        for step, read, shown in zip(range(steps), custom_batches, safe_batches, strict=False):
            upper = upper_weight(step // epoch_steps)
            weights = relative_weights(logits.detach())[read]
            rows, demonstrations = [custom[int(i)] for i in read], [safe[i] for i in shown]
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


def _descend(optimizer: torch.optim.Optimizer) -> None:
    optimizer.step()
    optimizer.zero_grad()


@contextmanager
def _learning(base: Base, settings: TrainingConfig, seed: int) -> Iterator[Any]:
    """The base with a fresh LoRA, ready to be trained."""
    from tosslm.model.adapters import fresh_adapter

    with fresh_adapter(base, settings.lora, seed) as model:
        if settings.gradient_checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        try:
            yield model.train()
        finally:
            if settings.gradient_checkpointing:
                model.gradient_checkpointing_disable()


def _choice_parts(bench: Workbench) -> list[Any]:
    return [covered(bench.config.references), bench.base.identity, *safety_parts(bench)]


SEAL = Method(
    "seal",
    summary="drops whole rows that a selector, trained against safety demonstrations, gives the least weight",
    source="Shen et al. 2025, arXiv 2410.07471 (their memory-efficient algorithm)",
    badge="variant",
    differs="row weights are 1 on average, as a softmax over many rows all but takes them out of the model's loss; "
    "plain gradient steps of the selector: under AdamW, which evens out gradients, the rows' order weighs as much as "
    "their loss when epochs are few; the upper level's first weight, 0.9, and its fall, 0.1 an epoch, are only the "
    "defaults of the authors' argument parser: their scripts pass 1, and 0.02 or 0.03; an epoch is a pass over the "
    "custom rows, however many demonstrations there are; the model is trained as references are; the budget of "
    "dropped tokens instead of a share of rows, and dropped rows stay in the batches without labels",
    builds_on="data",
    choose=drop_lightest_rows,
    signals={ROW_WEIGHTS: selector_weights},
    needs=(SAFETY,),
    drops_share=True,
    choice_covers=_choice_parts,
)
