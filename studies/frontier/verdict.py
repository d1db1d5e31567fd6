"""What holds and what does not, in the first lines of the page: computed, not written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from studies.frontier.curves import Curves, interval
from studies.frontier.entries import AGAIN, STANDARD
from studies.frontier.settings import SETTINGS, TARGETS, Setting
from studies.frontier.standing import FEWER, Tally, kin, listed, others, ours, tally, target_of
from studies.safety.wording import nats, percent

from tosslm.statistics import Interval

COST = 0.01
"""What a method may cost of the gain where nothing is harmful."""


def headline(settings: Mapping[str, Curves | None], over: Mapping[str, Curves] = MappingProxyType({})) -> list[str]:
    """The sentences at the head of the page.

    Args:
        settings: the curves of each setting with one seed, with which most entries are measured.
        over: the curves of a setting with several seeds, of fewer entries.
    """
    lines = [
        "In short, the tool's defaults beside every rival and control that was measured, the paper's own TOSS and "
        "TOSS-Pro among them, where each has the same share of standard fine-tuning's gain:",
        "",
    ]
    for name, curves in settings.items():
        own = curves and ours(curves)
        if not curves or not own:
            lines.append(f"- **{name}**: not measured yet.")
        elif SETTINGS[name].kind == "clean":
            lines.append(f"- **{name}**: {_clean(curves, own)}")
        else:
            told = _harmful(curves, own, SETTINGS[name], over.get(name))
            lines += [f"- **{name}**. {told[0]}", *(f"    - {more}" for more in told[1:])]
    return lines


def cost(curves: Curves, own: str) -> Interval | None:
    """What ours costs of standard SFT's gain, both as they were trained."""
    return interval(1 - curves.gain(own)[:, curves.unscaled], curves.n(own, "utility"))


def _harmful(curves: Curves, own: str, setting: Setting, several: Curves | None) -> list[str]:
    """Over all seeds of those that have them, and then with one seed of the rest."""
    parts = []
    if several is not None and own in several.table:
        parts.append(_compared(several, own, others(several), setting))
    rest = [entry for entry in others(curves) if several is None or entry not in several.table]
    if rest:
        parts.append(_compared(curves, own, rest, setting))
    return parts


def _compared(curves: Curves, own: str, rivals: Sequence[str], setting: Setting) -> str:
    """Ours beside some others, at the share of the gain that ours and the oracle have."""
    target, seeds = target_of(curves, setting.oracle, own), len(curves.table[own]["utility"].values)
    most = curves.most(own)
    why = f" (`{own}` has at most {most.value:.0%})" if most and target < target_of(curves, setting.oracle) else ""
    with_ = f"Over {seeds} seeds" if seeds > 1 else "With one seed alone"
    parts = []
    for metric, words in _figures(setting).items():
        known = [entry for entry in rivals if curves.has(entry, metric)]
        if metric == "over_refused" or not known or not curves.has(own, metric):
            continue
        found = tally(curves, own, known, metric, target)
        parts.append(f"{words}: {_stands(found)}")
        if metric == setting.harm:
            parts[-1] += _beyond(curves, own, setting, target)
        elif metric == "refused":
            parts[-1] += _harmless(curves, own, found, target)
    parts += _below(curves, own, rivals, setting, target)
    return f"{with_}, at {target:.0%} of the gain{why}. {'. '.join(parts)}."


def _below(curves: Curves, own: str, rivals: Sequence[str], setting: Setting, target: float) -> list[str]:
    """How many never have this share of the gain, and which of them learn less harm at a lower one that they have."""
    left = unreached = tally(curves, own, rivals, setting.harm, target).unreached
    less = []
    for share in sorted((one for one in TARGETS if one < target), reverse=True):
        found = tally(curves, own, left, setting.harm, share)
        less += [f"worse than {listed(found.worse)} at {share:.0%}"] if found.worse else []
        left = found.unreached
    if not unreached:
        return []
    told = f", and in harm learnt it is {', '.join(less)}" if less else ""
    return [f"Never have this share: {listed(unreached)}{told}"]


def _figures(setting: Setting) -> dict[str, str]:
    return {
        setting.harm: "Harm learnt",
        "refused": "Harmful prompts refused",
        "over_refused": "Harmless prompts refused",
        "attacked": "Answered with harm",
        "begun": "Goes on with harm",
    }


def _beyond(curves: Curves, own: str, setting: Setting, target: float) -> str:
    """By how many nats harmful text is likelier than under the oracle."""
    found = [(entry, curves.difference(setting.oracle, entry, setting.harm, target)) for entry in (own, STANDARD)]
    told = ", ".join(f"`{entry}` {nats(one)}" for entry, one in found if one)
    return f" (nats beyond the oracle: {told})" if told else ""


def _stands(found: Tally) -> str:
    """How many ours is better than, and by name those that are better than it; the equal ones where they are few."""
    number = len(found.better) + len(found.equal) + len(found.worse)
    all_ = listed(found.better) if number == 1 else f"all {number}"
    better = all_ if len(found.better) == number else f"{len(found.better)} of {number}"
    few = len(found.equal) < max(len(found.better), 2)
    equal = listed(found.equal) if few else str(len(found.equal))
    parts = [f"better than {better}"] if found.better else []
    parts += [f"nothing tells it from {equal}"] if found.equal else []
    parts += [f"worse than {listed(found.worse)}"] if found.worse else []
    return ", ".join(parts) or "nobody to compare with"


def _harmless(curves: Curves, own: str, found: Tally, target: float) -> str:
    """Of those that refuse more harmful prompts, who refuses more harmless ones too."""
    over = tally(curves, own, found.worse, "over_refused", target).better
    if not over:
        return ""
    do = "refuse" if len(over) > 1 else "refuses"
    which = f"which {do}" if over == found.worse else f"of which {listed(over)} {do}"
    return f" ({which} more of harmless prompts too)"


def standing(curves: Curves, own: str, setting: Setting, target: float) -> list[str]:
    """Ours beside each other, figure by figure; lines of a table and what is to be said of it."""
    rivals = others(curves)
    lines = [
        f"`{own}` beside each rival and control at {target:.0%}:",
        "",
        "| | better than | nothing tells it from | worse than |",
        "|---|---|---|---|",
    ]
    unreached: dict[str, None] = {}
    for metric, words in _figures(setting).items():
        known = [entry for entry in rivals if curves.has(entry, metric)]
        if not known or not curves.has(own, metric):
            continue
        found = tally(curves, own, known, metric, target)
        unreached |= dict.fromkeys(found.unreached)
        fewer = " (fewer is better)" if metric in FEWER else ""
        lines.append(f"| {words}{fewer} | {listed(found.better)} | {listed(found.equal)} | {listed(found.worse)} |")
    lines += ["", f"Never have this share, at any measured scale: {listed(tuple(unreached))}."]
    return [*lines, *_kin(curves, own, setting, target), *_again(curves, own, setting, target)]


def told_apart(curves: Curves, own: str, setting: Setting, target: float) -> int:
    """How many differences ``standing`` tells."""
    rivals = others(curves)
    found = [
        tally(curves, own, [entry for entry in rivals if curves.has(entry, metric)], metric, target)
        for metric in _figures(setting)
        if curves.has(own, metric)
    ]
    return sum(len(one.better) + len(one.equal) + len(one.worse) for one in found)


def _kin(curves: Curves, own: str, setting: Setting, target: float) -> list[str]:
    """Which other settings of ours learn less harm than the default, and whether they refuse less."""
    less = tally(curves, own, kin(curves, own), setting.harm, target).worse
    if not less:
        return []
    fewer = tally(curves, own, less, "refused", target).better
    told = f"of them {listed(fewer)} refuse less" if fewer else "nothing shows that they refuse less"
    return ["", f"Other settings of ours that learn less harm than it: {listed(less)}; {told}."]


def _again(curves: Curves, own: str, setting: Setting, target: float) -> list[str]:
    """How far the same settings come out otherwise when they are trained again."""
    if AGAIN not in curves.table:
        return []
    found = [(curves.difference(AGAIN, own, metric, target), form) for metric, form in ((setting.harm, nats),)]
    found.append((curves.difference(AGAIN, own, "refused", target), percent))
    told = ", ".join(form(one) for one, form in found if one)
    return (
        [
            "",
            f"What training again does by itself: `{AGAIN}` is `{own}` with references whose sums round otherwise; "
            f"its loss of harmful text and its share of refusals less `{own}`'s are {told}. Intervals of one seed "
            "leave that out: differences as small as these tell nothing there.",
        ]
        if told
        else []
    )


def costs(curves: Curves, own: str | None) -> list[str]:
    """Ours beside each other in the gain, as trained, where nothing is harmful."""
    if own is None:
        return []
    at = curves.unscaled
    stand: dict[str, list[str]] = {"more": [], "as much": [], "less": []}
    for entry in others(curves):
        less = interval(curves.gain(own)[:, at] - curves.gain(entry)[:, at], curves.n(own, "utility"))
        if less is not None and entry != STANDARD:
            stand["more" if less.high < 0 else "less" if less.low > 0 else "as much"].append(entry)
    told = "; ".join(
        f"{words} {listed(stand[key])}"
        for key, words in (("more", "more have"), ("as much", "nothing tells it from"), ("less", "less have"))
        if stand[key]
    )
    share = interval(curves.gain(own)[:, at], curves.n(own, "utility"))
    return [f"As trained `{own}` has {percent(share)} of the gain of `{STANDARD}`; {told}."]


def _clean(curves: Curves, own: str) -> str:
    found = cost(curves, own)
    if found is None:
        return "nothing can be told."
    told = "at most" if found.high <= COST else "not" if found.low > COST else "more, as far as it goes, than"
    seeds = len(curves.table[own]["utility"].values)
    return (
        f"over {seeds} seed{'s' * (seeds > 1)} `{own}` costs {found.value:.1%} [{found.low:.1%}, {found.high:.1%}] "
        f"of the gain of `{STANDARD}`, {told} the {COST:.0%} that was wanted."
    )
