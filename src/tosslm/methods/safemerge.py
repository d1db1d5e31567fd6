"""SafeMERGE: after training, layers that went another way than alignment are merged with those of a safe adapter.

Torch is imported where it is used: a list of the methods does not wait for it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from tosslm.errors import InputError
from tosslm.methods.method import Method, keep_all
from tosslm.methods.needs import SAFETY, read_safety, safety_parts
from tosslm.training.hooks import TrainingHook

if TYPE_CHECKING:
    import torch

    from tosslm.training.hooks import Weights
    from tosslm.workbench import Workbench

THRESHOLD = 0.35
"""Layers whose cosine is below it are merged; as in the authors' code."""
SAFE_SHARE = 0.2
"""Share of the safe adapter in a layer that is merged; as in the authors' code."""
_FIRST, _SECOND = ".lora_A.weight", ".lora_B.weight"


def alignment_cosine(direction: torch.Tensor, first: torch.Tensor, second: torch.Tensor) -> float:
    """How much of an update lies where alignment has changed the layer.

    The cosine between the update ``second @ first`` and its image under ``direction @ direction.T``, which the paper
    calls its projection.

    Args:
        direction: ``[O, I]``, what alignment has added to the layer, at any scale.
        first: ``[r, I]``, the LoRA's factor A.
        second: ``[O, r]``, its factor B.

    Returns:
        From 0 to 1; 0 where alignment or update is nothing.
    """
    direction, first, second = (matrix.detach().cpu().double() for matrix in (direction, first, second))
    update, image = second @ first, direction @ (direction.T @ second) @ first
    sizes = update.norm() * image.norm()
    return float((update * image).sum() / sizes) if sizes > 0 else 0.0


def merged_factors(
    fine_tuned: tuple[torch.Tensor, torch.Tensor], safe: tuple[torch.Tensor, torch.Tensor], share: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """The factors of ``(1 - share) * fine_tuned + share * safe``, two updates of rank ``r``.

    The sum may have twice their rank: these are of the update of rank ``r`` that is nearest to it, in Frobenius norm.

    Args:
        fine_tuned: factors A ``[r, I]`` and B ``[O, r]``.
        safe: likewise.
        share: of the safe update.

    Returns:
        Factors A and B of the same shapes, in their dtype and on their device.
    """
    import torch

    first = torch.cat([fine_tuned[0], safe[0]]).detach().cpu().double()
    second = torch.cat([(1 - share) * fine_tuned[1], share * safe[1]], 1).detach().cpu().double()
    # The sum is of rank 2r at most, so a decomposition of the small middle is one of the whole.
    (left, middle), (right, other) = torch.linalg.qr(second), torch.linalg.qr(first.T)
    u, sizes, v = torch.linalg.svd(middle @ other.T, full_matrices=False)
    rank = min(len(sizes), len(fine_tuned[0]))
    roots = sizes[:rank].sqrt()
    made_first, made_second = torch.zeros_like(fine_tuned[0]), torch.zeros_like(fine_tuned[1])
    made_first[:rank] = (roots[:, None] * (v[:rank] @ right.T)).to(made_first)
    made_second[:, :rank] = (left @ u[:, :rank] * roots).to(made_second)
    return made_first, made_second


def merge_layers(weights: Weights, safe: Weights, alignment: Weights) -> tuple[Weights, list[str]]:
    """Merge the layers whose update deviates from alignment with the safe adapter's.

    Args:
        weights: factors of the fine-tuned adapter by their names in a saved one.
        safe: of the safe adapter, of the same names and shapes.
        alignment: of the adapter that is the alignment; a layer that it lacks was not changed by alignment, has a
            cosine of 0, and is merged, as in the authors' code.

    Returns:
        The factors that become of ``weights``, and the layers that were merged.
    """
    made, merged = dict(weights), []
    for layer in sorted(name.removesuffix(_FIRST) for name in weights if name.endswith(_FIRST)):
        pair = (layer + _FIRST, layer + _SECOND)
        first, second = (weights[name] for name in pair)
        if pair[0] in alignment:
            cosine = alignment_cosine(alignment[pair[1]] @ alignment[pair[0]], first, second)
        else:
            cosine = 0.0
        if cosine < THRESHOLD:
            own_safe = (safe[pair[0]].to(first), safe[pair[1]].to(second))
            made[pair[0]], made[pair[1]] = merged_factors((first, second), own_safe, SAFE_SHARE)
            merged.append(layer)
    return made, merged


class SafeMerging(TrainingHook):
    """Merges at the end of a training.

    Args:
        safe: the safe adapter's weights.
        alignment: those of the adapter that is the alignment.
        say: where it is told how many layers were merged.
    """

    def __init__(self, safe: Weights, alignment: Weights, say: Callable[[str], None]) -> None:
        self._safe, self._alignment, self._say = safe, alignment, say

    def end(self, trainer: Any) -> None:
        """Put what the merge makes in the place of the last weights."""
        # A saved adapter does not bear the name that it has while it is trained.
        trained = {
            name.replace(".default.", "."): weight
            for name, weight in trainer.model.named_parameters()
            if weight.requires_grad
        }
        made, merged = merge_layers(trained, self._safe, self._alignment)
        for name, weight in trained.items():
            weight.data.copy_(made[name])
        layers = sum(name.endswith(_FIRST) for name in trained)
        self._say(f"safemerge: {len(merged)} of {layers} layers merged with the safe adapter (cosine < {THRESHOLD})")


def safe_weights(bench: Workbench) -> Weights:
    """An adapter trained on the rows of ``compare.safety`` as the model is fine-tuned; its weights by saved name.

    Raises:
        InputError: there is no such row.
    """
    from safetensors.torch import load_file

    from tosslm.training.labels import training_row, write_training_rows
    from tosslm.training.train import Recipe, train_adapter

    safety = read_safety(bench.config, bench.reporter.say)
    tokens = [bench.tokenizer(row.messages, context=row.context) for row in safety]
    settings = bench.config.finetune
    with TemporaryDirectory() as name:
        folder = Path(name)
        train_adapter(
            bench.base,
            write_training_rows(
                folder / "rows.arrow", (training_row(row.input_ids, row.response_mask, None) for row in tokens)
            ),
            Recipe(settings, bench.config.seed, normalize=settings.normalize),
            name="safe adapter",
            work=folder,
            out=folder / "adapter",
            notes={},
            reporter=bench.reporter,
        )
        return load_file(folder / "adapter" / "adapter_model.safetensors")


def alignment_weights(folder: Path) -> Weights:
    """The weights of ``model.adapter``, which made the plain model the aligned base.

    Raises:
        InputError: it has no LoRA.
    """
    from safetensors.torch import load_file

    weights = load_file(folder / "adapter_model.safetensors")
    if not any(name.endswith(_FIRST) for name in weights):
        raise InputError(
            f"safemerge: model.adapter: {folder} has no LoRA, so that what it changed in a layer is not known; merge "
            "it into a model folder of its own, and leave the key out"
        )
    return weights


def _merging(bench: Workbench) -> SafeMerging:
    aligned = bench.base.adapter_folder
    alignment = alignment_weights(aligned) if aligned else None
    safe = safe_weights(bench)
    return SafeMerging(safe, safe if alignment is None else alignment, bench.reporter.say)


SAFEMERGE = Method(
    "safemerge",
    summary="standard fine-tuning; layers that part from the direction of alignment are merged with a safe adapter's",
    source="Djuhera et al. 2025, arXiv 2503.17239, threshold 0.35 and shares 0.8 and 0.2 as in their code",
    badge="variant",
    differs="the direction of alignment is that of model.adapter, or without one that of the safe adapter, where "
    "theirs is the difference of a chat model and its plain one: a direction of low rank gives lower cosines, so "
    "that more layers fall below the threshold; the safe adapter is trained on compare.safety with the settings of "
    "the fine-tuning; a merged layer is the update of the same rank nearest to the weighted sum, where their code "
    "adds up the factors weighed by square roots, which mixes one adapter's factor with the other's",
    builds_on="data",
    choose=keep_all,
    step=_merging,
    needs=(SAFETY,),
    training_covers=safety_parts,
)
