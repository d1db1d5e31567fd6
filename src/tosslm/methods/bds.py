"""BDS, the Bayesian data scheduler: custom rows count by how safe they are, which is learnt along with the model.

The model learns from safety demonstrations and from custom rows weighed by their safety; the weights go where the
model, kept safe by the demonstrations, finds rows likely. Under a flat prior the log posterior of the weights is the
weighted log-likelihood of the rows, which is the objective of SEAL's selector; but here the model that learns along
is the result, and no row is dropped (arXiv 2510.27172).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tosslm.methods.alignment import SafetyBatches, own_gradients, safety_batches, set_gradients, trainable
from tosslm.methods.method import Method, keep_all
from tosslm.methods.needs import SAFETY, safety_parts
from tosslm.methods.seal import relative_weights, selector_loss
from tosslm.training.hooks import TrainingHook

if TYPE_CHECKING:
    import torch

    from tosslm.workbench import Workbench

FALL = 1.0
"""How far a row's logit falls over the whole training, for each nat of its loss, if it is read at weight 1.

In the authors' 20 epochs Adam opens a gap of 1.1 between rows that stay at 1 nat and at 2.
"""


class Scheduler:
    """The logits of rows' safety weights.

    Args:
        rows: how many rows, ``R``.
        epochs: how often each is read.
    """

    def __init__(self, rows: int, epochs: int) -> None:
        import torch

        self._logits = torch.zeros(rows, dtype=torch.float64, requires_grad=True)
        self._optimizer = torch.optim.SGD([self._logits], lr=FALL / epochs)

    @property
    def weights(self) -> torch.Tensor:
        """What each row counts, float64 ``[R]``, 1 on average, without a gradient."""
        return relative_weights(self._logits.detach())

    def learn(self, numbers: np.ndarray, losses: torch.Tensor) -> None:
        """One step towards rows of low loss.

        Args:
            numbers: int64 ``[B]``, which rows were read.
            losses: float64 ``[B]``, their mean losses in nats a token, without a gradient.
        """
        # The sum instead of the mean: how many rows are read together does not change how far each falls.
        (len(numbers) * selector_loss(self._logits, numbers, losses)).backward()
        self._optimizer.step()
        self._optimizer.zero_grad()


class Scheduling(TrainingHook):
    """Custom rows count by their weights, demonstrations are learnt along, and the weights learn from each step.

    Args:
        safety: the demonstrations.
    """

    def __init__(self, safety: SafetyBatches) -> None:
        self._safety = safety
        self._numbers: list[np.ndarray] = []
        self._losses: list[torch.Tensor] = []

    def begin(self, trainer: Any) -> None:
        """All rows count alike."""
        self.scheduler = Scheduler(len(trainer.train_dataset), int(trainer.args.num_train_epochs))

    def row_weights(self, trainer: Any, numbers: torch.Tensor, losses: torch.Tensor) -> torch.Tensor:
        """The rows' weights by now."""
        self._numbers.append(numbers.cpu().numpy())
        self._losses.append(losses.cpu().double())
        return self.scheduler.weights[numbers.cpu()].to(losses)

    def before_update(self, trainer: Any, step: int) -> None:
        """Add the gradient of the demonstrations."""
        weights = trainable(trainer.model)
        safety = self._safety.loss_gradients(trainer.model)
        made = [own + other for own, other in zip(own_gradients(weights), safety, strict=True)]
        set_gradients(weights, made, trainer.args.max_grad_norm)

    def after_step(self, trainer: Any, step: int) -> None:
        """Let the weights learn from the losses that the step has met."""
        import torch

        self.scheduler.learn(np.concatenate(self._numbers), torch.cat(self._losses))
        self._numbers, self._losses = [], []


def _scheduling(bench: Workbench) -> Scheduling:
    return Scheduling(safety_batches(bench))


BDS = Method(
    "bds",
    summary="learns safety demonstrations too, and weighs custom rows by how likely the model finds them meanwhile",
    source="Hu et al. 2025, arXiv 2510.27172, their scalar scheduler with softmax weights, and their code",
    badge="variant",
    differs="weights go towards the mode of their posterior under a flat prior, without the noise that would sample "
    "it, as in their code; plain gradient steps instead of Adam, whose steps do not grow with a row's loss, as far "
    "over the whole training as theirs over 20 epochs; an epoch is a pass over the custom rows, however many "
    "demonstrations there are; losses are divided as finetune.normalize says, where they take means of rows; the "
    "gradient of custom rows is clipped before that of demonstrations is added as well as after; no neural scheduler",
    builds_on="data",
    choose=keep_all,
    step=_scheduling,
    needs=(SAFETY,),
    training_covers=safety_parts,
)
