"""Lisa: training alternates between safety demonstrations and custom rows, and neither strays far from the other.

A round has two states. In the first all steps are on demonstrations, in the second on custom rows. While one lasts,
its loss has the proximal term ``rho / 2 * ||w - a||^2``, where ``a`` are the weights with which the other one ended
(arXiv 2405.18641; without the term it is their bi-state optimisation).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tosslm.methods.alignment import SafetyBatches, own_gradients, safety_batches, set_gradients, trainable
from tosslm.methods.method import Method, keep_all
from tosslm.methods.needs import SAFETY, safety_parts
from tosslm.training.hooks import TrainingHook

if TYPE_CHECKING:
    import torch

    from tosslm.workbench import Workbench

RHO = 1.0
ALIGNMENT_SHARE = 0.1
"""Steps of a round that are on demonstrations; theirs are 100 of 1,000."""
FREE_SHARE = 0.1
"""Steps of the training, from its beginning, that go without the proximal term, as in their code: it would hurt
convergence."""


def state_lengths(steps: int, epochs: int) -> tuple[int, int]:
    """Steps of the alignment state and of the fine-tuning state; together an epoch, as in their runs.

    Args:
        steps: of the training.
        epochs: of the training.

    Returns:
        Two numbers from 1. Where an epoch is one step, a round is two epochs.
    """
    length = max(2, steps // epochs)
    alignment = max(1, round(ALIGNMENT_SHARE * length))
    return alignment, length - alignment


def proximal_gradients(
    gradients: Sequence[torch.Tensor], weights: Sequence[torch.Tensor], anchors: Sequence[torch.Tensor]
) -> list[torch.Tensor]:
    """Gradients with that of ``RHO / 2 * ||weights - anchors||^2`` added, each of its weight's shape."""
    return [
        gradient + RHO * (weight - anchor)
        for gradient, weight, anchor in zip(gradients, weights, anchors, strict=True)
    ]


class BiState(TrainingHook):
    """Steps of the alignment state take the place of the trainer's, under its optimizer and its schedule.

    Args:
        safety: the demonstrations.
    """

    def __init__(self, safety: SafetyBatches) -> None:
        self._safety = safety
        self._anchors: list[torch.Tensor] = []

    def before_update(self, trainer: Any, step: int) -> None:
        """Put the gradient of the state's own loss in place, with the pull towards the other state."""
        weights, done = trainable(trainer.model), step - 1
        alignment, finetune = state_lengths(trainer.state.max_steps, int(trainer.args.num_train_epochs))
        place = done % (alignment + finetune)
        if place in (0, alignment):
            self._anchors = [weight.detach().clone() for weight in weights]
        made = self._safety.loss_gradients(trainer.model) if place < alignment else own_gradients(weights)
        if done > FREE_SHARE * trainer.state.max_steps:
            made = proximal_gradients(made, [weight.detach() for weight in weights], self._anchors)
        set_gradients(weights, made, trainer.args.max_grad_norm)


def _bi_state(bench: Workbench) -> BiState:
    return BiState(safety_batches(bench))


LISA = Method(
    "lisa",
    summary="alternates between steps on safety demonstrations and on custom rows, held near where the other ended",
    source="Huang et al. 2024, arXiv 2405.18641, rho 1, a tenth of the steps on demonstrations, and their code",
    badge="variant",
    differs="a round of both states is an epoch whatever its steps, as it is in their run of 100 and 900 steps for "
    "5,000 rows in batches of 5; as with them, the custom rows of an alignment step teach nothing; the gradient of "
    "custom rows is clipped before the proximal one is added as well as after; the base is whatever model the config "
    "names, where they align it first on the same demonstrations",
    builds_on="data",
    choose=keep_all,
    step=_bi_state,
    needs=(SAFETY,),
    training_covers=safety_parts,
)
