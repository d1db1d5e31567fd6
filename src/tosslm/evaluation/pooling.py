"""Several seeds of a method as one: means over seeds and prompts, and differences on the same of both. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tosslm.evaluation.measures import Sample, Samples
from tosslm.statistics import Interval, mean_interval, paired_difference


@dataclass(frozen=True, slots=True)
class Pool:
    """One metric of one method over seeds.

    Attributes:
        ids: prompts that every seed has ``[N]``.
        values: float64 ``[S, N]``.
        weights: float64 ``[N]`` or None.
    """

    ids: list[str]
    values: np.ndarray
    weights: np.ndarray | None


def pool(samples: Sequence[Samples]) -> dict[str, Pool]:
    """Each metric that all seeds have, on the prompts that all of them have.

    Args:
        samples: those of each seed.
    """
    names = [name for name in samples[0] if all(name in other for other in samples[1:])]
    pools = {name: _pool([sample[name] for sample in samples]) for name in names}
    return {name: pooled for name, pooled in pools.items() if pooled.ids}


def pooled_intervals(pools: Mapping[str, Pool], seed: int = 0) -> dict[str, Interval]:
    """Each metric with its interval over seeds and prompts."""
    return {name: mean_interval(pooled.values, pooled.weights, seed=seed) for name, pooled in pools.items()}


def pooled_differences(a: Mapping[str, Pool], b: Mapping[str, Pool], seed: int = 0) -> dict[str, Interval]:
    """Mean of ``a`` minus mean of ``b`` for each metric of both, on the prompts (and seeds) of both, paired.

    Where one method has a single model and the other several seeds, as the base has, it stands against each of them.
    """
    differences = {}
    for name in a:
        if name not in b:
            continue
        one, two = a[name], b[name]
        shared = set(two.ids)
        common = [id_ for id_ in one.ids if id_ in shared]
        if not common or (len(one.values) != len(two.values) and 1 not in (len(one.values), len(two.values))):
            continue
        left, right = np.broadcast_arrays(_rows_of(one, common), _rows_of(two, common))
        weights = None if one.weights is None else _chosen(one.ids, one.weights, common)
        differences[name] = paired_difference(left, right, weights, seed=seed)
    return differences


def _pool(samples: Sequence[Sample]) -> Pool:
    shared = set.intersection(*(set(sample.ids) for sample in samples))
    ids = [id_ for id_ in samples[0].ids if id_ in shared]
    values = np.stack([_chosen(sample.ids, sample.values, ids) for sample in samples])
    weights = samples[0].weights
    return Pool(ids, values, None if weights is None else _chosen(samples[0].ids, weights, ids))


def _rows_of(pooled: Pool, ids: Sequence[str]) -> np.ndarray:
    place = {id_: i for i, id_ in enumerate(pooled.ids)}
    return pooled.values[:, [place[id_] for id_ in ids]]


def _chosen(ids: Sequence[str], values: np.ndarray, wanted: Sequence[str]) -> np.ndarray:
    place = {id_: i for i, id_ in enumerate(ids)}
    return values[[place[id_] for id_ in wanted]]
