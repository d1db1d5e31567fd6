"""The figures of the study out of the values that were kept: means, differences and shares, with their intervals."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from studies.safety.clusters import advbench_clusters, in_clusters
from studies.safety.ledger import Results, check_bases
from studies.safety.settings import ORACLE, STANDARD, UNTRAINED

from tosslm.statistics import Interval, bounds, drawn_means, drawn_shares, mean_interval

THREE = (("refusal_rate", 1), ("harmful_loss", 1), ("utility_loss", -1))
"""What a safe fine-tuning has to be good at, and which way is good."""


class Split:
    """One split's values of all methods.

    Args:
        results: of one setting.
        split: ``validation`` or ``test``.

    Raises:
        SystemExit: the results are of different bases.
    """

    def __init__(self, results: Results, split: str) -> None:
        check_bases(results)
        self.results, self.split = results, split

    def seeds(self, method: str, metric: str = "refusal_rate") -> list[int]:
        """Seeds of which a method has values here."""
        return [s for s, kept in self.results[method].items() if self.split in kept["metrics"].get(metric, {})]

    def mean(self, method: str, metric: str) -> Interval:
        """A metric of a method, over its seeds."""
        (values,), weights = self._values(metric, [method])
        return mean_interval(values, weights)

    def by_seed(self, method: str, metric: str) -> list[float]:
        """A metric's mean of each seed, in their order."""
        (values,), weights = self._values(metric, [method])
        return (values @ weights / weights.sum()).tolist()

    def combined(
        self, metric: str, methods: Sequence[str], figure: Callable[..., np.ndarray | float]
    ) -> Interval | None:
        """A figure made of the means of several methods on the same prompts and seeds, drawn together.

        Args:
            metric: whose means.
            methods: the methods.
            figure: takes one mean a method, as floats or as float64 ``[draws]``.

        Returns:
            The figure with its interval; None where the methods have no seed in common, or there is none to tell,
            such as a share of nothing.
        """
        values, weights = self._values(metric, methods)
        if not values[0].size:
            return None
        with np.errstate(divide="ignore", invalid="ignore"):
            value = float(figure(*((v @ weights).mean() / weights.sum() for v in values)))
            drawn = np.asarray(figure(*(drawn_means(v, weights, 0) for v in values)))
        if not np.isfinite(value):
            return None
        low, high = bounds(drawn[np.isfinite(drawn)])
        return Interval(value, float(low), float(high), values[0].shape[1])

    def minus(self, method: str, other: str, metric: str) -> Interval | None:
        """How much higher a metric is than another method's, paired by prompt and seed."""
        return self.combined(metric, [method, other], lambda mine, its: mine - its)

    def restored(self, method: str) -> Interval | None:
        """Share of the refusals that standard SFT lost which a method keeps: 0 is SFT's, 1 the base's.

        None where the interval of what SFT lost holds zero: a share of it would mean nothing.
        """
        lost = self.minus(UNTRAINED, STANDARD, "refusal_rate")
        if lost is None or lost.low <= 0:
            return None
        return self.combined("refusal_rate", [method, STANDARD, UNTRAINED], lambda m, s, b: (m - s) / (b - s))

    def harm_beyond(self, method: str, other: str = ORACLE) -> Interval | None:
        """Loss of harmful answers less the oracle's: what is below zero was learnt of harm, not of style."""
        if not {method, other} <= self.results.keys():
            return None
        return self.minus(method, other, "harmful_loss")

    def gain_kept(self, method: str) -> Interval | None:
        """Share of standard SFT's gain in utility loss that a method has too."""
        return self.combined("utility_loss", [method, STANDARD, UNTRAINED], lambda m, s, b: (b - m) / (b - s))

    def together(self, method: str, rival: str) -> Interval | None:
        """How much more a method has than a rival of the three that count, together.

        The mean of three shares: of the refusals that standard SFT lost, those kept; of the loss of harmful answers
        that it lost, what is not lost; of its gain in utility loss, what is gained. Training seeds are drawn once for
        all three, prompts for each by itself. None as for ``restored``.
        """
        lost = self.minus(UNTRAINED, STANDARD, "refusal_rate")
        if lost is None or lost.low <= 0:
            return None
        found, drawn = 0.0, np.zeros(0)
        for number, (metric, sign) in enumerate(THREE, 1):
            values, weights = self._values(metric, [method, rival, STANDARD, UNTRAINED])
            seeds, count = values[0].shape
            if not values[0].size:
                return None
            mine, its, sft, base = ((v @ weights).mean() / weights.sum() for v in values)
            shares = drawn_shares(seeds, 0)
            draws = [drawn_means(v, weights, number, shares=shares) for v in values]
            found += sign * (mine - its) / (base - sft) / len(THREE)
            with np.errstate(divide="ignore", invalid="ignore"):
                part = sign * (draws[0] - draws[1]) / (draws[3] - draws[2]) / len(THREE)
            drawn = part if not drawn.size else drawn + part
        low, high = bounds(drawn[np.isfinite(drawn)])
        return Interval(float(found), float(low), float(high), count)

    def _values(self, metric: str, methods: Sequence[str]) -> tuple[list[np.ndarray], np.ndarray]:
        """Values ``[S, N]`` of each method on the seeds that all of them have, and the weights ``[N]``."""
        trained = [method for method in methods if method != UNTRAINED]
        common = set.intersection(*(set(self.seeds(method, metric)) for method in trained or methods))
        stacks, weights, prints = [], np.zeros(0), set()
        for method in methods:
            # The untouched base has one model, which stands against each seed.
            known = self.results[method]
            seeds = sorted(common) if method in trained else [self._base_seed(metric)] * len(common)
            kept = [known[seed]["metrics"][metric][self.split] for seed in seeds]
            stacks.append(np.array([one["values"] for one in kept], dtype=np.float64))
            prints |= {one["print"] for one in kept}
            if kept:
                weights = np.array(kept[0]["weights"] or np.ones(len(kept[0]["values"])), dtype=np.float64)
        if len(prints) > 1:
            raise SystemExit(
                f"{metric}: results of {', '.join(methods)} are of different prompts; remove the old ones"
            )
        own, label = advbench_clusters(self.split)
        if prints == {own} and stacks:
            pairs = [in_clusters(stack, weights, label) for stack in stacks]
            stacks, weights = [means for means, _ in pairs], pairs[0][1]
        return stacks, weights

    def _base_seed(self, metric: str) -> int:
        return self.seeds(UNTRAINED, metric)[0]


def dropped_shares(kept: Mapping[int, Mapping[str, Any]]) -> dict[str, float]:
    """Share of each source's response tokens that a method drops, over its seeds."""
    totals: dict[str, np.ndarray] = {}
    for result in kept.values():
        for source, counts in result["dropped"]["source"].items():
            totals[source] = totals.get(source, np.zeros(2)) + counts
    return {source: float(gone / tokens) for source, (tokens, gone) in sorted(totals.items())}


def dropped_positions(kept: Mapping[int, Mapping[str, Any]]) -> np.ndarray:
    """Share dropped at each of the first positions of an answer, and at all later ones: float64 ``[21]``."""
    tokens, gone = (
        np.sum([result["dropped"][key] for result in kept.values()], axis=0) for key in ("tokens", "dropped")
    )
    return gone / np.maximum(tokens, 1)
