"""Memory and disk of each stage, from a model's shape and a set's counts: arithmetic alone."""

from __future__ import annotations

import math

from tosslm.config import Config, TrainingConfig
from tosslm.model.shape import FOUR_BIT_BYTES, LOGITS_BYTES, Shape
from tosslm.planning.work import Counted, Sets

_ACTIVATIONS_PER_LAYER = 34
"""Bytes a token and hidden unit that a layer keeps for its backward pass, 16 bit (arXiv 2205.05198, eq. 1)."""
_COPY_BYTES = 4
"""Of each value that goes into an adapted layer: PEFT copies it to float32 where the model is not."""
_ALL_LINEAR = 8.7
"""Inputs of all linear layers of a block, in hidden states: six and a gated feed-forward's inner one."""
_LIBRARIES = 0.5e9
"""What the libraries take on a CPU; on a GPU about as much goes to its own context."""
_REPORT_ROW = 40
"""Bytes a row that the report holds while it is made: ``docs/performance.md`` has it measured."""


def stage_bytes(
    config: Config,
    sets: Sets,
    by: Sets,
    own: Shape,
    references: Shape,
    *,
    evaluates: bool,
    batch_tokens: int,
    proxied: bool = False,
) -> dict[str, tuple[float, float]]:
    """Memory and disk of each stage, in bytes.

    Args:
        config: the config.
        sets: ``custom``, ``harmful`` and ``utility`` in the base's tokens.
        by: the same in those of the model that references are trained on.
        own: the base's shape.
        references: that model's shape.
        evaluates: whether an evaluation has anything to ask.
        batch_tokens: padded tokens that are scored at once, on the device that scores.
        proxied: whether that model is not the base.
    """
    custom, rounds = sets["custom"], config.refinement.rounds
    in_context = 4 * custom.response_tokens if config.selection.kind != "token" else 0
    reading = weight_bytes(own) + scoring_bytes(batch_tokens, custom, own)
    learnt, read = [by["harmful"], by["utility"]], by.values()
    learning = weight_bytes(references) + max(training_bytes(config.references, one, references) for one in learnt)
    scoring = weight_bytes(references) + max(scoring_bytes(batch_tokens, one, references) for one in read)
    refining = max(scoring, weight_bytes(references) + training_bytes(config.references, by["custom"], references))
    scores, adapter = 12 * custom.response_tokens, adapter_bytes(config.references, references)
    proxy_rows = 8 * sum(counts.tokens for counts in by.values()) if proxied else 0
    found = {
        "data": (0, 8 * sum(counts.tokens for counts in sets.values())),
        "references": (learning, (3 if config.data.utility.of_custom else 2) * adapter + proxy_rows),
        "score": (scoring, scores),
        "refine": (max(learning, refining), rounds * (scores + adapter)),
        "select": (0, custom.response_tokens // 8 + in_context),
        "finetune": (
            weight_bytes(own) + training_bytes(config.finetune, custom, own),
            adapter_bytes(config.finetune, own),
        ),
        "evaluate": (reading, 1e6 if evaluates else 0),
        "diagnose": (reading, 1e6),
        "report": (_REPORT_ROW * custom.rows, min(16 * custom.response_tokens, 25e6)),
    }
    return {stage: (_LIBRARIES + memory, disk) for stage, (memory, disk) in found.items()}


def weight_bytes(shape: Shape) -> float:
    """A model's weights in memory; of one in four bits, the scales among them."""
    return (shape.parameters - shape.four_bit) * shape.bytes_per_value + shape.four_bit * FOUR_BIT_BYTES


def training_bytes(settings: TrainingConfig, custom: Counted, shape: Shape) -> float:
    """What a training of a LoRA holds beside the weights: activations, adapter with its optimizer, logits."""
    tokens = settings.rows_at_once * custom.longest
    layers = 1 + math.sqrt(shape.layers) if settings.gradient_checkpointing else shape.layers
    return tokens * layers * activation_bytes(settings, shape) + 4 * adapter_bytes(settings, shape) + 3 * LOGITS_BYTES


def activation_bytes(settings: TrainingConfig, shape: Shape) -> float:
    """What a layer keeps of a token for the backward pass of a LoRA."""
    adapted = settings.lora.target_modules
    inputs = _ALL_LINEAR if adapted == "all-linear" else len(adapted)
    copied = _COPY_BYTES * inputs if shape.bytes_per_value < _COPY_BYTES else 0
    return shape.hidden * (_ACTIVATIONS_PER_LAYER * shape.bytes_per_value / 2 + copied)


def scoring_bytes(batch_tokens: int, custom: Counted, shape: Shape) -> float:
    """What scoring holds beside the weights."""
    tokens = max(batch_tokens, custom.longest)
    return tokens * shape.hidden * 20 * shape.bytes_per_value + 2 * LOGITS_BYTES


def adapter_bytes(settings: TrainingConfig, shape: Shape) -> int:
    """An adapter on disk, as if every module were as wide as the model."""
    modules = 7 if settings.lora.target_modules == "all-linear" else len(settings.lora.target_modules)
    return 4 * 2 * settings.lora.r * shape.hidden * shape.layers * modules
