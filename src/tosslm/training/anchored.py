"""The pipeline's loss for trainers of one's own: kept tokens teach, anchored ones hold the model to the base."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch
from trl import SFTTrainer

from tosslm.errors import InputError
from tosslm.model.adapters import without_adapter
from tosslm.model.head import SplitHead
from tosslm.training.anchorable import (
    NEEDED,
    check_adapted,
    check_rows,
    refuse_arguments,
    refuse_setup,
)
from tosslm.training.collate import anchored_places
from tosslm.training.labels import IGNORED
from tosslm.training.trainer import anchored_divergence

_UNREAD = {"position_ids", "token_type_ids", "pixel_values", "inputs_embeds", "shift_labels"}


class AnchoredLoss:
    """A mixin for a transformers ``Trainer`` of causal LMs: the loss of ``finetune.dropped: anchor``.

    Mean cross-entropy over all tokens with a label in the optimizer batch, plus ``anchor_weight`` times the sum of
    ``KL(base || model)`` over its anchored tokens, divided by its tokens with a label or an anchor (or by the
    anchored ones alone, as ``anchor_normalize`` says), whatever the number of passes it is split into. It stands
    before the trainer: ``class Mine(AnchoredLoss, Trainer)``. Rows have ``input_ids``, ``labels`` (-100 where not
    trained) and ``anchored``, one bool a token; a token may have a label, an anchor, both or neither.

    Args:
        model: with a new PEFT adapter; or any, with ``base_model``.
        args: as the trainer takes them, without packing, ``padding_free`` and ``max_length``.
        data_collator: as for the trainer; it has to give an ``attention_mask``, and is handed rows without
            ``anchored``, which are put beside what it gives.
        train_dataset: rows as above.
        eval_dataset: rows as above, or several sets of them by name. Their loss is the mean over batches, each by
            itself.
        anchor_weight: of the KL, ``finetune.anchor_weight`` of a run.
        anchor_normalize: ``"all"`` or ``"anchored"``, ``finetune.anchor_normalize`` of a run.
        base_model: what the model is held to; None is the model itself, its adapter switched off. It is put on the
            model's device, frozen.
        kwargs: as for the trainer.

    Raises:
        InputError: there is no base to hold to; rows lack a column, or no token is anchored; or the arguments ask
            for what this loss is not: packing, cutting, another loss, logits, several processes.

    Examples:
        >>> from transformers import Trainer
        >>> class AnchoredPlainTrainer(AnchoredLoss, Trainer):
        ...     pass
    """

    # The loss is divided by the tokens of the whole optimizer batch, whatever the model's class says of itself.
    loss_is_scaled_for_ga = True
    _signature_columns: list[str]

    def __init__(
        self,
        model: Any = None,
        args: Any = None,
        data_collator: Any = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        *,
        anchor_weight: float = 3.0,
        anchor_normalize: Literal["all", "anchored"] = "all",
        base_model: Any = None,
        **kwargs: Any,
    ) -> None:
        if not 0 <= anchor_weight < float("inf"):
            raise InputError(f"anchor_weight: {anchor_weight} is no weight; give a number from 0")
        if anchor_normalize not in ("all", "anchored"):
            raise InputError(f"anchor_normalize: {anchor_normalize!r} is unknown; choose all or anchored")
        refuse_arguments(args, kwargs)
        check_rows("train_dataset", train_dataset, some_anchored=anchor_weight > 0)
        for name, rows in _by_name(eval_dataset).items():
            check_rows(name, rows)
        super().__init__(model, args, data_collator, train_dataset, eval_dataset, **kwargs)  # type: ignore[call-arg]
        trainer: Any = self
        # Some arguments have got their values only now.
        refuse_arguments(trainer.args, kwargs)
        refuse_setup(trainer)
        self._base, self._as_base = _base_of(trainer.model, base_model)
        self._split = SplitHead(trainer.model)
        self._anchor_weight, self._anchor_normalize, self._divisor_in_step = anchor_weight, anchor_normalize, 0
        self.data_collator = AnchoredCollator(trainer.data_collator)

    def _set_signature_columns_if_needed(self) -> None:
        """The trainer keeps ``anchored`` in the rows."""
        trainer: Any = super()
        trainer._set_signature_columns_if_needed()
        self._signature_columns = [*{*self._signature_columns, "anchored"}]

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> tuple[list[Any], Any]:
        """The micro-batches of one optimizer step, and how many tokens with a label they have together."""
        trainer: Any = super()
        batches, _ = trainer.get_batch_samples(*args, **kwargs)
        self._divisor_in_step = sum(self._divisor(batch) for batch in batches)
        return batches, sum((batch["labels"][:, 1:] != IGNORED).sum() for batch in batches)

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> torch.Tensor:
        """This micro-batch's share of the optimizer batch's loss; by itself where ``num_items_in_batch`` is None.

        Raises:
            InputError: outputs are asked for, or the batch lacks ``anchored`` or has what is not read here.
        """
        if return_outputs:
            raise InputError("the anchored loss makes no logits to return; leave out what needs them")
        places, kept = _places(inputs), inputs["labels"][:, 1:] != IGNORED
        if alone := num_items_in_batch is None:
            num_items_in_batch = kept.sum()
        divisor = self._divisor(inputs) if alone else self._divisor_in_step
        trainer: Any = self
        # The head runs outside the model's forward, which alone the trainer puts under autocast.
        with trainer.accelerator.autocast():
            hidden = self._split.hidden_states(inputs["input_ids"], inputs["attention_mask"])[:, :-1]
            count = torch.as_tensor(num_items_in_batch, device=hidden.device).clamp(min=1)
            loss = self._split.summed_loss(hidden[kept], inputs["labels"][:, 1:][kept]) / count
            if places.any() and self._anchor_weight:
                divergence = anchored_divergence(self._split, hidden, inputs, self._as_base, self._base)
                loss = loss + self._anchor_weight / divisor * divergence
        return loss

    def _divisor(self, batch: dict[str, Any]) -> int:
        """What the summed KL of a batch is divided by."""
        places = _places(batch)
        return int(
            (places | (batch["labels"][:, 1:] != IGNORED) if self._anchor_normalize == "all" else places).sum()
        )

    def prediction_step(
        self, model: Any, inputs: dict[str, Any], prediction_loss_only: bool, ignore_keys: Any = None
    ) -> tuple[torch.Tensor, None, None]:
        """The loss of a batch by itself; no logits."""
        trainer: Any = self
        with torch.no_grad():
            return self.compute_loss(model, trainer._prepare_inputs(inputs)).detach(), None, None


class AnchoredTrainer(AnchoredLoss, SFTTrainer):
    """TRL's ``SFTTrainer`` with the anchored loss of the pipeline, for rows that were made elsewhere.

    It needs no run folder and no config: a model with a new adapter, or a ``peft_config``, and rows with
    ``input_ids``, ``labels`` and ``anchored``, as ``tosslm.masked_dataset(run, anchored=True)`` has them. Rows are
    taken as they are, so ``SFTConfig`` needs ``max_length=None``. Arguments, errors and the loss are those of
    ``tosslm.AnchoredLoss``; nothing is sent anywhere by TRL.

    Examples:
        >>> import tosslm
        >>> from datasets import Dataset
        >>> from peft import LoraConfig
        >>> from transformers import AutoTokenizer
        >>> from trl import SFTConfig
        >>> name = "HuggingFaceTB/SmolLM2-135M-Instruct"
        >>> tokenizer = AutoTokenizer.from_pretrained(name)
        >>> row = {"input_ids": [1, 2, 3, 4], "labels": [-100, -100, 3, -100], "anchored": [False, True, False, True]}
        >>> trainer = tosslm.AnchoredTrainer(
        ...     name,
        ...     SFTConfig("anchored", max_length=None, max_steps=1, bf16=False),
        ...     train_dataset=Dataset.from_list([row] * 8),
        ...     processing_class=tokenizer,
        ...     peft_config=LoraConfig(target_modules="all-linear", task_type="CAUSAL_LM"),
        ... )
        >>> trainer.train().global_step
        1
    """

    def _send_telemetry(self) -> None:
        """Nothing is sent anywhere."""


@dataclass(frozen=True, slots=True)
class AnchoredCollator:
    """What another collator makes of rows without ``anchored``, and ``anchored``, bool ``[B, T]``, beside it.

    Attributes:
        collator: it gives ``input_ids`` and ``attention_mask``.
    """

    collator: Callable[[list[dict[str, Any]]], Mapping[str, Any]]

    def __call__(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        """Collate rows.

        Raises:
            InputError: a row has no ``anchored``, or not one a token; or the collator gives no ``attention_mask``, or
                other labels than the rows'.
        """
        if any("anchored" not in example for example in examples):
            raise InputError(f"anchored: a row has none; rows need {', '.join(NEEDED)}")
        bare = [{key: value for key, value in example.items() if key != "anchored"} for example in examples]
        batch = dict(self.collator(bare))
        if "attention_mask" not in batch:
            raise InputError(
                "data_collator: it gives no attention_mask, so anchors have no place in its batches; take one that "
                "pads, such as DataCollatorForSeq2Seq"
            )
        anchored = anchored_places(examples, batch["attention_mask"])
        if "labels" in batch and not _are_of_rows(batch["labels"], examples, batch["attention_mask"].bool()):
            raise InputError(
                f"data_collator: {type(self.collator).__name__} writes labels of its own, so that prompts and "
                "dropped tokens would be trained; take one that pads the rows' labels, such as DataCollatorForSeq2Seq"
            )
        return batch | {"anchored": anchored}


def _are_of_rows(labels: torch.Tensor, examples: list[dict[str, Any]], real: torch.Tensor) -> bool:
    """Whether a batch has its rows' labels, and none at padding; ``labels`` and ``real`` are ``[B, T]``."""
    wanted = torch.full_like(labels, IGNORED)
    wanted[real] = torch.cat([torch.as_tensor(example["labels"], dtype=labels.dtype) for example in examples])
    return torch.equal(labels, wanted)


def _by_name(rows: Any) -> dict[str, Any]:
    if isinstance(rows, Mapping):
        return {f"eval_dataset[{name!r}]": own for name, own in rows.items()}
    return {} if rows is None else {"eval_dataset": rows}


def _places(batch: Mapping[str, Any]) -> torch.Tensor:
    """Which predictions of a batch are anchored, bool ``[B, T - 1]``: the first token is none."""
    if "anchored" not in batch:
        raise InputError("anchored: the trainer has left it out of a batch; set remove_unused_columns=False")
    if unread := sorted(_UNREAD & set(batch)):
        raise InputError(f"{unread[0]}: the anchored loss reads input_ids and attention_mask alone; leave it out")
    return batch["anchored"][:, 1:]


def _base_of(model: Any, base_model: Any) -> tuple[SplitHead | None, Callable[[], AbstractContextManager[None]]]:
    """The base where it is a model of its own, and a context in which the base is the base."""
    if base_model is None:
        check_adapted(model)
        return None, lambda: without_adapter(model)
    if base_model is model:
        raise InputError("base_model: it is the model in training itself; load the base once more")
    own = {id(weight) for weight in model.parameters()}
    if any(id(weight) in own for weight in base_model.parameters()):
        raise InputError(
            "base_model: it shares weights with the model in training, whose adapter lies in it; leave it out, for "
            "that adapter is off where the base is read, or load the base once more"
        )
    device = next(model.parameters()).device
    if next(base_model.parameters()).device != device:
        base_model = base_model.to(device)
    base = SplitHead(base_model.eval().requires_grad_(False))
    sizes = [one.get_output_embeddings().weight.shape[0] for one in (model, base_model)]
    if sizes[0] != sizes[1]:
        raise InputError(
            f"base_model: its vocabulary has {sizes[1]} tokens, the model's {sizes[0]}; pass the model as it was "
            "before training, its embeddings resized alike"
        )
    return base, nullcontext
