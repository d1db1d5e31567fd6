"""The one training path: SFT of a LoRA on tokenised rows, through TRL."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from datasets import Dataset
from peft import PeftModel
from torch.nn.parallel import DistributedDataParallel
from transformers import PrinterCallback
from trl import SFTConfig

from tosslm.config import TrainingConfig
from tosslm.errors import InputError, TosslmError
from tosslm.model.adapters import fresh_adapter, save_adapter
from tosslm.model.attention import block_attention
from tosslm.model.base import Base
from tosslm.model.head import SplitHead
from tosslm.model.layers import is_sharded
from tosslm.model.memory import lowering
from tosslm.model.sharded import frozen
from tosslm.progress import Reporter
from tosslm.tracking import Trackers, tracked
from tosslm.training.callbacks import Around, Follow, last_checkpoint, write_notes
from tosslm.training.collate import TrainingCollator
from tosslm.training.held import BaseStates, base_states, fits
from tosslm.training.hooks import After, TrainingHook
from tosslm.training.labels import count_tokens
from tosslm.training.shares import forward_passes
from tosslm.training.trainer import SelectiveTrainer, TokenLoss

Notes = Mapping[str, str]
_CURVE_POINTS = 1000


@dataclass(frozen=True, slots=True)
class TrainingFacts:
    """What the manifest records of a training.

    Attributes:
        steps: optimizer steps.
        rows: rows trained on.
        tokens: tokens read, over all epochs.
        trained_tokens: labels trained on in one epoch.
        anchored_tokens: tokens held to the base in one epoch.
        tokens_per_second: of the part that this process did; None when nothing was left to do.
        first_loss: mean loss of the first logged step, in nats a token.
        last_loss: mean loss of the last logged step, in nats a token.
        losses: the training curve, ``[step, loss]``.
        processes: that trained together.
    """

    steps: int
    rows: int
    tokens: int
    trained_tokens: int
    anchored_tokens: int
    tokens_per_second: float | None
    first_loss: float
    last_loss: float
    losses: list[list[float]]
    processes: int


@dataclass(frozen=True, slots=True)
class Recipe:
    """How an adapter is trained.

    Attributes:
        settings: learning rate, batch sizes and the like.
        seed: of the adapter's start, the order of rows, and dropout.
        normalize: divide an optimizer batch's summed loss by its ``kept`` tokens or by ``all`` its response tokens;
            or take the mean over each ``row``'s kept tokens, then over the rows that keep any.
        anchor_weight: weight of the KL to the base over an optimizer batch's anchored tokens.
        anchor_normalize: what that is divided by: ``all`` kept and anchored tokens of the batch, or the ``anchored``.
        weighed: whether rows say what each token counts.
        hold: whether what a token's weight lacks to 1 goes to ``KL(base || model)`` there.
        token_loss: what takes the place of a kept token's cross-entropy.
        hook: what a method does around each step.
        after: what a method makes of the trained weights before they are saved.
    """

    settings: TrainingConfig
    seed: int
    normalize: Literal["kept", "all", "row"] = "kept"
    anchor_weight: float = 0.0
    anchor_normalize: Literal["all", "anchored"] = "anchored"
    weighed: bool = False
    hold: bool = False
    token_loss: TokenLoss | None = None
    hook: TrainingHook | None = None
    after: After | None = None


def train_adapter(
    base: Base,
    rows: Dataset,
    recipe: Recipe,
    *,
    name: str,
    work: Path,
    out: Path,
    notes: Notes,
    reporter: Reporter,
    trackers: Trackers | None = None,
    together: bool = False,
) -> dict[str, Any]:
    """Train a fresh LoRA on the base and save it.

    A killed training goes on from its last whole checkpoint under ``work``, and on a CPU ends with the same
    bytes as one that was not killed, by as many processes; with a hook it starts over.

    Several processes train what one would, up to rounding: each reads its share of every optimizer batch, whose loss
    is divided by the tokens of all shares. The first of them saves.

    Args:
        base: the frozen base.
        rows: columns ``input_ids``, ``labels``, ``response_tokens``, with anchors ``anchored``, with weights
            ``weight``, for a ``token_loss`` ``place``, for a hook ``number``; every row is used as it is.
        recipe: how it is trained.
        name: what progress calls this training.
        work: a private folder for checkpoints.
        out: the folder of the adapter.
        notes: files of text that go into ``out``.
        reporter: where progress goes.
        trackers: what is told the figures; files of theirs cannot lie under ``work``, which is emptied.
        together: whether all processes of the launcher are in this call, with the same rows and recipe.

    Returns:
        ``TrainingFacts`` as a mapping.

    Raises:
        InputError: there is no row, no token to train on; or there are several processes, and they are not together
            or have a hook.
        TosslmError: the loss or a weight is no number, or a method gives back other weights than it was given.
    """
    processes = PartialState().num_processes
    if processes > 1 and (not together or recipe.hook):
        why = "its hook works" if recipe.hook else "it trains"
        raise InputError(f"{name}: {why} in one process; start it without a launcher of several")
    tokens, trained, anchored = count_tokens(rows)
    if not trained:
        raise InputError(f"{name}: no token to train on among {len(rows)} rows; add rows, or lower holdout")
    settings, trackers, checkpoints = recipe.settings, trackers or Trackers(), work / "checkpoints"
    steps = settings.epochs * math.ceil(len(rows) / settings.batch_size)
    if recipe.hook:
        shutil.rmtree(checkpoints, ignore_errors=True)
    with (
        fresh_adapter(base, settings.lora, recipe.seed) as model,
        block_attention(model),
        reporter.task(name, steps) as task,
        tracked(trackers, name) as log,
    ):
        if is_sharded(model):
            # Only the adapter's gradients are to be averaged; its weights lie whole in each process.
            DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(model, frozen(model))
        write_notes(checkpoints, notes)
        callbacks: list[Follow | Around] = [Follow(task, log, notes)]
        if recipe.hook:
            callbacks.append(Around(recipe.hook))
        trainer = SelectiveTrainer(
            model,
            args=_arguments(recipe, steps, checkpoints, base),
            data_collator=TrainingCollator(pad_token_id=base.tokenizer.pad_token_id),
            train_dataset=rows,
            processing_class=base.tokenizer,
            callbacks=callbacks,
            normalize=recipe.normalize,
            batch_size=settings.batch_size,
            anchor_weight=recipe.anchor_weight,
            anchor_normalize=recipe.anchor_normalize,
            base_states=_base_states(model, rows, anchored, recipe),
            token_loss=recipe.token_loss,
            hold=recipe.hold,
            hook=recipe.hook,
        )
        for callback in callbacks:
            callback.trainer = trainer
        trainer.remove_callback(PrinterCallback)
        start = time.monotonic()
        micro = settings.rows_at_once
        with lowering(
            f"{name}: a forward and backward pass of {micro} rows",
            "lower micro_batch_size, set gradient_checkpointing: true, or lower data.max_length",
        ):
            trainer.train(resume_from_checkpoint=_agreed_checkpoint(checkpoints))
        seconds = time.monotonic() - start
        if recipe.after:
            _replace_weights(model, recipe.after, name)
        if trainer.is_world_process_zero():
            save_adapter(model, out, base.config, notes)
    curve = [[entry["step"], round(entry["loss"], 5)] for entry in trainer.state.log_history if "loss" in entry]
    speed = round(trainer.tokens_seen / seconds, 1) if trainer.tokens_seen else None
    losses = (curve[0][1], curve[-1][1], curve, processes)
    return asdict(TrainingFacts(steps, len(rows), tokens * settings.epochs, trained, anchored, speed, *losses))


def _base_states(model: PeftModel, rows: Dataset, anchored: int, recipe: Recipe) -> BaseStates | None:
    """What the base says at anchored tokens, where several epochs of one process ask for it and memory is spared."""
    split = SplitHead(model)
    several = recipe.settings.epochs > 1 and PartialState().num_processes == 1
    return base_states(split, rows) if anchored and several and fits(split, anchored) else None


def _agreed_checkpoint(folder: Path) -> str | None:
    """The newest whole checkpoint, as the first process finds it."""
    found = [last_checkpoint(folder) if PartialState().is_main_process else None]
    broadcast_object_list(found)
    return found[0]


def _replace_weights(model: PeftModel, after: After, name: str) -> None:
    """Put what a method makes of the trained weights in their place."""
    trained = {key: value for key, value in model.named_parameters() if value.requires_grad}
    made = after({key: value.detach().clone() for key, value in trained.items()})
    if made.keys() != trained.keys() or any(made[key].shape != value.shape for key, value in trained.items()):
        raise TosslmError(f"{name}: the method's `after` gave back other weights than it was given")
    with torch.no_grad():
        for key, value in trained.items():
            value.copy_(made[key])


def _arguments(recipe: Recipe, steps: int, folder: Path, base: Base) -> SFTConfig:
    settings = recipe.settings
    micro = settings.rows_at_once
    processes = PartialState().num_processes
    arguments = SFTConfig(
        output_dir=str(folder),
        seed=recipe.seed,
        learning_rate=settings.learning_rate,
        lr_scheduler_type=scheduler_name(settings),
        warmup_steps=settings.warmup_steps,
        weight_decay=settings.weight_decay,
        adam_beta1=settings.betas[0],
        adam_beta2=settings.betas[1],
        max_grad_norm=settings.max_grad_norm,
        num_train_epochs=settings.epochs,
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=forward_passes(settings.batch_size, micro, processes),
        average_tokens_across_devices=False,  # the loss does it
        ddp_find_unused_parameters=False,
        gradient_checkpointing=settings.gradient_checkpointing,
        # The data stage has decided what is cut and what is left out; the trainer takes rows as they are.
        max_length=None,
        dataset_kwargs={"skip_prepare_dataset": True},
        remove_unused_columns=False,
        packing=False,
        router_aux_loss_coef=None,
        bf16=False,
        use_cpu=base.model.device.type == "cpu",
        dataloader_pin_memory=base.model.device.type == "cuda",
        save_strategy="no" if recipe.hook else "steps",
        save_steps=settings.checkpoint_steps,
        save_total_limit=2,
        logging_strategy="steps",
        logging_steps=max(1, steps // _CURVE_POINTS),
        logging_nan_inf_filter=False,
        report_to="none",  # see tosslm.tracking
        disable_tqdm=True,
    )
    # The base lies on one device; with several in sight the trainer would spread copies of it over all of them.
    arguments._n_gpu = min(arguments.n_gpu, 1)
    return arguments


def scheduler_name(settings: TrainingConfig) -> str:
    """What transformers calls the schedule of the learning rate."""
    # "constant" takes no notice of warm-up steps.
    warm = settings.lr_scheduler == "constant" and settings.warmup_steps > 0
    return "constant_with_warmup" if warm else settings.lr_scheduler
