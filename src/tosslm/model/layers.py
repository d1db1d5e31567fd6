"""One layer of a model: what it holds of a text, and the model with that layer made stronger or weaker."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch.distributed.fsdp import FSDPModule

from tosslm.errors import InputError, TosslmError
from tosslm.model.head import SplitHead
from tosslm.model.losses import Advance, batch_budget, padded_batch, plan_batches


def decoder_layers(model: Any) -> torch.nn.ModuleList:
    """The layers of a causal LM, the first to read a token first.

    Raises:
        TosslmError: the model keeps them otherwise than in a list as long as its config says.
    """
    count = model.config.get_text_config().num_hidden_layers
    for module in model.modules():
        if isinstance(module, torch.nn.ModuleList) and len(module) == count:
            return module
    raise TosslmError(
        f"{type(model).__name__}: its {count} layers do not stand in one list; take what has no need of single layers"
    )


def is_sharded(model: Any) -> bool:
    """Whether layers of a model lie spread over several processes, see ``tosslm.model.sharded``."""
    return any(isinstance(module, FSDPModule) for module in model.modules())


@contextmanager
def scaled_layer(model: Any, layer: int, factor: float) -> Iterator[None]:
    """The model with all matrices of one layer times ``factor``; to the byte what it was afterwards.

    Norms and biases stay, as in LARF (arXiv 2507.18631).

    Raises:
        InputError: other processes hold parts of the layer.
        TosslmError: the weights are packed numbers, of which no product is the weights' own.
    """
    if is_sharded(model):
        raise InputError(
            "use_fsdp of accelerate's config: a layer of which other processes hold parts cannot be scaled; take "
            "configs/accelerate/ddp.yaml, or another method"
        )
    matrices = [weight for weight in decoder_layers(model)[layer].parameters() if weight.ndim > 1]
    if not all(weight.is_floating_point() for weight in matrices):
        raise TosslmError(
            f"{type(model).__name__}: a layer of a quantised model cannot be scaled; load it unquantised"
        )
    before = [weight.detach().clone() for weight in matrices]
    try:
        with torch.no_grad():
            for weight in matrices:
                weight.mul_(factor)
        yield
    finally:
        with torch.no_grad():
            for weight, kept in zip(matrices, before, strict=True):
                weight.copy_(kept)


@torch.inference_mode()
def layer_states(
    model: Any,
    rows: Sequence[Mapping[str, Any]],
    spans: Sequence[np.ndarray],
    layer: int,
    *,
    batch_tokens: int = 16384,
    advance: Advance | None = None,
) -> list[np.ndarray]:
    """What a layer gives out, averaged over spans of tokens.

    Args:
        model: any transformers causal LM, in evaluation mode.
        rows: ``R`` rows as for ``response_losses``.
        spans: of each row, int ``[S, 2]``: the first token of each span, and the one after its last.
        layer: from 0.
        batch_tokens: as in ``response_losses``.
        advance: called with the rows and tokens done after each batch.

    Returns:
        Of each row, float32 ``[S, H]``.
    """
    lengths = [len(row["input_ids"]) for row in rows]
    split = SplitHead(model)  # it spares the logits, of which nothing is needed here
    found: list[np.ndarray] = [np.zeros(0, dtype=np.float32)] * len(rows)
    for batch in plan_batches(lengths, batch_budget(model, batch_tokens)):
        input_ids, attention_mask, _ = padded_batch([rows[i] for i in batch])
        with _given_out(decoder_layers(model)[layer]) as caught:
            split.hidden_states(input_ids.to(model.device), attention_mask.to(model.device))
        for i, states in zip(batch, caught[0], strict=True):
            found[i] = _span_means(states, spans[i]).cpu().numpy()
        if advance:
            advance(len(batch), sum(lengths[i] for i in batch))
    return found


@contextmanager
def _given_out(layer: torch.nn.Module) -> Iterator[list[torch.Tensor]]:
    """The list to which a layer's outputs are added, ``[B, T, H]`` a forward pass."""
    caught: list[torch.Tensor] = []

    def keep(_: Any, __: Any, output: Any) -> None:
        caught.append(output[0] if isinstance(output, tuple) else output)  # a tuple in older layers

    hook = layer.register_forward_hook(keep)
    try:
        yield caught
    finally:
        hook.remove()


def _span_means(states: torch.Tensor, spans: np.ndarray) -> torch.Tensor:
    """Float32 ``[S, H]`` of states ``[T, H]`` and spans int ``[S, 2]``."""
    if not len(spans):
        return states.new_zeros((0, states.shape[-1]), dtype=torch.float32)
    return torch.stack([states[start:end].float().mean(0) for start, end in spans.tolist()])
