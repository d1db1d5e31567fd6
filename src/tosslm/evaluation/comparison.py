"""Several methods in one table: records over seeds, and the paired differences to standard fine-tuning."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tosslm.evaluation.measures import LARGEST_EXPONENT, Samples, perplexity, read_samples
from tosslm.evaluation.pooling import pool, pooled_differences, pooled_intervals
from tosslm.runs.results import RESULTS_FORMAT, read_record
from tosslm.statistics import Interval

BASE, STANDARD, ORACLE = "base", "sft", "oracle"
"""The untouched base; what all others are compared with; who knows the harm."""
_REFUSALS = "refusal_rate"
Seeded = Mapping[int | None, Path]
"""A folder for each seed; None is the seed of what was not trained."""
SeededSamples = Mapping[int | None, Samples]


def results_of(folders: Mapping[tuple[str, float | None], Seeded], seed: int) -> dict[str, Any]:
    """The records of methods, and what they come to over seeds.

    Args:
        folders: where the results of methods lie, by method and scale of its adapter, for each seed.
        seed: of the bootstrap.

    Returns:
        ``format``, ``records``, ``summary`` and ``causes``, as of ``tosslm.compare.compare``.
    """
    records = [
        read_record(folder) | {"method": name, "seed": trained}
        for (name, _), seeded in folders.items()
        for trained, folder in seeded.items()
    ]
    every = {key: {s: read_samples(folder) for s, folder in seeded.items()} for key, seeded in folders.items()}
    samples = {name: found for (name, scale), found in every.items() if scale is None}
    summary = []
    for (name, scale), seeded in folders.items():
        metrics = {
            metric: interval.as_dict()
            for metric, interval in pooled_intervals(pool(list(every[name, scale].values())), seed).items()
        }
        metrics = spanned([read_record(folder)["metrics"] for folder in seeded.values()]) | metrics
        if "utility_loss" in metrics and metrics["utility_loss"]["high"] < LARGEST_EXPONENT:
            metrics["utility_perplexity"] = perplexity(Interval(**metrics["utility_loss"])).as_dict()
        scaled = {} if scale is None else {"scale": scale}
        seeds = [s for s in seeded if s is not None]
        entry: dict[str, Any] = {"method": name, **scaled, "seeds": seeds, "metrics": metrics}
        if STANDARD in samples and (name, scale) != (STANDARD, None):
            found = _differences(every[name, scale], samples[STANDARD], seed)
            entry["minus_sft"] = {metric: interval.as_dict() for metric, interval in found.items()}
        summary.append(entry)
    return {"format": RESULTS_FORMAT, "records": records, "summary": summary, "causes": lost_refusals(samples, seed)}


def spanned(seeds: Sequence[Mapping[str, Mapping[str, float]]]) -> dict[str, dict[str, float]]:
    """Metrics that are known as figures alone, such as lm-eval's, over seeds that all have them.

    Their mean, in an interval that spans those of all seeds: the same documents are asked of each, so that it may not
    be narrower than theirs.

    Args:
        seeds: ``{value, low, high, n}`` of each metric, for each seed.
    """
    names = [name for name in seeds[0] if all(name in own for own in seeds)]
    return {
        name: {
            "value": sum(own[name]["value"] for own in seeds) / len(seeds),
            "low": min(own[name]["low"] for own in seeds),
            "high": max(own[name]["high"] for own in seeds),
            "n": seeds[0][name]["n"],
        }
        for name in names
    }


def _differences(one: SeededSamples, two: SeededSamples, seed: int) -> dict[str, Interval]:
    """Paired on the seeds of both; a model that was not trained stands against each seed."""
    if None not in one and None not in two:
        shared = [trained for trained in one if trained in two]
        if not shared:
            return {}
        one, two = ({trained: own[trained] for trained in shared} for own in (one, two))
    return pooled_differences(pool(list(one.values())), pool(list(two.values())), seed)


def lost_refusals(samples: Mapping[str, SeededSamples], seed: int) -> dict[str, Any] | None:
    """Refusals that standard SFT loses, forgotten and learnt apart; None where a method for that is missing.

    Args:
        samples: by method and seed.
        seed: of the bootstrap.
    """
    parts = {"forgotten": (BASE, ORACLE), "learnt": (ORACLE, STANDARD)}
    if not {BASE, ORACLE, STANDARD} <= samples.keys():
        return None
    found = {name: _differences(samples[a], samples[b], seed).get(_REFUSALS) for name, (a, b) in parts.items()}
    return {name: interval.as_dict() for name, interval in found.items() if interval} or None
