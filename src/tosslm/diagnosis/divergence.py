"""How far fine-tuning moved the next-token distribution, position by position, and whether toward harm.

With ``b`` the aligned base, ``m`` a fine-tuned model and ``h`` the degraded reference, at one position of a response:

    kl      KL(b || m)                 how far the model moved
    shift   KL(h || b) - KL(h || m)    how many nats nearer to the degraded reference than the base it now is

The shift is the mean of ``log m - log b`` over what the degraded reference would say: 0 for a model that did not
move, ``KL(h || b)`` for one that became the degraded reference, negative for one that moved away from it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from tosslm.model.head import SplitHead
from tosslm.model.losses import batch_budget, padded_batch, plan_batches
from tosslm.model.memory import lowering
from tosslm.progress import Task
from tosslm.ragged import split_rows

BASE, DEGRADED = "base", "degraded"


def row_divergences(
    model: Any,
    rows: Sequence[Mapping[str, Any]],
    names: Sequence[str],
    *,
    positions: int,
    batch_tokens: int,
    task: Task,
) -> list[dict[str, dict[str, np.ndarray]]]:
    """Measure adapters against the base they sit on, at the first response positions of each row.

    The body runs once a model, the heads of all models together over a chunk of positions, so that at no time a
    batch's logits stand in memory.

    Args:
        model: a PEFT model whose adapters are ``names``; the base is it without any.
        rows: mappings with ``input_ids`` and ``response_mask``.
        names: the adapters to measure.
        positions: how many response tokens of a row are measured, at most.
        batch_tokens: as in ``response_losses``.
        task: told of each batch.

    Returns:
        For each row, under each of ``names`` and ``base``, ``kl``, ``shift`` and ``loss``: float32 ``[R]`` in nats,
        one value a response token, with ``R`` at most ``positions``; no ``shift`` without a ``degraded`` one.
    """
    short = [up_to(row, positions) for row in rows]
    lengths = [len(row["input_ids"]) for row in short]
    results: list[dict[str, dict[str, np.ndarray]]] = [{} for _ in rows]
    split = SplitHead(model)
    for batch in plan_batches(lengths, batch_budget(model, batch_tokens)):
        measured = _batch(model, split, [short[i] for i in batch], names)
        for i, result in zip(batch, measured, strict=True):
            results[i] = result
        task.advance(len(batch), sum(lengths[i] for i in batch) * (len(names) + 1))
    return results


def up_to(row: Mapping[str, Any], positions: int) -> dict[str, Any]:
    """The row up to its last measured token; nothing after it changes what is measured."""
    responses = np.flatnonzero(row["response_mask"])[:positions]
    end = int(responses[-1]) + 1
    return {"input_ids": row["input_ids"][:end], "response_mask": row["response_mask"][:end]}


@contextmanager
def under(model: Any, name: str) -> Iterator[None]:
    """The model under one of its adapters, or as the plain base."""
    if name == BASE:
        with model.disable_adapter():
            yield
    else:
        model.set_adapter(name)
        yield


@torch.inference_mode()
def _batch(
    model: Any, split: SplitHead, rows: Sequence[Mapping[str, Any]], names: Sequence[str]
) -> list[dict[str, dict[str, np.ndarray]]]:
    with lowering(f"diagnosis: reading {len(rows)} rows at once", "lower scoring.batch_tokens or data.max_length"):
        return _read_batch(model, split, rows, names)


def _read_batch(
    model: Any, split: SplitHead, rows: Sequence[Mapping[str, Any]], names: Sequence[str]
) -> list[dict[str, dict[str, np.ndarray]]]:
    input_ids, attention_mask, predicts = (part.to(model.device) for part in padded_batch(rows))
    targets = input_ids.roll(-1, dims=1)[predicts]
    hidden = {}
    for name in (BASE, *names):
        with under(model, name):
            hidden[name] = split.hidden_states(input_ids, attention_mask)[predicts]
    chunks = [
        _measure(model, split, {name: states[part] for name, states in hidden.items()}, targets[part])
        for part in split.chunks(len(targets), arrays=2 * (len(hidden) + 3))
    ]
    lengths = predicts.sum(1).cpu().numpy()
    cut = {
        name: {
            measure: split_rows(torch.cat([chunk[name][measure] for chunk in chunks]).float().cpu().numpy(), lengths)
            for measure in chunks[0][name]
        }
        for name in hidden
    }
    return [
        {name: {measure: values[i] for measure, values in own.items()} for name, own in cut.items()}
        for i in range(len(rows))
    ]


def _measure(
    model: Any, split: SplitHead, hidden: Mapping[str, torch.Tensor], targets: torch.Tensor
) -> dict[str, dict[str, torch.Tensor]]:
    """All measures of one chunk of positions: hidden states ``[N, H]`` of each model, targets int64 ``[N]``."""
    # A shift is the difference of two sums over the vocabulary: float32 loses its fifth digit there.
    dtype = torch.float32 if model.device.type == "mps" else torch.float64
    logs = {}
    for name, states in hidden.items():
        with under(model, name):  # an adapter may sit on the head too
            logs[name] = split.logits(states).log_softmax(-1, dtype=dtype)
    # Each probability is worked out once, not in every divergence that it weighs: exp is most of their time.
    weights = {name: logs[name].exp() for name in (BASE, DEGRADED) if name in logs}

    def divergence(p: str, q: str) -> torch.Tensor:
        return torch.einsum("nv,nv->n", weights[p], logs[p] - logs[q])

    measures = {
        name: {"kl": divergence(BASE, name), "loss": -log.gather(1, targets[:, None])[:, 0]}
        for name, log in logs.items()
    }
    if DEGRADED in logs:
        away = divergence(DEGRADED, BASE)
        for name in logs:
            measures[name]["shift"] = away - divergence(DEGRADED, name)
    return measures
