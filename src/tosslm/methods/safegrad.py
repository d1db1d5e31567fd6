"""SafeGrad: what custom rows would teach against safety is cut out of their gradient.

Each step has two gradients over all trainable weights: of the custom rows' loss, and of ``KL(base || model)`` on
safety demonstrations. Where they conflict, the first loses its component along the second; then they are added
(arXiv 2508.07172).
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
SMALLEST_SQUARE = 1e-9
"""An alignment gradient of a smaller squared norm has no direction to speak of; the base has none at all."""


def projected(user: Sequence[torch.Tensor], alignment: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """The user's gradient without what conflicts with the alignment's.

    Both are one vector each, cut into tensors of the same shapes: whether they conflict is asked once for all.

    Args:
        user: of the custom rows' loss.
        alignment: of the alignment loss.

    Returns:
        ``user`` where its inner product with ``alignment`` is not negative; else its part that is orthogonal to it.
    """
    product, square = _inner(user, alignment), _inner(alignment, alignment)
    share = product / square if product < 0 and square > SMALLEST_SQUARE else 0.0
    return [one - share * other for one, other in zip(user, alignment, strict=True)]


def _inner(first: Sequence[torch.Tensor], second: Sequence[torch.Tensor]) -> float:
    # In double: millions of small products, and their sum decides by its sign.
    return sum(float((one.double() * other.double()).sum()) for one, other in zip(first, second, strict=True))


class GradientSurgery(TrainingHook):
    """Each step's gradient is projected, and the alignment gradient added.

    Args:
        safety: the demonstrations.
    """

    def __init__(self, safety: SafetyBatches) -> None:
        self._safety = safety

    def before_update(self, trainer: Any, step: int) -> None:
        """Operate."""
        weights = trainable(trainer.model)
        alignment = self._safety.divergence_gradients(trainer.model)
        user = projected(own_gradients(weights), alignment)
        made = [one + RHO * other for one, other in zip(user, alignment, strict=True)]
        set_gradients(weights, made, trainer.args.max_grad_norm)


def _surgery(bench: Workbench) -> GradientSurgery:
    return GradientSurgery(safety_batches(bench))


SAFEGRAD = Method(
    "safegrad",
    summary="projects each step's gradient off what conflicts with staying near the base on safety demonstrations",
    source="Yi et al. 2025, arXiv 2508.07172, rho 1, and their code",
    badge="variant",
    differs="KL is summed over prompts and answers and divided by response tokens as in their code, but not over "
    "padding, which makes theirs depend on how rows are batched; the gradient of custom rows is clipped before the "
    "projection as well as after",
    builds_on="data",
    choose=keep_all,
    step=_surgery,
    needs=(SAFETY,),
    training_covers=safety_parts,
)
