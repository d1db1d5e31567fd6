"""Standard fine-tuning at a lower learning rate: what many do first to move the model less."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tosslm.methods.method import Method, keep_all
from tosslm.training.hooks import TrainingHook

if TYPE_CHECKING:
    from tosslm.workbench import Workbench

SLOWNESS = 0.5


class Slowing(TrainingHook):
    """Every step is taken at ``SLOWNESS`` times the learning rate that the schedule gives it.

    No override of the config: the rate would be halved anew whenever a run folder, whose config has it, goes on.
    """

    def before_update(self, trainer: Any, step: int) -> None:
        """The schedule sets the rate afresh after each step, from the peak, so that nothing adds up."""
        for group in trainer.optimizer.param_groups:
            group["lr"] *= SLOWNESS


def _slowing(bench: Workbench) -> Slowing:
    return Slowing()


SFT_SLOW = Method(
    "sft-slow",
    summary=f"standard fine-tuning at {SLOWNESS} times finetune.learning_rate",
    source="none",
    badge="control",
    builds_on="data",
    choose=keep_all,
    step=_slowing,
)
