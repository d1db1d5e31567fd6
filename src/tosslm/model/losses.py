"""The loss of every response token of a row, under whichever adapters a model has set."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from tosslm.errors import InputError, TosslmError
from tosslm.model.attention import block_attention
from tosslm.model.head import SplitHead
from tosslm.model.lean import lean_adapters
from tosslm.model.memory import out_of_memory
from tosslm.model.prefix import Prefix, can_share, read_prefix
from tosslm.model.texts import Group, Text, beginnings, distinct_texts
from tosslm.ragged import split_rows

Advance = Callable[[int, int], None]
CPU_BATCH_TOKENS = 1024
"""A CPU gains nothing from larger batches: their activations leave its caches."""
_CACHED_BATCHES = 4
"""Batches' worth of tokens in the copies of a shared beginning's cache that its rows look back at."""


def response_losses(
    model: Any,
    rows: Iterable[Mapping[str, Any]],
    *,
    batch_tokens: int = 16384,
    advance: Advance | None = None,
    share: bool = True,
) -> list[np.ndarray]:
    """``-log p(x_t | x_<t)`` of every response token.

    Rows are batched by length, so that little is padded, and read no further than their last response token; the
    head runs only where a response token is predicted, in chunks. What rows begin with in common, such as a system
    prompt, is read once where that spares at least a quarter of a batch, if the model's cache can be continued; a
    row that another one begins with is read with it. A batch that memory does not hold is tried again in
    halves, and what follows goes in batches of that size. Else batches depend on the rows and on ``batch_tokens``
    alone.

    Args:
        model: any transformers causal LM, with adapters as they are set.
        rows: mappings with ``input_ids`` (ints, ``[T]``) and ``response_mask`` (bools, ``[T]``).
        batch_tokens: padded tokens in one forward pass, at most (on a CPU, at most 1,024); a longer row goes
            alone.
        advance: called with the rows and tokens that are done, as they are.
        share: read once what rows begin with in common.

    Returns:
        One float32 array a row, in nats, one value a response token in their order.

    Raises:
        InputError: a row's first token is of the response.
        TosslmError: a loss is NaN or infinite, or one row alone does not fit in memory.

    Examples:
        >>> rows = tosslm.tokenize_rows([{"messages": messages}], tokenizer)  # doctest: +SKIP
        >>> tosslm.response_losses(model, rows)  # doctest: +SKIP
        [array([2.13, 0.07, ...], dtype=float32)]
    """
    rows = list(rows)
    for i, row in enumerate(rows):
        if len(row["response_mask"]) and row["response_mask"][0]:
            raise InputError(
                f"row {row.get('row_id', i)}: its first token is of the response, and nothing predicts it; let "
                "the row begin with a token that is not, such as the one that begins a text"
            )
    budget = _Budget(batch_budget(model, batch_tokens))
    losses = [np.zeros(0, dtype=np.float32)] * len(rows)
    texts = distinct_texts(rows, merge=share)
    groups = beginnings(texts, budget.tokens // 4) if share and can_share(model) else [Group(tuple(texts), 0)]
    unread = set(range(len(rows))).difference(*(text.rows for text in texts))
    if advance and unread:
        advance(len(unread), sum(len(rows[i]["input_ids"]) for i in unread))
    with _reading(model) as split:
        for text, at_token in (found for group in groups for found in _group_losses(split, group, rows, budget)):
            for i in text.rows:
                predicted = np.asarray(rows[i]["response_mask"], dtype=bool)[1:]
                losses[i] = at_token[1 : len(predicted) + 1][predicted[: len(at_token) - 1]]
                _check_finite(losses[i], rows[i], i)
            if advance:
                advance(len(text.rows), sum(len(rows[i]["input_ids"]) for i in text.rows))
    return losses


@contextmanager
def _reading(model: Any) -> Iterator[SplitHead]:
    """The model as it reads quickest, in evaluation mode; as it was afterwards."""
    was_training = model.training
    model.eval()
    try:
        with lean_adapters(model), block_attention(model):
            yield SplitHead(model)
    finally:
        model.train(was_training)


def _group_losses(
    split: SplitHead, group: Group, rows: Sequence[Mapping[str, Any]], budget: _Budget
) -> Iterator[tuple[Text, np.ndarray]]:
    """Each text of a group with its losses at the response tokens, float32 ``[T]``."""
    texts, prefix = group.texts, None
    if group.shared:
        with _holding(texts[0], rows):
            prefix = read_prefix(split, texts, group.shared)
    shared = group.shared if prefix else 0
    tails = [_tail(text, shared) for text in texts]
    lengths = [len(tail["input_ids"]) for tail in tails]
    pending = budget.batches(range(len(tails)), lengths, shared)[::-1]
    while pending:
        batch = pending.pop()
        try:
            found = batch_losses(split, [tails[i] for i in batch], prefix)
        except (RuntimeError, MemoryError) as error:
            if len(batch) > 1 and out_of_memory(error):
                budget.tokens = min(budget.tokens, len(batch) // 2 * max(lengths[i] for i in batch))
                left = [i for one in [*pending, batch] for i in one]
                pending = budget.batches(left, lengths, shared)[::-1]
                continue
            with _holding(texts[batch[0]], rows):
                raise
        for i, own in zip(batch, found, strict=True):
            at_token = np.zeros(len(texts[i].input_ids), dtype=np.float32)
            if prefix:
                at_token[: len(prefix.losses)] = prefix.losses
            at_token[shared:][tails[i]["response_mask"]] = own
            yield texts[i], at_token


@dataclass(slots=True)
class _Budget:
    """Padded tokens that a forward pass may have: fewer once one did not fit, so that the next ones do."""

    tokens: int

    def batches(self, of: Sequence[int], lengths: Sequence[int], shared: int) -> list[list[int]]:
        """Batches of some texts, by their numbers, behind so many tokens that are in the cache for each."""
        most = max(1, _CACHED_BATCHES * self.tokens // shared) if shared else None
        return [[of[i] for i in batch] for batch in plan_batches([lengths[i] for i in of], self.tokens, most)]


def _tail(text: Text, shared: int) -> dict[str, np.ndarray]:
    """What is read of a text after the beginning that it shares; that predicts the first token of the rest."""
    mask = text.response_mask[shared:].copy()
    mask[0] = False
    return {"input_ids": text.input_ids[shared:], "response_mask": mask}


@contextmanager
def _holding(text: Text, rows: Sequence[Mapping[str, Any]]) -> Iterator[None]:
    """Says which row it is that memory does not hold."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        raise TosslmError(
            f"row {text.rows[-1]} ({len(rows[text.rows[-1]]['input_ids'])} tokens) alone does not fit in memory; "
            "lower data.max_length or use a larger machine"
        ) from error


def batch_budget(model: Any, batch_tokens: int) -> int:
    """Padded tokens in one forward pass of a model: ``batch_tokens``, on a CPU at most 1,024."""
    return budget_on(model.device, batch_tokens)


def budget_on(device: torch.device, batch_tokens: int) -> int:
    """The same of a device."""
    return min(batch_tokens, CPU_BATCH_TOKENS) if device.type == "cpu" else batch_tokens


def plan_batches(lengths: Sequence[int], batch_tokens: int, most: int | None = None) -> list[list[int]]:
    """Group rows of like length under a budget of padded tokens.

    Args:
        lengths: tokens of each row.
        batch_tokens: rows of a batch times its longest row is at most this, unless one row alone exceeds it.
        most: rows of a batch, at most.

    Returns:
        Row indices of each batch; the longest rows come first, so that a lack of memory shows at once.
    """
    batches: list[list[int]] = []
    for i in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        longest = lengths[batches[-1][0]] if batches else 0
        count = len(batches[-1]) + 1 if batches else 0
        if batches and count * longest <= batch_tokens and count <= (most or count):
            batches[-1].append(i)
        else:
            batches.append([i])
    return batches


@torch.inference_mode()
def batch_losses(
    split: SplitHead, rows: Sequence[Mapping[str, Any]], prefix: Prefix | None = None
) -> list[np.ndarray]:
    """The losses of one batch that memory has to hold: one float32 array a row, in nats.

    Args:
        split: the model.
        rows: ``B`` rows as for ``response_losses``.
        prefix: what they all come after.
    """
    device = split.model.device
    input_ids, _, predicts = padded_batch(rows)
    # The last token of the longest row predicts nothing.
    read, predicts, targets = input_ids[:, :-1], predicts[:, :-1], input_ids[:, 1:]
    cache = prefix.caches(len(rows)) if prefix else None
    hidden = split.hidden_states(read.to(device), None, cache)
    losses = split.losses(hidden[predicts.to(device)], targets[predicts].to(device))
    return split_rows(losses.cpu().numpy(), predicts.sum(1).numpy())


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
