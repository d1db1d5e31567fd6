"""A plan's stages: seconds, tokens, memory, disk and money, and what was assumed; arithmetic alone."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from tosslm.config import Config, ScoringConfig
from tosslm.model.shape import Shape
from tosslm.planning.sizes import weight_bytes
from tosslm.planning.work import UNKNOWN_ANCHORED_ROWS, UNKNOWN_REFUSED, Counted, Pace, Work, passes
from tosslm.text import duration, memory_size
from tosslm.training.held import MOST_BYTES


def assumed_of_quantized(config: Config, shape: Shape) -> list[str]:
    """What is told of a base in four bits beside its stages; nothing of another.

    Args:
        config: the config.
        shape: the base's.
    """
    if config.model.quantize is None:
        return []
    said = [
        f"model.quantize: {config.model.quantize}: {shape.four_bit / 1e6:,.1f}M of {shape.parameters / 1e6:,.1f}M "
        f"weights in 4 bits, {memory_size(weight_bytes(shape))} of weights instead of "
        f"{memory_size(shape.parameters * shape.bytes_per_value)}. Losses, answers and training are of that "
        "model. The time of taking weights out of 4 bits is counted with --measure alone."
    ]
    if config.model.adapter:
        said.append(
            "model.adapter is merged before the base is quantised: while it loads, "
            f"{memory_size(shape.parameters * shape.bytes_per_value)} more lie in the machine's own memory."
        )
    return said


def stage_records(
    work: Sequence[Work],
    base: Pace,
    references: Pace,
    sizes: Mapping[str, tuple[float, float]],
    price: float | None = None,
) -> list[dict[str, Any]]:
    """One record a stage.

    Args:
        work: of each stage.
        base: seconds of the base's units.
        references: seconds of the units of the model that references are trained on.
        sizes: memory and disk of each stage, in bytes.
        price: of an hour of the device, in any currency.

    Returns:
        ``stage``, ``tokens_read``, ``tokens_trained``, ``seconds``, ``memory_bytes``, ``disk_bytes``, and with a
        price ``cost``.

    Examples:
        >>> work = Work("score", {"read": 7200.0}, read=7200)
        >>> (score,) = stage_records([work], {"read": 0.5}, {}, {"score": (9, 4)}, price=3)
        >>> score["seconds"], score["cost"]
        (3600.0, 3.0)
    """
    records = []
    for one in work:
        seconds, (memory, disk) = one.seconds(base, references), sizes[one.stage]
        record: dict[str, Any] = {
            "stage": one.stage,
            "tokens_read": round(one.read),
            "tokens_trained": round(one.trained),
            "seconds": float(f"{seconds:.3g}"),  # a set of a few rows takes less than a tenth of one
            "memory_bytes": round(memory),
            "disk_bytes": round(disk),
        }
        if price is not None:
            record["cost"] = float(f"{seconds / 3600 * price:.3g}")
        records.append(record)
    return records


def total(records: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The seconds of all stages, their disk, and with a price their cost."""
    keys = [key for key in ("seconds", "disk_bytes", "cost") if records and key in records[0]]
    return {key: float(f"{sum(record[key] for record in records):.6g}") for key in keys}


def assumed(
    config: Config, custom: Counted, base: Pace, *, left_out: Collection[str] = (), own_work: str | None = None
) -> list[str]:
    """What the seconds rest on that only the run will tell, and what they leave out.

    Args:
        config: the config.
        custom: counts of the custom set.
        base: seconds of the base's units.
        left_out: stages that the run has not.
        own_work: the name of a method that does things of its own; None for none.
    """
    said, evaluation = [], config.evaluation
    anchors = config.finetune.anchors and "finetune" not in left_out
    if anchors and not config.finetune.anchor_first and config.selection.kind == "posterior":
        batches, steps = passes(custom.rows, config.finetune)
        least, most = (
            batches * base[unit] + steps * base["finetune_step"] for unit in ("finetune_batch", "anchored_batch")
        )
        said.append(
            f"finetune: {UNKNOWN_ANCHORED_ROWS:.0%} of the rows are taken to have a dropped token, which the base "
            f"reads again; scores will tell. With none of them it takes {duration(least)}, with all {duration(most)}."
        )
    if anchors and config.finetune.epochs > 1:
        said.append(
            "finetune: what the base says at anchored tokens is held in the machine's own memory, which the table "
            f"does not count, where {memory_size(MOST_BYTES)} are enough for it; then the base reads in the first "
            "epoch alone, and it is quicker."
        )
    if "references" not in left_out and config.references.harmful_tokens == "guard":
        said.append("references: the guard that reads the harmful rows is not counted.")
    if config.scoring.engine == "vllm" and "score" not in left_out:
        said.append(
            "score: how fast the server is that scoring.engine: vllm starts is not known; the time is this program's "
            "own, and does not count the server's start and its check."
        )
    if config.scoring.engine == "ray" and "score" not in left_out:
        said.append(
            "score: the time is of this process alone; scoring.engine: ray shares it among "
            f"{_workers(config.scoring)}. Their start, each with a model of its own to load, is not counted."
        )
    if evaluation.asks:
        said.append(f"evaluate: every answer is taken to run to max_new_tokens, {evaluation.max_new_tokens}.")
    if "diagnose" not in left_out and config.references.holdout:
        said.append(
            f"diagnose: the base is taken to refuse {UNKNOWN_REFUSED:.0%} of the held-out harmful prompts; of others "
            "less is read."
        )
    others = {
        "tasks of lm-eval": evaluation.lm_eval,
        "the classifier": evaluation.classifier,
        "the judge": evaluation.judge,
    }
    if left_out := [name for name, asked in others.items() if asked]:
        said.append(f"evaluate: {' and '.join(left_out)} are not counted.")
    if own_work:
        said.append(f"What the method {own_work} does beside the pipeline's own work is not counted.")
    return said


def _workers(scoring: ScoringConfig) -> str:
    """Who of Ray's shares the scoring."""
    if scoring.workers == "auto":
        return "as many workers as the cluster turns out to have room for"
    return f"{scoring.workers} worker{'s' if scoring.workers > 1 else ''}, where the cluster has room for them"
