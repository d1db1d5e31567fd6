"""How much each stage of a run has to do, in units whose time is another question: arithmetic on counts alone."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol

from tosslm.config import Config, TrainingConfig
from tosslm.data.shared import REFERENCES as REFERENCES

if TYPE_CHECKING:
    from tosslm.evaluation.workload import Asked

Unit = Literal[
    "begin",  # import the training libraries, once
    "load",  # load a model's weights
    "tokenise",  # a token of a row read from its file
    "read",  # a token scored under one reference
    "reference_batch",  # a micro-batch of a reference's training
    "reference_step",  # an optimizer step of it
    "finetune_batch",  # a micro-batch of the fine-tuning, without anchors
    "anchored_batch",  # the same with anchors in every row, which the base reads too
    "finetune_step",
    "answer_step",  # a new token for each prompt of an evaluation's batch
    "diverge",  # a held-out row under one of the models that diagnosis compares
    "own_answer",  # the first tokens of the base's own answer to one prompt
    "select",  # a response token ranked
    "draw",  # a response token in the report
    "second",
]
Pace = Mapping[Unit, float]
"""Seconds of each unit."""
OWN_TOKENS = 16
"""New tokens of the base's own answer, by which diagnosis tells harm learnt from refusals forgotten."""
UNKNOWN_ANCHORED_ROWS = 0.5
"""Where only scores will tell in which rows tokens are dropped: the share that is wrong by least, whatever it is."""
UNKNOWN_REFUSED = 0.5
"""Where only the base's own answers will tell how many of the held-out harmful prompts it refuses: likewise."""


class Counted(Protocol):
    """What is known of a set once its rows were counted."""

    rows: int
    tokens: int
    response_tokens: int
    longest: int


Sets = Mapping[str, Counted]


@dataclass(slots=True)
class Work:
    """What one stage does.

    Attributes:
        stage: its name.
        base: units of the base.
        references: units of the model that references are trained on, which is the base or a proxy.
        read: tokens read, those that are written among them.
        trained: tokens trained on, over all epochs.
    """

    stage: str
    base: dict[Unit, float] = field(default_factory=dict)
    references: dict[Unit, float] = field(default_factory=dict)
    read: float = 0.0
    trained: float = 0.0

    def seconds(self, base: Pace, references: Pace) -> float:
        """How long it takes at a pace; a unit that is not done need not be in it."""
        parts = ((self.base, base), (self.references, references))
        return sum(count * pace[unit] for units, pace in parts for unit, count in units.items() if count)


def stage_work(
    config: Config,
    sets: Sets,
    by: Sets,
    evaluated: Asked,
    *,
    anchored: float,
    diagnosed: int = 3,
    proxied: bool = False,
    trains: bool = True,
) -> list[Work]:
    """The work of each stage, in their order.

    Args:
        config: the config.
        sets: ``custom``, ``harmful`` and ``utility`` in the base's tokens.
        by: the same in those of the model that references are trained on.
        evaluated: of an evaluation, for each model.
        anchored: share of the custom rows with an anchored token.
        diagnosed: models that diagnosis compares: base, model, degraded reference, and others.
        proxied: whether that model is not the base.
        trains: whether a model is fine-tuned, and so measured beside the base.
    """
    custom, settings = sets["custom"], config.finetune
    batches, steps = passes(custom.rows, settings)
    tokens = sum(one.tokens for one in sets.values())
    models = 2 + len(config.evaluation.scales) if trains else 1
    work = [
        Work("data", {"tokenise": tokens}),
        *_reference_work(config, by),
        Work("select", {"second": 1.0, "select": custom.response_tokens}),
        Work(
            "finetune",
            {
                "finetune_batch": (1 - anchored) * batches,
                "anchored_batch": anchored * batches,
                "finetune_step": steps,
            },
            read=anchored * custom.tokens * settings.epochs,
            trained=custom.tokens * settings.epochs,
        ),
        Work(
            "evaluate",
            {"read": models * evaluated.read, "answer_step": models * evaluated.steps},
            read=models * (evaluated.read + evaluated.written),
        ),
        _diagnosis_work(config, sets, diagnosed),
        Work("report", {"second": 0.4, "draw": custom.response_tokens}),
    ]
    return work if proxied else [_at_once(one) for one in work]


def begun(work: Iterable[Work]) -> list[Work]:
    """The work with what is done once, in the first stage that needs it: libraries imported, weights loaded."""
    found = list(work)
    for of_model in (
        [one.base for one in found if one.stage in _OF_BASE],
        [one.references for one in found],
    ):
        if needed := next((units for units in of_model if any(units.values())), None):
            needed["load"] = 1
    if trained := next((one for one in found if one.trained), None):
        trained.base["begin"] = 1
    return found


def passes(rows: float, settings: TrainingConfig) -> tuple[float, float]:
    """Micro-batches and optimizer steps of a training, over all epochs.

    Examples:
        >>> passes(10, TrainingConfig.model_validate({"epochs": 2, "batch_size": 4, "micro_batch_size": 2}))
        (10, 6)
    """
    count, micro = round(rows), settings.rows_at_once
    return settings.epochs * math.ceil(count / micro), settings.epochs * math.ceil(count / settings.batch_size)


def held_out_rows(config: Config, rows: int) -> float:
    """How many of a reference set's rows diagnosis measures."""
    return min(config.references.holdout * rows, config.diagnosis.rows)


def anchored_rows(config: Config, custom: Counted) -> float:
    """Share of the custom rows in which a token is anchored, so that the base reads them too.

    Where tokens are dropped by their own scores they lie anywhere, so nearly every row has one; where the posterior
    finds them they lie together, in as many rows as the scores will say: ``UNKNOWN_ANCHORED_ROWS``.
    """
    settings, d = config.finetune, config.selection.discard_fraction
    if not settings.anchors or d == 0:
        return 1.0 if settings.anchors and settings.anchor_first else 0.0
    if settings.anchor_first:
        return 1.0
    if isinstance(d, str) or config.selection.evidence == "posterior":
        return UNKNOWN_ANCHORED_ROWS
    return 1 - (1 - d) ** (custom.response_tokens / max(custom.rows, 1))


_OF_BASE = ("references", "score", "refine", "finetune", "evaluate", "diagnose")


def _reference_work(config: Config, by: Sets) -> list[Work]:
    """What the references' model does: it learns, and reads the custom set and the held-out rows."""
    custom, rounds, settings = by["custom"], config.refinement.rounds, config.references
    own, stays = config.data.utility.of_custom, {"harmful": 1.0, "utility": 1 - config.data.utility.trimmed_share}
    learnt = {name: (1 - settings.holdout) * stays[name] * by[name].rows for name in REFERENCES}
    tokens = {name: (1 - settings.holdout) * stays[name] * by[name].tokens for name in REFERENCES}
    trainings = [learnt["harmful"], *([learnt["utility"] / 2] * 2 if own else [learnt["utility"]])]
    trims = 2 * by["utility"].tokens if own else 0
    joined = min(config.refinement.samples_per_round, custom.rows)
    grown = [round_ * joined for round_ in range(1, rounds + 1)]
    trained = sum(tokens.values()) * settings.epochs
    trained_again = sum(tokens["harmful"] + rows * _mean_length(custom) for rows in grown) * settings.epochs
    once = custom.tokens + settings.holdout * sum(stays[name] * by[name].tokens for name in REFERENCES)
    reading: dict[Unit, float] = {"read": trims} if trims else {}
    return [
        Work("references", references={**_trainings(config, trainings), **reading}, read=trims, trained=trained),
        Work("score", references={"read": 2 * once}, read=2 * once),
        Work(
            "refine",
            references={**_trainings(config, (learnt["harmful"] + rows for rows in grown)), "read": rounds * once},
            read=rounds * once,
            trained=trained_again,
        ),
    ]


def _diagnosis_work(config: Config, sets: Sets, models: int) -> Work:
    """Held-out rows under each model; answers to the harmful ones' prompts, and, of refused ones, both read."""
    rows = {name: held_out_rows(config, sets[name].rows) for name in REFERENCES}
    harmful = sets["harmful"]
    answers = harmful.response_tokens / max(harmful.rows, 1)
    beginning = _mean_length(harmful) - answers + min(OWN_TOKENS, answers)
    compared = 2 * models * UNKNOWN_REFUSED * rows["harmful"] * beginning
    return Work(
        "diagnose",
        {"diverge": models * sum(rows.values()), "own_answer": rows["harmful"], "read": compared},
        read=models * sum(rows[name] * _mean_length(sets[name]) for name in REFERENCES) + compared,
    )


def _trainings(config: Config, rows: Iterable[float]) -> dict[Unit, float]:
    counts = [passes(count, config.references) for count in rows]
    return {"reference_batch": sum(batches for batches, _ in counts), "reference_step": sum(s for _, s in counts)}


def _mean_length(counts: Counted) -> float:
    return counts.tokens / max(counts.rows, 1)


def _at_once(work: Work) -> Work:
    """Of a run without a proxy: the references' model is the base, which is loaded once."""
    return Work(work.stage, {**work.references, **work.base}, {}, work.read, work.trained)
