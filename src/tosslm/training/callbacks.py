"""What goes on beside a training: steps are told, a method's hook is called, checkpoints are marked when whole."""

# ruff: noqa: D102 (the methods of a callback are the trainer's events)

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from tosslm.errors import TosslmError
from tosslm.files import sha256, write_json, write_text
from tosslm.progress import Task
from tosslm.tracking import Log
from tosslm.training.hooks import TrainingHook
from tosslm.training.trainer import SelectiveTrainer

_COMPLETE = "complete"


class Around(TrainerCallback):
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


class Follow(TrainerCallback):
    """Shows steps and loss, refuses a loss that is no number, logs figures, and marks checkpoints.

    Args:
        task: where steps are shown.
        log: where figures go.
        notes: files of text that go into each checkpoint, as into the adapter.
    """

    def __init__(self, task: Task, log: Log, notes: Mapping[str, str]) -> None:
        self._task, self._step, self._tokens, self._loss = task, 0, 0, ""
        self._log, self._notes = log, notes
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
        if logs and state.is_world_process_zero:
            figures = {f"train/{key}": value for key, value in logs.items() if isinstance(value, int | float)}
            self._log(figures, state.global_step)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        seen = self.trainer.tokens_seen if self.trainer else 0
        self._task.advance(state.global_step - self._step, seen - self._tokens, self._loss)
        self._step, self._tokens = state.global_step, seen

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.trainer:
            # Each process writes the state of its own random numbers.
            self.trainer.accelerator.wait_for_everyone()
        if not state.is_world_process_zero:
            return
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        (folder / "training_args.bin").unlink(missing_ok=True)
        (folder / "README.md").unlink(missing_ok=True)
        write_notes(folder, self._notes)
        files = {file.relative_to(folder).as_posix(): sha256(file) for file in folder.rglob("*") if file.is_file()}
        write_json(folder / _COMPLETE, files)


def write_notes(folder: Path, notes: Mapping[str, str]) -> None:
    """Put files of text into a folder, which is made."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in notes.items():
        write_text(folder / name, text)


def last_checkpoint(folder: Path) -> str | None:
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
