"""The trainer: which tokens the loss is over, and what it is divided by."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any, Literal

import torch
from accelerate.data_loader import SeedableRandomSampler
from torch.nn.parallel import DistributedDataParallel
from trl import SFTTrainer

from tosslm.model.adapters import without_adapter
from tosslm.model.head import SplitHead
from tosslm.model.layers import is_sharded
from tosslm.team import Place
from tosslm.training.held import BaseStates
from tosslm.training.hooks import TrainingHook
from tosslm.training.labels import IGNORED, read_lengths
from tosslm.training.shares import EpochLoader, FilledRows, Shares

TokenLoss = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
"""Losses of tokens under the model and under the base, and their positions in the answer, all ``[N]``, to ``[N]``."""


class SelectiveTrainer(SFTTrainer):
    """TRL's SFT trainer with the head only at kept tokens, and the loss over exactly the tokens that are meant.

    Args:
        model: with the adapter that is trained.
        args: as for ``SFTTrainer``.
        normalize: what the summed loss of an optimizer batch is divided by, see ``Recipe``.
        batch_size: rows of an optimizer batch, over all processes; None is what the arguments say of one process.
        anchor_weight: weight of ``KL(base || model)`` over an optimizer batch's anchored tokens.
        anchor_normalize: what its sum is divided by, see ``Recipe``.
        base_states: what the base says at them, read before; None reads it in every step.
        token_loss: what takes the place of a kept token's cross-entropy; None is the cross-entropy itself.
        hold: whether what a token's weight lacks to 1 goes to ``KL(base || model)`` there.
        hook: what a method does around each step; it may weigh rows.
        kwargs: as for ``SFTTrainer``.
    """

    def __init__(
        self,
        model: Any,
        *args: Any,
        normalize: Literal["kept", "all", "row"],
        batch_size: int | None = None,
        anchor_weight: float = 0.0,
        anchor_normalize: Literal["all", "anchored"] = "anchored",
        base_states: BaseStates | None = None,
        token_loss: TokenLoss | None = None,
        hold: bool = False,
        hook: TrainingHook | None = None,
        **kwargs: Any,
    ) -> None:
        whole = [(weight, weight.data) for weight in model.parameters() if weight.requires_grad]
        super().__init__(model, *args, **kwargs)
        # TRL rounds the adapter of a quantised model to bfloat16: most steps of 1e-5 are lost to such a weight.
        for weight, data in whole:
            weight.data = data
        self._hold = hold
        self._batch_size = batch_size or self.args.per_device_train_batch_size * self.args.gradient_accumulation_steps
        weighs_rows = hook is not None and type(hook).row_weights is not TrainingHook.row_weights
        self._row_weights = hook.row_weights if hook is not None and weighs_rows else None
        self._token_loss, self._base_states = token_loss, base_states
        self._normalize, self._anchor_weight, self._anchored_in_step = normalize, anchor_weight, 0
        self._anchor_normalize, self._anchor_divisor = anchor_normalize, 0
        self._split, self._sharded = SplitHead(self.model), is_sharded(self.model)
        if self._sharded:  # accelerate refuses to average gradients beside sharded weights, on all devices but CPUs
            self.accelerator.prepare_model = self._averaged
        self.tokens_seen = 0

    # The loss below is divided by the tokens of the whole optimizer batch, whatever the model's class says of itself.
    loss_is_scaled_for_ga = True

    def _averaged(self, model: Any, **_: Any) -> DistributedDataParallel:
        """The model with the gradients of its adapter averaged; its sharded weights are left out of that."""
        self.accelerator._models.append(model)
        return DistributedDataParallel(model)

    def _send_telemetry(self) -> None:
        """Nothing is sent anywhere."""

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """No model card: the adapter's notes are written with the adapter."""

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> tuple[list[Any], Any]:
        """The micro-batches of one optimizer step, and what their summed loss is divided by."""
        batches, _ = super().get_batch_samples(*args, **kwargs)
        own = [sum(column) for column in zip(*map(self._counts, batches), strict=True)]
        # Of all processes: each has its share of the optimizer batch.
        counts = self.accelerator.reduce(torch.tensor(own, device=self.args.device), "sum")
        divisor, self._anchored_in_step, self._anchor_divisor, tokens = counts.tolist()
        self.tokens_seen += tokens
        return batches, torch.tensor(divisor)

    def _counts(self, batch: Mapping[str, torch.Tensor]) -> tuple[int, int, int, int]:
        """Of a micro-batch: what its loss is divided by, its anchored tokens, what divides theirs, tokens read."""
        kept = batch["labels"][:, 1:] != IGNORED
        divisor = {"all": batch["response_tokens"], "row": kept.any(1), "kept": kept}[self._normalize]
        anchored = batch["anchored"][:, 1:].bool() if "anchored" in batch else torch.zeros_like(kept)
        over = anchored | kept if self._anchor_normalize == "all" else anchored
        return int(divisor.sum()), int(anchored.sum()), int(over.sum()), int(batch["attention_mask"].sum())

    def get_train_dataloader(self) -> Any:
        """Rows in one process's order, of each optimizer batch this process's share, rows of like length together."""
        order = SeedableRandomSampler(self.train_dataset, data_seed=self.args.seed)
        own = Place(self.args.process_index, self.args.world_size)
        micro = self.args.per_device_train_batch_size
        shares = Shares(order, self._batch_size, micro, own, read_lengths(self.train_dataset))
        return EpochLoader(
            FilledRows(self.train_dataset),
            batch_sampler=shares,
            collate_fn=self.data_collator,
            pin_memory=self.args.dataloader_pin_memory,
        )

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> torch.Tensor:
        """Sum of the kept tokens' losses in this micro-batch over ``num_items_in_batch``, and the anchors' pull.

        TRL's own loss runs the head over every position on a CPU, which takes twice the time.
        """
        labels = inputs["labels"][:, 1:]
        kept = labels != IGNORED
        hidden = self._hidden_states(inputs, through=model)
        count = torch.as_tensor(num_items_in_batch, device=hidden.device).clamp(min=1)
        alike = self._token_loss is None and self._normalize != "row" and "weight" not in inputs
        if alike and self._row_weights is None:
            loss = self._split.summed_loss(hidden[kept], labels[kept]) / count
        else:
            losses = self._token_losses(hidden[kept], labels[kept], kept, inputs)
            loss = (losses * self._weights(kept, losses, inputs)).sum() / count
        if self._hold:
            loss = loss + self._held(hidden, kept, inputs) / count
        if self._anchored_in_step:
            divergence = self._divergence(hidden, inputs)
            loss = loss + self._anchor_weight / self._anchor_divisor * divergence
        # Gradients are averaged over processes, where the sum of their shares is meant.
        return loss * self.args.world_size if self.args.world_size > 1 else loss

    def _weights(self, kept: torch.Tensor, losses: torch.Tensor, inputs: dict[str, Any]) -> torch.Tensor:
        """What each kept token counts, float32 ``[N]``: one, or its share of its row, times the method's weights."""
        weights = self._shares(kept)
        if "weight" in inputs:
            weights = weights * inputs["weight"][:, 1:][kept]
        if self._row_weights is not None:
            counts = kept.sum(1)
            row_of = torch.arange(len(kept), device=kept.device).repeat_interleave(counts)
            means = losses.new_zeros(len(kept)).index_add(0, row_of, losses.detach()) / counts.clamp(min=1)
            of_rows = self._row_weights(self, inputs["number"], means)
            if of_rows is not None:
                weights = weights * of_rows.to(weights)[row_of]
        return weights

    def _shares(self, kept: torch.Tensor) -> torch.Tensor:
        """What each kept token counts before any weight, float32 ``[N]``: one, or its share of its row."""
        shares = 1 / kept.sum(1, keepdim=True) if self._normalize == "row" else kept.float()
        return shares.expand_as(kept)[kept].float()

    def _held(self, hidden: torch.Tensor, kept: torch.Tensor, inputs: dict[str, Any]) -> torch.Tensor:
        """Sum over kept tokens of ``(1 - weight) * KL(base || model)``, float32; of rows' means where losses are."""
        with torch.no_grad(), self._as_base():
            base = self._hidden_states(inputs)[kept]
        lacking = (1 - inputs["weight"][:, 1:][kept]).clamp(min=0) * self._shares(kept)
        return self._split.summed_divergence(hidden[kept], base, self._as_base, lacking)

    def _token_losses(
        self, hidden: torch.Tensor, targets: torch.Tensor, kept: torch.Tensor, inputs: dict[str, Any]
    ) -> torch.Tensor:
        """Losses of this micro-batch's kept tokens, float32 ``[N]``, or what ``token_loss`` makes of them."""
        # A sum over no positions still belongs to the graph.
        own = self._split.losses(hidden, targets) + hidden.float().sum() * 0.0
        if self._token_loss is None:
            return own
        with torch.no_grad(), self._as_base():
            base = self._hidden_states(inputs)[kept]
            base_losses = self._split.losses(base, targets)
        return self._token_loss(own, base_losses, inputs["place"][:, 1:][kept])

    def _hidden_states(self, inputs: dict[str, Any], through: Any = None) -> torch.Tensor:
        """The head's input where tokens 1 to ``T - 1`` are predicted, ``[B, T - 1, H]``.

        Padding is at the ends, where a causal model does not look. The last token is not read, since nothing is
        predicted from it, unless it is the only one.
        """
        last = inputs["input_ids"].shape[1] - 1
        return self._split.hidden_states(inputs["input_ids"][:, : max(last, 1)], None, through=through)[:, :last]

    def _divergence(self, hidden: torch.Tensor, inputs: dict[str, Any]) -> torch.Tensor:
        """Sum of ``KL(base || model)`` over the micro-batch's anchored tokens, float32."""
        if self._base_states is None:
            unpadded = inputs | {"attention_mask": None}
            return anchored_divergence(self._split, hidden, unpadded, self._as_base, always=self._sharded)
        base = self._base_states.of(inputs["number"].tolist(), hidden.device)
        return self._split.summed_divergence(hidden[inputs["anchored"][:, 1:]], base, self._as_base)

    def _as_base(self) -> AbstractContextManager[None]:
        """The model as it was before training."""
        return without_adapter(self._split.model)


def anchored_divergence(
    split: SplitHead,
    hidden: torch.Tensor,
    inputs: Mapping[str, Any],
    as_base: Callable[[], AbstractContextManager[None]],
    base: SplitHead | None = None,
    always: bool = False,
) -> torch.Tensor:
    """Sum of ``KL(base || model)`` in nats over a micro-batch's anchored tokens, differentiable in the model.

    The base reads only rows that have any, and no row beyond the last of them: nothing after a position changes
    what is predicted there.

    Args:
        split: the model in training.
        hidden: ``[B, T - 1, H]``, its hidden states where tokens 1 to ``T - 1`` are predicted.
        inputs: ``input_ids`` and ``attention_mask``, int64 ``[B, T]``, and ``anchored``, bool ``[B, T]``; the mask
            may be None where padding is at the ends alone.
        as_base: a context in which the base is the base.
        base: the base, where it is another model; None is ``split`` itself in that context.
        always: whether the base reads a token where none is anchored, for a model whose processes have to meet in
            each of its forward passes.
    """
    anchored = inputs["anchored"][:, 1:]
    rows = anchored.any(1)
    if not rows.any():
        if always:
            with torch.no_grad(), as_base():
                split.hidden_states(inputs["input_ids"][:1, :1], None)
        return hidden.new_zeros((), dtype=torch.float32)
    end = int(anchored.any(0).nonzero().max()) + 1
    mask = inputs["attention_mask"]
    with torch.no_grad(), as_base():
        read = (base or split).hidden_states(
            inputs["input_ids"][rows, :end], None if mask is None else mask[rows, :end]
        )
    return split.summed_divergence(hidden[anchored], read[anchored[rows, :end]], as_base, base=base)
