"""What the anchored loss refuses: rows, arguments and models with which it would not be what it says."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from datasets import Dataset
from peft import PeftModel

from tosslm.errors import InputError
from tosslm.misplaced import IGNORED, label_defects
from tosslm.model.adapters import without_adapter

NEEDED = ("input_ids", "labels", "anchored")
_REMEDY = (
    "the anchor needs what the model was before: train an adapter (model = peft.get_peft_model(model, config)), so "
    "that the base is the model with the adapter switched off, or pass the base as base_model"
)

_OF_LABELS = {
    "early": "that stand one place before their tokens (labels[i] is input_ids[i + 1]); the loss shifts by itself",
    "late": "that stand one place after their tokens (labels[i] is input_ids[i - 1])",
    "unknown": "below 0 that are not -100",
}


def check_rows(name: str, rows: Any, *, some_anchored: bool = False) -> None:
    """Refuse rows that cannot be anchored; of those that come as a stream, columns are all that is looked at.

    Raises:
        InputError: a column is missing, ``anchored`` has not one value a token, or none is true where some should;
            or a row's labels are shifted already, or below 0 and not -100.
    """
    columns = getattr(rows, "column_names", None)
    if columns is None:
        return
    if missing := [column for column in NEEDED if column not in columns]:
        raise InputError(
            f"{name}: no column {' and no '.join(missing)}; rows need {', '.join(NEEDED)}, which "
            "tosslm.masked_dataset(run, anchored=True) has"
        )
    if not isinstance(rows, Dataset):
        return
    found, start = False, 0
    for batch in rows.select_columns(list(NEEDED)).with_format("arrow").iter(batch_size=1000):
        lengths = [pc.list_value_length(batch[column].combine_chunks()) for column in NEEDED]
        uneven = pc.or_(pc.not_equal(lengths[0], lengths[1]), pc.not_equal(lengths[0], lengths[2]))
        if (at := pc.index(pc.fill_null(uneven, True), True).as_py()) >= 0:
            counts = ", ".join(f"{own[at]} {column}" for own, column in zip(lengths, NEEDED, strict=True))
            raise InputError(f"{name}: row {start + at} has {counts}; each needs one a token")
        places = batch["anchored"].combine_chunks().flatten()
        if not pa.types.is_boolean(places.type):
            raise InputError(f"{name}: anchored holds {places.type}; make it lists of bool, one a token")
        _check_labels(name, batch["input_ids"].combine_chunks(), batch["labels"].combine_chunks(), start)
        found, start = found or bool(pc.any(places).as_py()), start + len(batch)
    if some_anchored and not found:
        raise InputError(f"{name}: no token is anchored; set anchor_weight=0 if that is meant")


def _check_labels(name: str, ids: Any, labels: Any, start: int) -> None:
    """Refuse labels that a trainer which shifts by itself would shift twice; ``[T]`` of each row, as Arrow lists."""
    flat_ids, flat_labels = (column.flatten().to_numpy(zero_copy_only=False) for column in (ids, labels))
    # Most sets have no label but their tokens, and then no row is looked at by itself.
    odd = np.flatnonzero((flat_labels != flat_ids) & (flat_labels != IGNORED))
    ends = np.cumsum(pc.list_value_length(ids).to_numpy(zero_copy_only=False))
    for row in np.unique(np.searchsorted(ends, odd, side="right")).tolist():
        own = slice(0 if row == 0 else int(ends[row - 1]), int(ends[row]))
        defects = label_defects(flat_ids[own], flat_labels[own])
        for defect, told in _OF_LABELS.items():
            if defects[defect]:
                raise InputError(
                    f"{name}: row {start + row} has labels {told}; write labels[i] = input_ids[i], or -100"
                )


def refuse_arguments(args: Any, others: Mapping[str, Any]) -> None:
    """Refuse what would cut rows, lose their anchors, or ask for another loss."""
    refused = {
        "packing": "packing leaves `anchored` out and does not go with it; set packing=False",
        "eval_packing": "packing leaves `anchored` out and does not go with it; set eval_packing=False",
        "padding_free": "rows that are joined have no place for anchors; set padding_free=False",
        "max_length": "rows would be cut, and those without a label dropped, anchored ones among them (TRL's default "
        "is 1024); set max_length=None, and leave out or shorten rows that are too long before",
        "completion_only_loss": "labels alone say what trains, and no completion_mask is read; put -100 into the "
        "labels, and leave it out",
        "torch_compile": "the loss reads the model and its head apart, past what is compiled; set it to False",
        "label_smoothing_factor": "the loss is the pipeline's, without smoothing; set it to 0",
    }
    for key, why in refused.items():
        value = getattr(args, key, None)
        if value:
            raise InputError(f"{key}={value}: {why}")
    if (loss := getattr(args, "loss_type", None)) not in (None, "nll"):
        raise InputError(f"loss_type={loss!r}: the loss is the pipeline's; leave it at 'nll'")
    for key in ("compute_loss_func", "compute_metrics", "preprocess_logits_for_metrics", "formatting_func"):
        if others.get(key) is not None:
            raise InputError(f"{key}: the anchored loss takes rows as they are and gives no logits; leave it out")


def refuse_setup(trainer: Any) -> None:
    """Refuse what only a trainer that is there can tell."""
    if trainer.accelerator.num_processes > 1 or trainer.args.n_gpu > 1:
        raise InputError(
            "the anchored loss trains in one process, on one device: start it without a launcher of several, and "
            "with one GPU in sight (CUDA_VISIBLE_DEVICES=0)"
        )
    settings = getattr(getattr(trainer, "model", None), "config", None)
    routes = getattr(settings, "output_router_logits", False) and getattr(settings, "router_aux_loss_coef", 0)
    if routes or getattr(trainer, "aux_loss_enabled", False):
        raise InputError("the anchored loss has no part for a router's balance; set router_aux_loss_coef=0.0")


def check_adapted(model: Any) -> None:
    """Refuse a model that has no base within it, and warn of one whose base may not be what is meant."""
    if not isinstance(model, PeftModel):
        raise InputError(f"{type(model).__name__} has no adapter: {_REMEDY}")
    if model.active_peft_config.is_prompt_learning:
        raise InputError("prompts that are learnt shift all positions; take a LoRA or the like")
    if len(names := list(model.peft_config)) > 1:
        raise InputError(
            f"the model has {len(names)} adapters ({', '.join(names)}), and all of them would be off in the base; "
            "merge those that belong to it (merge_and_unload) before the new one is added, or pass base_model"
        )
    # Every tensor of an adapter bears its name; biases that a LoRA trains along (bias="all") do not.
    trained = [name for name, value in model.named_parameters() if value.requires_grad]
    if own := [name for name in trained if f".{names[0]}" not in name]:
        raise InputError(
            f"{own[0]} is trained and no part of the adapter, so that the base would change along with the model; "
            "freeze it (bias='none' in a LoraConfig), or pass base_model"
        )
    adapted = _log_probabilities(model)
    with without_adapter(model):
        base = _log_probabilities(model)
    if not torch.allclose(adapted, base, atol=1e-2, rtol=0):
        warnings.warn(
            "with its adapter on, the model says something else than the base it is anchored to: the adapter is not "
            "new, or its initialisation has changed the weights below (PiSSA, OLoRA). If the base that is meant has "
            "this adapter, such as one of safety-tuning, merge it first and train a new one, or pass base_model",
            stacklevel=4,
        )


def _log_probabilities(model: Any) -> torch.Tensor:
    """What a model says after a few tokens, without dropout, ``[1, 8, V]``."""
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            ids = torch.arange(8, device=next(model.parameters()).device)[None]
            return model(input_ids=ids, use_cache=False).logits.float().log_softmax(-1)
    finally:
        model.train(was_training)
