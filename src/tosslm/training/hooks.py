"""What a method may do around the steps of a training, and to the adapter that comes out of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

Weights = dict[str, "torch.Tensor"]
"""Trainable parameters by name, each with its shape, on the device of the training."""
After = Callable[[Weights], Weights]
"""An adapter's weights in, those that are saved out: names and shapes stay."""


class TrainingHook:
    """Something done around each training step; a method overrides what it needs.

    One object serves one training, so it may keep what it likes. The trainer is TRL's ``SFTTrainer``: its model is
    ``trainer.model``, and gradients are in the ``grad`` of the parameters that train.

    A training with a hook that was killed starts over, since what the object has gathered is gone with the process.
    """

    def begin(self, trainer: Any) -> None:
        """Before the first step."""

    def before_step(self, trainer: Any, step: int) -> None:
        """Before the forward passes of optimizer step ``step``, from 1."""

    def before_update(self, trainer: Any, step: int) -> None:
        """When the step's gradients are summed up and clipped, before the optimizer uses them."""

    def after_step(self, trainer: Any, step: int) -> None:
        """When the optimizer has changed the weights."""

    def row_weights(self, trainer: Any, numbers: torch.Tensor, losses: torch.Tensor) -> torch.Tensor | None:
        """What each row of a micro-batch counts in the loss; None counts all alike.

        Args:
            trainer: the trainer.
            numbers: int64 ``[B]``, each row's place among the training rows.
            losses: float32 ``[B]``, mean loss of each row's kept tokens in nats, without a gradient; 0 where it
                keeps none.

        Returns:
            Float32 ``[B]``, not below 0, without a gradient.
        """
        return None

    def end(self, trainer: Any) -> None:
        """After the last step; what the trainable weights are now is the trained adapter."""
