"""The one training path: SFT of a LoRA on tokenised rows, through TRL."""

from __future__ import annotations

import json
import math
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import PartialState
from datasets import Dataset
from peft import PeftModel
from transformers import PrinterCallback, TrainerCallback
from trl import SFTConfig

from tosslm.config import TrainingConfig
from tosslm.errors import InputError, TosslmError
from tosslm.files import sha256, write_json
from tosslm.model.base import Base, fresh_adapter, save_adapter
from tosslm.progress import Reporter, Task
from tosslm.tracking import Trackers
from tosslm.training.hooks import After, TrainingHook
from tosslm.training.labels import count_tokens
from tosslm.training.trainer import SelectiveTrainer, TokenLoss, TrainingCollator

Notes = dict[Literal["README.md", "HAZARDOUS.md"], str]
_COMPLETE = "complete"
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


@dataclass(frozen=True, slots=True)
class Recipe:
    """How an adapter is trained.

    Attributes:
        settings: learning rate, batch sizes and the like.
        seed: of the adapter's start, the order of rows, and dropout.
        normalize: divide an optimizer batch's summed loss by its ``kept`` tokens or by ``all`` its response tokens;
            or take the mean over each ``row``'s kept tokens, then over the rows that keep any.
        anchor_weight: weight of the mean KL to the base over an optimizer batch's anchored tokens.
        token_loss: what takes the place of a kept token's cross-entropy.
        hook: what a method does around each step.
        after: what a method makes of the trained weights before they are saved.
    """

    settings: TrainingConfig
    seed: int
    normalize: Literal["kept", "all", "row"] = "kept"
    anchor_weight: float = 0.0
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
) -> dict[str, Any]:
    """Train a fresh LoRA on the base and save it.

    A killed training goes on from its last whole checkpoint under ``work``, and on a CPU ends with the same
    bytes as one that was not killed; with a hook it starts over.

    Args:
        base: the frozen base.
        rows: columns ``input_ids``, ``labels``, ``response_tokens`` and, with anchors, ``anchored``; every row is
            used as it is.
        recipe: how it is trained.
        name: what progress calls this training.
        work: a private folder for checkpoints.
        out: the folder of the adapter.
        notes: files of text that go into ``out``.
        reporter: where progress goes.
        trackers: where the trainer logs; TensorBoard's files cannot lie under ``work``, which is emptied.

    Returns:
        ``TrainingFacts`` as a mapping.

    Raises:
        InputError: there is no row, no token to train on, or more than one process.
        TosslmError: the loss or a weight is no number, or a method gives back other weights than it was given.
    """
    if PartialState().num_processes > 1:
        raise InputError(f"{name}: tosslm trains in one process; start it without a launcher of several")
    tokens, trained, anchored = count_tokens(rows)
    if not trained:
        raise InputError(f"{name}: no token to train on among {len(rows)} rows; add rows, or lower holdout")
    settings, trackers, checkpoints = recipe.settings, trackers or Trackers(), work / "checkpoints"
    steps = settings.epochs * math.ceil(len(rows) / settings.batch_size)
    if recipe.hook:
        shutil.rmtree(checkpoints, ignore_errors=True)
    with (
        fresh_adapter(base, settings.lora, recipe.seed) as model,
        reporter.task(name, steps) as task,
        tensorboard_folder(trackers.folder),
    ):
        callbacks: list[_Follow | _Around] = [_Follow(task)]
        if recipe.hook:
            callbacks.append(_Around(recipe.hook))
        trainer = SelectiveTrainer(
            model,
            args=_arguments(recipe, steps, checkpoints, trackers.names, base, name),
            data_collator=TrainingCollator(pad_token_id=base.tokenizer.pad_token_id),
            train_dataset=rows,
            processing_class=base.tokenizer,
            callbacks=callbacks,
            normalize=recipe.normalize,
            anchor_weight=recipe.anchor_weight,
            token_loss=recipe.token_loss,
        )
        for callback in callbacks:
            callback.trainer = trainer
        trainer.remove_callback(PrinterCallback)
        start = time.monotonic()
        trainer.train(resume_from_checkpoint=_last_checkpoint(checkpoints))
        seconds = time.monotonic() - start
        if recipe.after:
            _replace_weights(model, recipe.after, name)
        save_adapter(model, out, base.config, notes)
    curve = [[entry["step"], round(entry["loss"], 5)] for entry in trainer.state.log_history if "loss" in entry]
    speed = round(trainer.tokens_seen / seconds, 1) if trainer.tokens_seen else None
    losses = (curve[0][1], curve[-1][1], curve)
    return asdict(TrainingFacts(steps, len(rows), tokens * settings.epochs, trained, anchored, speed, *losses))


def _replace_weights(model: PeftModel, after: After, name: str) -> None:
    """Put what a method makes of the trained weights in their place."""
    trained = {key: value for key, value in model.named_parameters() if value.requires_grad}
    made = after({key: value.detach().clone() for key, value in trained.items()})
    if made.keys() != trained.keys() or any(made[key].shape != value.shape for key, value in trained.items()):
        raise TosslmError(f"{name}: the method's `after` gave back other weights than it was given")
    with torch.no_grad():
        for key, value in trained.items():
            value.copy_(made[key])


@contextmanager
def tensorboard_folder(folder: Path | None) -> Iterator[None]:
    """Where TensorBoard's writer puts its files, unless the user has said so; nothing else sets it."""
    variable = "TENSORBOARD_LOGGING_DIR"
    if folder is None or variable in os.environ:
        yield
        return
    os.environ[variable] = str(folder)
    try:
        yield
    finally:
        del os.environ[variable]


class _Around(TrainerCallback):
    """Calls a method's hook at the trainer's events."""

    def __init__(self, hook: TrainingHook) -> None:
        self._hook = hook
        self.trainer: SelectiveTrainer | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._hook.begin(self.trainer)

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._hook.before_step(self.trainer, state.global_step + 1)

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._hook.before_update(self.trainer, state.global_step + 1)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._hook.after_step(self.trainer, state.global_step)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._hook.end(self.trainer)


class _Follow(TrainerCallback):
    """Shows steps and loss, refuses a loss that is no number, and marks checkpoints that are whole."""

    def __init__(self, task: Task) -> None:
        self._task, self._step, self._tokens, self._loss = task, 0, 0, ""
        self.trainer: SelectiveTrainer | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._task.advance(state.global_step, 0)
        self._step = state.global_step

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        if logs and "loss" in logs:
            if not math.isfinite(float(logs["loss"])):
                raise TosslmError(
                    f"step {state.global_step}: the training loss is {logs['loss']}; lower the learning_rate, or "
                    "use model.dtype float32"
                )
            self._loss = f"loss {float(logs['loss']):.3f}"

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        seen = self.trainer.tokens_seen if self.trainer else 0
        self._task.advance(state.global_step - self._step, seen - self._tokens, self._loss)
        self._step, self._tokens = state.global_step, seen

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        (folder / "training_args.bin").unlink(missing_ok=True)
        files = {file.relative_to(folder).as_posix(): sha256(file) for file in folder.rglob("*") if file.is_file()}
        write_json(folder / _COMPLETE, files)


def _arguments(
    recipe: Recipe, steps: int, folder: Path, report_to: Sequence[str], base: Base, name: str
) -> SFTConfig:
    settings = recipe.settings
    micro = min(settings.micro_batch_size, settings.batch_size)
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
        gradient_accumulation_steps=settings.batch_size // micro,
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
        report_to=list(report_to) or "none",
        run_name=name,
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


def _last_checkpoint(folder: Path) -> str | None:
    """The newest checkpoint that is whole, to the bit; what is half written or damaged is removed."""
    found = sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))
    for checkpoint in reversed(found):
        if _is_whole(checkpoint):
            return str(checkpoint)
        shutil.rmtree(checkpoint)
    return None


def _is_whole(checkpoint: Path) -> bool:
    try:
        files = json.loads((checkpoint / _COMPLETE).read_text(encoding="utf-8"))
        return bool(files) and all(sha256(checkpoint / file) == known for file, known in files.items())
    except (OSError, ValueError, AttributeError):
        return False
