"""Standard fine-tuning whose weights are averaged along the training: a control for all that moves the model less."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tosslm.methods.method import Method, keep_all
from tosslm.training.hooks import TrainingHook

if TYPE_CHECKING:
    from tosslm.workbench import Workbench


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


def _averaging(bench: Workbench) -> Averaging:
    return Averaging()


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
