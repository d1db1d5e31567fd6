"""The loss of every response token of a row, under whichever adapters a model has set."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from tosslm.errors import TosslmError
from tosslm.model.head import SplitHead
from tosslm.ragged import split_rows

Advance = Callable[[int, int], None]
CPU_BATCH_TOKENS = 1024
"""A CPU gains nothing from larger batches: their activations leave its caches."""


def response_losses(
    model: Any,
    rows: Iterable[Mapping[str, Any]],
    *,
    batch_tokens: int = 16384,
    advance: Advance | None = None,
) -> list[np.ndarray]:
    """``-log p(x_t | x_<t)`` of every response token.

    Rows are batched by length, so that little is padded; the head runs only where a response token is
    predicted, in chunks. A batch that memory does not hold is halved and tried again.

    Args:
        model: any transformers causal LM, with adapters as they are set.
        rows: mappings with ``input_ids`` (ints, ``[T]``) and ``response_mask`` (bools, ``[T]``).
        batch_tokens: padded tokens in one forward pass, at most (on a CPU, at most 1,024); a longer row goes
            alone.
        advance: called with the rows and tokens done after each batch.

    Returns:
        One float32 array a row, in nats, one value a response token in their order.

    Raises:
        TosslmError: a loss is NaN or infinite, or one row alone does not fit in memory.

    Examples:
        >>> rows = tosslm.tokenize_rows([{"messages": messages}], tokenizer)  # doctest: +SKIP
        >>> tosslm.response_losses(model, rows)  # doctest: +SKIP
        [array([2.13, 0.07, ...], dtype=float32)]
    """
    rows = list(rows)
    lengths = [len(row["input_ids"]) for row in rows]
    losses: list[np.ndarray | None] = [None] * len(rows)
    was_training = model.training
    model.eval()
    try:
        split = SplitHead(model)
        pending = plan_batches(lengths, batch_budget(model, batch_tokens))[::-1]
        while pending:
            batch = pending.pop()
            try:
                found = batch_losses(split, [rows[i] for i in batch])
            except (RuntimeError, MemoryError) as error:
                if not _out_of_memory(error):
                    raise
                if len(batch) == 1:
                    raise TosslmError(
                        f"row {batch[0]} ({lengths[batch[0]]} tokens) alone does not fit in memory; "
                        "lower data.max_length or use a larger machine"
                    ) from error
                half = len(batch) // 2
                pending += [batch[half:], batch[:half]]
                continue
            for i, row_losses in zip(batch, found, strict=True):
                _check_finite(row_losses, rows[i], i)
                losses[i] = row_losses
            if advance:
                advance(len(batch), sum(lengths[i] for i in batch))
    finally:
        model.train(was_training)
    return [row_losses for row_losses in losses if row_losses is not None]


def batch_budget(model: Any, batch_tokens: int) -> int:
    """Padded tokens in one forward pass: ``batch_tokens``, on a CPU at most 1,024."""
    return min(batch_tokens, CPU_BATCH_TOKENS) if model.device.type == "cpu" else batch_tokens


def plan_batches(lengths: Sequence[int], batch_tokens: int) -> list[list[int]]:
    """Group rows of like length under a budget of padded tokens.

    Args:
        lengths: tokens of each row.
        batch_tokens: rows of a batch times its longest row is at most this, unless one row alone exceeds it.

    Returns:
        Row indices of each batch; the longest rows come first, so that a lack of memory shows at once.
    """
    batches: list[list[int]] = []
    for i in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        longest = lengths[batches[-1][0]] if batches else 0
        if batches and (len(batches[-1]) + 1) * longest <= batch_tokens:
            batches[-1].append(i)
        else:
            batches.append([i])
    return batches


@torch.inference_mode()
def batch_losses(split: SplitHead, rows: Sequence[Mapping[str, Any]]) -> list[np.ndarray]:
    """The losses of one batch that memory has to hold: one float32 array a row, in nats."""
    losses, counts = predicted_losses(split, rows)
    return split_rows(losses.cpu().numpy(), counts.numpy())


def predicted_losses(split: SplitHead, rows: Sequence[Mapping[str, Any]]) -> tuple[torch.Tensor, torch.Tensor]:
    """The losses of one padded batch, differentiable.

    Args:
        split: the model.
        rows: ``B`` rows as for ``response_losses``.

    Returns:
        Losses of all response tokens, row after row, in nats, float32 ``[N]``; and how many are each row's, int64
        ``[B]`` on the CPU.
    """
    device = split.model.device
    input_ids, attention_mask, predicts = padded_batch(rows)
    targets = input_ids.roll(-1, dims=1)[predicts].to(device)
    hidden = split.hidden_states(input_ids.to(device), attention_mask.to(device))
    return split.losses(hidden[predicts.to(device)], targets), predicts.sum(1)


def padded_batch(rows: Sequence[Mapping[str, Any]]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Rows as a model takes them, padded at their ends.

    Returns:
        ``input_ids`` and ``attention_mask``, int64 ``[B, T]``, and ``predicts``, bool ``[B, T]``: the positions
        whose hidden state predicts a response token, which is the token after each.
    """
    longest = max(len(row["input_ids"]) for row in rows)
    input_ids = torch.zeros((len(rows), longest), dtype=torch.long)
    attention_mask = torch.zeros_like(input_ids)
    predicts = torch.zeros((len(rows), longest), dtype=torch.bool)
    for i, row in enumerate(rows):
        n = len(row["input_ids"])
        input_ids[i, :n] = torch.as_tensor(row["input_ids"])
        attention_mask[i, :n] = 1
        # The hidden state at position t - 1 predicts the token at t; nothing predicts the first token.
        predicts[i, : n - 1] = torch.as_tensor(row["response_mask"], dtype=torch.bool)[1:]
    return input_ids, attention_mask, predicts


def _check_finite(losses: np.ndarray, row: Mapping[str, Any], index: int) -> None:
    finite = np.isfinite(losses)
    if not finite.all():
        position = int(np.flatnonzero(np.asarray(row["response_mask"]))[int(np.argmin(finite))])
        name = row.get("row_id", index)
        raise TosslmError(
            f"row {name}, position {position}: the loss is {losses[np.argmin(finite)]}; the model or an adapter "
            "computes no number there: try model.dtype float32, or train the reference with a lower learning_rate"
        )


def _out_of_memory(error: Exception) -> bool:
    text = str(error)
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in text
