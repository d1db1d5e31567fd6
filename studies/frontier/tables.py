"""The tables of the page of results."""

from __future__ import annotations

from collections.abc import Sequence

from studies.frontier.curves import Curves, interval
from studies.frontier.entries import STANDARD, method_of
from studies.frontier.settings import TARGETS, Setting
from studies.frontier.standing import listed
from studies.safety.wording import nats, percent

from tosslm.statistics import Interval

NAMED = 6
"""So many entries are named, more are counted."""


def table(curves: Curves, entries: Sequence[str], setting: Setting, target: float) -> list[str]:
    names = {"attacked": "answered with harm", "begun": "goes on with harm", "incoherent": "incoherent"}
    attacked = [metric for metric in names if any(curves.has(entry, metric) for entry in entries)]
    head = [
        "trained",
        "badge",
        "most",
        "refused",
        "refused, harmless",
        "harm",
        "of base",
        *(names[metric] for metric in attacked),
    ]
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for entry in entries:
        badge = method_of(entry).badge
        cells = [percent(curves.most(entry))]
        cells += [percent(curves.reading(entry, metric, target)) for metric in ("refused", "over_refused")]
        cells += [nats(harm(curves, entry, setting, target)), nats(curves.likelier(entry, setting.harm, target))]
        cells += [
            percent(curves.reading(entry, m, target)) if curves.has(entry, m) else "not judged" for m in attacked
        ]
        lines.append(f"| `{entry}` | {badge} | {' | '.join(cell or 'not reached' for cell in cells)} |")
    return lines


def as_trained(curves: Curves, entries: Sequence[str], setting: Setting) -> list[str]:
    """What each adapter is as it leaves its training, where it has another utility than the next."""
    judged = {"attacked": "answered with harm", "incoherent": "incoherent"}
    known_ = [metric for metric in judged if curves.has(STANDARD, metric)]
    head = ["trained", "gain", "refused", "refused, harmless", "of base", *(judged[metric] for metric in known_)]
    lines = [
        f"As they were trained, each at a utility of its own, and the simplest control beside them, `{STANDARD}` "
        "with its adapter scaled and nothing else:",
        "",
        f"| {' | '.join(head)} |",
        f"|{'---|' * len(head)}",
    ]
    scaled = [scale for scale in curves.scales if 0.0 < scale < 1.0]
    for entry, scale in [*((STANDARD, scale) for scale in scaled), *((entry, 1.0) for entry in entries)]:
        at, curve = curves.scales.index(scale), curves.curve(entry, setting.harm)
        cells = [
            percent(interval(curves.gain(entry)[:, at], curves.n(entry, "utility"))),
            *(percent(curves.at_scale(entry, metric, at)) for metric in ("refused", "over_refused")),
            nats(interval(curve[:, 0] - curve[:, at], curves.n(entry, setting.harm))),
            *(percent(curves.at_scale(entry, m, at)) if curves.has(entry, m) else "not judged" for m in known_),
        ]
        name = f"`{entry}`" if scale == 1.0 else f"`{entry}` scaled to {scale:g}"
        lines.append(f"| {name} | {' | '.join(cell or 'cannot be told' for cell in cells)} |")
    return lines


def harm(curves: Curves, entry: str, setting: Setting, target: float) -> Interval | None:
    """By how much harmful text is likelier than under the oracle at the same gain, nats a token."""
    return curves.difference(setting.oracle, entry, setting.harm, target) if setting.oracle in curves.table else None


def others(curves: Curves, entries: Sequence[str], setting: Setting, told: Sequence[float]) -> list[str]:
    """The other shares in short."""
    lines = ["Refusals and harm at the other shares:", ""]
    shares = [share for share in TARGETS if share not in told]
    head = ["trained", *(f"{what} at {share:.0%}" for share in shares for what in ("refused", "harm"))]
    lines += [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for entry in entries:
        cells = []
        for share in shares:
            cells += [percent(curves.reading(entry, "refused", share)), nats(harm(curves, entry, setting, share))]
        lines.append(f"| `{entry}` | {' | '.join(cell or 'not reached' for cell in cells)} |")
    return lines


def drawn_lines(curves: Curves, entries: Sequence[str], targets: Sequence[float]) -> list[str]:
    """Of how many entries a reading lies between the base and the least scale that is measured, share by share."""
    told = []
    for target in sorted(targets, reverse=True):
        early = [entry for entry in entries if curves.gain(entry)[0, 1] >= target]
        named = f" ({listed(early)})" if 0 < len(early) <= NAMED else ""
        told.append(f"{len(early)} at {target:.0%}{named}")
    return [
        "",
        f"Of {len(entries)} entries so many are not measured but read off the straight line between the base and the "
        f"scale {curves.scales[1]:g}: {', '.join(told)}.",
    ]
