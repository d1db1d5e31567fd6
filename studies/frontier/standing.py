"""Who stands beside whom: rivals and controls, and in what ours is better than, equal to or worse than each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from studies.frontier.curves import Curves
from studies.frontier.entries import AGAIN, DEFAULT, OURS, method_of
from studies.frontier.settings import TARGETS

from tosslm.methods.needs import GUARD
from tosslm.statistics import Interval

WANTED = 0.9
"""Share of the gain at which methods are told apart, where they have it."""
FEWER = ("over_refused", "attacked", "begun", "incoherent")
"""Metrics of which less is better; of refusals, and of the loss of harmful text, more is."""


@dataclass(frozen=True, slots=True)
class Tally:
    """How ours stands against the others in one figure, at equal utility.

    Attributes:
        better: entries that ours is better than; the interval of the difference excludes zero.
        equal: entries from which nothing tells it.
        worse: entries that are better than ours.
        unreached: entries that never have this share of the gain, however they are scaled.
    """

    better: tuple[str, ...]
    equal: tuple[str, ...]
    worse: tuple[str, ...]
    unreached: tuple[str, ...]


def ours(curves: Curves) -> str | None:
    """The entry that stands for this project: the default, or else the first of its entries that was measured."""
    own = [entry for entry in curves.table if entry == DEFAULT or entry.startswith(OURS)]
    return DEFAULT if DEFAULT in own else next(iter(own), None)


def others(curves: Curves) -> list[str]:
    """Rivals and controls: all that are not this project's own, but for what knows the harm."""
    return [entry for entry in curves.table if method_of(entry).badge != "own" and not entry.startswith("oracle")]


def kin(curves: Curves, own: str) -> list[str]:
    """Other settings of this project's own; not the same once more."""
    return [entry for entry in curves.table if method_of(entry).badge == "own" and entry not in (own, AGAIN)]


def target_of(curves: Curves, *entries: str) -> float:
    """The share of the gain at which entries are read: the greatest of ``TARGETS`` up to ``WANTED`` that all have.

    Who learns from harmful rows too has more to learn from; what the oracle never has is not asked of others.
    """
    return max(
        (
            share
            for share in TARGETS
            if share <= WANTED
            and all(entry in curves.table and curves.reading(entry, "utility", share) for entry in entries)
        ),
        default=min(TARGETS),
    )


def tally(curves: Curves, own: str, rivals: Sequence[str], metric: str, target: float) -> Tally:
    """Ours against each of the others in a metric."""
    kept: dict[str, list[str]] = {"better": [], "equal": [], "worse": [], "unreached": []}
    for entry in rivals:
        kept[_stands(curves.difference(own, entry, metric, target), metric in FEWER)].append(entry)
    return Tally(*(tuple(kept[name]) for name in ("better", "equal", "worse", "unreached")))


def _stands(difference: Interval | None, fewer: bool) -> str:
    if difference is None:
        return "unreached"
    above, below = difference.low > 0, difference.high < 0
    return "equal" if not above and not below else "better" if above != fewer else "worse"


def listed(names: Sequence[str]) -> str:
    """Entries as a page names them."""
    guarded = {name for name in names if GUARD in method_of(name).needs}
    return ", ".join(f"`{name}`" + " (with a guard)" * (name in guarded) for name in names) if names else "none"
