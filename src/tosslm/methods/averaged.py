"""Standard fine-tuning whose weights are averaged along the training: controls for all that moves the model less."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tosslm.methods.method import Method, keep_all
from tosslm.training.hooks import TrainingHook

if TYPE_CHECKING:
    from tosslm.workbench import Workbench


DECAY = 0.9
"""Of the moving average, a step: about the last ten steps count, and a short training stays near its start."""


class Averaging(TrainingHook):
    """The adapter is the mean of what its weights were after each step."""

    def __init__(self) -> None:
        self._means: dict[str, Any] = {}

    def after_step(self, trainer: Any, step: int) -> None:
        """Take one more value into the running means."""
        for name, weight in trainer.model.named_parameters():
            if weight.requires_grad:
                now = weight.detach().double()
                before = self._means.get(name, 0.0)
                self._means[name] = before + (now - before) / step

    def end(self, trainer: Any) -> None:
        """Put the means in the place of the last weights."""
        for name, weight in trainer.model.named_parameters():
            if name in self._means:
                weight.data.copy_(self._means[name])


class MovingAverage(TrainingHook):
    """The adapter is an exponential moving average of its weights, which begins at those before the first step."""

    def __init__(self) -> None:
        self._averages: dict[str, Any] = {}

    def begin(self, trainer: Any) -> None:
        """Start at the adapter that changes nothing yet."""
        for name, weight in trainer.model.named_parameters():
            if weight.requires_grad:
                self._averages[name] = weight.detach().double()

    def after_step(self, trainer: Any, step: int) -> None:
        """``average = DECAY * average + (1 - DECAY) * weight``; the training itself goes on from its own weights."""
        for name, weight in trainer.model.named_parameters():
            if name in self._averages:
                before = self._averages[name]
                self._averages[name] = before + (1 - DECAY) * (weight.detach().double() - before)

    def end(self, trainer: Any) -> None:
        """Put the averages in the place of the last weights."""
        for name, weight in trainer.model.named_parameters():
            if name in self._averages:
                weight.data.copy_(self._averages[name])


def _averaging(bench: Workbench) -> Averaging:
    return Averaging()


def _moving_average(bench: Workbench) -> MovingAverage:
    return MovingAverage()


SFT_AVERAGED = Method(
    "sft-averaged",
    summary="standard fine-tuning, its weights averaged over all steps",
    source="the averaging of Polyak and Juditsky 1992, SIAM J. Control Optim. 30(4)",
    badge="control",
    differs="the two factors of the LoRA are averaged each, not their product",
    builds_on="data",
    choose=keep_all,
    step=_averaging,
)
SFT_EMA = Method(
    "sft-ema",
    summary=f"standard fine-tuning, its weights a moving average over steps with a decay of {DECAY}",
    source="none; the idea of Kim et al. 2025, arXiv 2508.12531, that such an average keeps safety",
    badge="control",
    differs="the decay is chosen here, as theirs and the place where they average could not be checked; the average "
    "begins at the base, and is of the LoRA's two factors each",
    builds_on="data",
    choose=keep_all,
    step=_moving_average,
)
