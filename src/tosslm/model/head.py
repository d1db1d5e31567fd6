"""A causal LM in two halves, so that the head runs only where a response token is predicted.

The head of a small model is a quarter of its arithmetic and nearly all of its memory: logits of a batch of
16,384 tokens over a vocabulary of 128,000 fill 8 GB in float32. Prompt and padding positions need none of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

from tosslm.errors import TosslmError
from tosslm.model.shape import LOGITS_BYTES

_CPU_CHUNK, _CPU_SLICE_BYTES = 256, 4 * 2**20
"""Positions whose logits a CPU computes at once; bytes of those whose softmax it does at once, in its caches."""


class SplitHead:
    """Runs a causal LM up to its head, and the head by itself.

    Logit scaling and soft-capping that a model applies after its head are applied here as well; that the two
    halves give the model's own logits is checked on the first position of every call, without gradients of the first
    call alone: a position costs a CPU the reading of the whole head.

    Args:
        model: any transformers causal LM, plain or with adapters, as they are set.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self.head = model.get_output_embeddings()
        config = model.config.get_text_config()
        self._cap = getattr(config, "final_logit_softcapping", None)
        self._scale = _logit_scale(config)
        self._checked = False

    def hidden_states(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None,
        cache: Any | None = None,
        through: Any = None,
    ) -> torch.Tensor:
        """The head's input at every position.

        Args:
            input_ids: int64 ``[B, T]``.
            attention_mask: int64 ``[B, T]``, 0 at padding; None where padding is at the ends alone, which a causal
                model does not see: attention is quicker without a mask.
            cache: of transformers, what the tokens come after; it takes these up as well.
            through: what is called in the model's place: a wrapper of it, which has to see the forward pass.

        Returns:
            ``[B, T, H]`` in the model's dtype.

        Raises:
            TosslmError: the model does something to its logits that is not known here.
        """
        caught: list[torch.Tensor] = []
        count = 0 if self._checked and not torch.is_grad_enabled() else 1

        def keep_first_position(_: Any, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
            caught.append(inputs[0])
            # With three axes a CPU would copy the whole head for this one position.
            return (inputs[0][:count, 0], *inputs[1:])

        hook = self.head.register_forward_pre_hook(keep_first_position)
        try:
            output = (through or self.model)(
                input_ids=input_ids,
                attention_mask=attention_mask,
                use_cache=cache is not None,
                **({} if cache is None else {"past_key_values": cache}),
            )
        finally:
            hook.remove()
        hidden = caught[0]
        if not count:
            return hidden
        with torch.no_grad():
            own, ours = output.logits.float(), self.logits(hidden[:1, 0])
            if not torch.allclose(own, ours, rtol=1e-2, atol=1e-2, equal_nan=True):
                raise TosslmError(
                    f"{type(self.model).__name__}: the model changes its logits after the head in a way tosslm does "
                    "not know; please report the model's name"
                )
        self._checked = True
        return hidden

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """The model's logits, float32 ``[N, V]``, of hidden states ``[N, H]``."""
        return self._adjusted(self.head(hidden)).float()

    def _adjusted(self, logits: torch.Tensor) -> torch.Tensor:
        """What the model makes of its head's output, in float32 where it makes anything of it."""
        if self._scale != 1.0:
            logits = logits.float() * self._scale
        if self._cap:
            logits = self._cap * torch.tanh(logits.float() / self._cap)
        return logits

    def chunks(self, n: int, arrays: int = 1, most: int | None = None) -> Iterator[slice]:
        """Slices of ``n`` positions, each of which needs at most ``LOGITS_BYTES`` for ``arrays`` of logits.

        Args:
            n: positions.
            arrays: of logits that are held at once.
            most: positions of a slice, at most.
        """
        size = max(1, LOGITS_BYTES // (4 * arrays * self.head.weight.shape[0]))
        size = min(size, most or size)
        return (slice(start, start + size) for start in range(0, n, size))

    def losses(self, hidden: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """``-log p(target)`` in nats, float32 ``[N]``, of hidden states ``[N, H]`` and targets int64 ``[N]``.

        Differentiable; with several chunks each is computed anew in the backward pass.
        """
        if not torch.is_grad_enabled():
            return self._read_losses(hidden, targets)
        parts = list(self.chunks(len(targets)))
        if len(parts) > 1:
            return torch.cat(
                [checkpoint(self._chunk_losses, hidden[part], targets[part], use_reentrant=False) for part in parts]
            )
        return torch.cat(
            [self._chunk_losses(hidden[part], targets[part]) for part in parts]
            or [hidden.new_zeros(0, dtype=torch.float32)]
        )

    def summed_loss(self, hidden: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """The sum of ``losses``, differentiable; with several chunks each is computed anew in the backward pass."""
        parts = list(self.chunks(len(targets)))
        if len(parts) == 1:
            return self._chunk_losses(hidden, targets).sum()
        # A sum over no positions still belongs to the graph, so that a batch without kept tokens trains nothing.
        total = hidden.float().sum() * 0.0
        for part in parts:
            losses = checkpoint(self._chunk_losses, hidden[part], targets[part], use_reentrant=False)
            total = total + losses.sum()
        return total

    def summed_divergence(
        self,
        hidden: torch.Tensor,
        base_hidden: torch.Tensor,
        as_base: Callable[[], AbstractContextManager[None]],
        weights: torch.Tensor | None = None,
        base: SplitHead | None = None,
    ) -> torch.Tensor:
        """The sum of ``KL(base || model)`` over positions, in nats, differentiable in the model.

        Like ``summed_loss``, it never holds the logits of more than one chunk.

        Args:
            hidden: ``[N, H]``, the model's hidden states.
            base_hidden: ``[N, H]``, the base's at the same positions.
            as_base: a context in which the head is the base's.
            weights: float32 ``[N]``, of positions in the sum; None is 1 for all.
            base: whose head turns ``base_hidden`` into logits; None is this one, as the base.
        """
        base_head = base or self
        weights = hidden.new_ones(len(hidden), dtype=torch.float32) if weights is None else weights

        def of_chunk(hidden: torch.Tensor, base_hidden: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
            with torch.no_grad(), as_base():
                base_logits = base_head.logits(base_hidden)
            return (divergences(base_logits, self.logits(hidden)) * weights).sum()

        parts = list(self.chunks(len(hidden)))
        if not parts:
            return hidden.float().sum() * 0.0
        if len(parts) == 1:
            return of_chunk(hidden, base_hidden, weights)
        arrays = (hidden, base_hidden, weights)
        sums = [checkpoint(of_chunk, *(array[part] for array in arrays), use_reentrant=False) for part in parts]
        return torch.stack(sums).sum()

    def _read_losses(self, hidden: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """``losses`` without gradients: without a copy of the logits in float32, and on a CPU in its caches."""
        if hidden.device.type == "cpu":
            chunk, rows = _CPU_CHUNK, max(1, _CPU_SLICE_BYTES // (4 * self.head.weight.shape[0]))
        else:
            chunk = rows = max(1, len(targets))
        losses = [hidden.new_zeros(0, dtype=torch.float32)]
        for part in self.chunks(len(targets), most=chunk):
            raw = self.head(hidden[part])
            for logits, wanted in zip(raw.split(rows), targets[part].split(rows), strict=True):
                log_p = self._adjusted(logits).log_softmax(-1, dtype=torch.float32)
                losses.append(-log_p.gather(1, wanted[:, None])[:, 0])
        return torch.cat(losses)

    def _chunk_losses(self, hidden: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(self.logits(hidden), targets, reduction="none")


@contextmanager
def contiguous_head(model: Any) -> Iterator[None]:
    """A model whose head reads contiguous arrays.

    ``generate`` takes the last position of every prompt as a view, and for a batch of such a CPU copies the head's
    weights once a row.
    """

    def copied(_: Any, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        return (inputs[0].contiguous(), *inputs[1:])

    hook = model.get_output_embeddings().register_forward_pre_hook(copied)
    try:
        yield
    finally:
        hook.remove()


def divergences(base_logits: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    """``KL(base || model)`` at each position, in nats.

    Args:
        base_logits: float32 ``[N, V]``.
        logits: float32 ``[N, V]``.

    Returns:
        float32 ``[N]``.
    """
    return kl_divergence(base_logits.log_softmax(-1), logits.log_softmax(-1))


def kl_divergence(log_p: torch.Tensor, log_q: torch.Tensor) -> torch.Tensor:
    """``KL(p || q)`` in nats, ``[N]``, of two log-softmaxes ``[N, V]``; differentiable in both."""
    return torch.nn.functional.kl_div(log_q, log_p, reduction="none", log_target=True).sum(-1)


def _logit_scale(config: Any) -> float:
    for name in ("logit_scale", "output_multiplier", "lm_head_multiplier"):
        if getattr(config, name, None) is not None:
            return float(getattr(config, name))
    scaling = getattr(config, "logits_scaling", None)
    if scaling is None:
        return 1.0
    return float(scaling) if config.model_type == "hyperclovax" else 1.0 / float(scaling)
