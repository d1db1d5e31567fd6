"""How long a unit of work lasts, from how fast a device multiplies: rules of thumb that a measurement replaces."""

from __future__ import annotations

from dataclasses import dataclass

from tosslm.config import Config, TrainingConfig
from tosslm.model.shape import Shape
from tosslm.planning.sample import MicroBatch
from tosslm.planning.sizes import weight_bytes
from tosslm.planning.work import OWN_TOKENS, Pace

_TRAINING_PASSES = 2.3
"""A LoRA training step in forward passes: activations' gradients, but none of the frozen weights."""
_HEAD_PASSES = 3
_SELECT_SECONDS, _DRAW_SECONDS = 0.5e-6, 5e-6
"""A response token in the posterior's chain, and in the report, on one core."""


@dataclass(frozen=True, slots=True)
class Device:
    """How fast a device is.

    Attributes:
        flops: multiplications and additions a second that a forward pass reaches.
        bytes: bytes of weights a second that it reads from its memory.
        steps: passes a second that it can start, however small they are.
    """

    flops: float
    bytes: float
    steps: float


@dataclass(frozen=True, slots=True)
class Batches:
    """What a run's forward passes read on average.

    Attributes:
        references: a micro-batch of a reference's training.
        finetune: one of the fine-tuning.
        padding: padded tokens that scoring reads for each token.
        responses: positions at which the head runs for each token that scoring reads.
        length: tokens of a held-out row.
        answer: response tokens among them.
        asked: harmful prompts that the base answers at once.
    """

    references: MicroBatch
    finetune: MicroBatch
    padding: float
    responses: float
    length: float
    answer: float
    asked: int


def constant_pace(*, begin: float, load: float, tokenise: float) -> Pace:
    """The units that do not depend on the model's shape.

    Args:
        begin: seconds that the training libraries take to import.
        load: seconds that a model's weights take to load.
        tokenise: seconds a token of reading and tokenising rows.
    """
    return {
        "begin": begin,
        "load": load,
        "tokenise": tokenise,
        "select": _SELECT_SECONDS,
        "draw": _DRAW_SECONDS,
        "second": 1.0,
    }


def expected_pace(config: Config, shape: Shape, device: Device, batches: Batches) -> Pace:
    """The other units, from multiplications alone.

    Args:
        config: the config.
        shape: the model's.
        device: what it runs on.
        batches: what a forward pass reads.
    """
    body, head = 2 * shape.body / device.flops, 2 * shape.head / device.flops
    read = body * batches.padding + head * batches.responses
    positions = min(config.diagnosis.positions, batches.answer)

    def trained(batch: MicroBatch, settings: TrainingConfig) -> float:
        passes = _TRAINING_PASSES + settings.gradient_checkpointing
        return passes * batch.padded * body + _HEAD_PASSES * batch.responses * head

    def step(prompts: int) -> float:
        return max(weight_bytes(shape) / device.bytes, prompts * (body + head), 1 / device.steps)

    finetune = trained(batches.finetune, config.finetune)
    return {
        "read": read,
        "reference_batch": trained(batches.references, config.references),
        "reference_step": 1 / device.steps,
        "finetune_batch": finetune,
        # The base reads the batch too, and its head runs where tokens are anchored.
        "anchored_batch": finetune + batches.finetune.padded * body + batches.finetune.responses * head,
        "finetune_step": 1 / device.steps,
        "answer_step": step(config.evaluation.batch_size),
        "diverge": batches.length * body + positions * head,
        "own_answer": OWN_TOKENS * step(batches.asked) / batches.asked + (batches.length - batches.answer) * body,
    }
