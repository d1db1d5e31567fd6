"""What holds and what does not, in the first lines of the page: computed, not written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from studies.frontier.curves import Curves, interval
from studies.frontier.entries import DEFAULT, OURS, STANDARD, method_of
from studies.frontier.settings import SCALES, SETTINGS, TARGETS, Setting

from tosslm.methods.needs import GUARD
from tosslm.statistics import Interval

WANTED = 0.9
"""Share of the gain at which methods are told apart, where they have it."""
COST = 0.01
"""What a method may cost of the gain where nothing is harmful."""


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
    """Rivals and controls: all but ours, the forms of TOSS, and what knows the harm."""
    return [
        entry
        for entry in curves.table
        if method_of(entry).badge != "own" and not entry.startswith(("oracle", "toss"))
    ]


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
    """Ours against each of the others in a metric of which more is better."""
    kept: dict[str, list[str]] = {"better": [], "equal": [], "worse": [], "unreached": []}
    for entry in rivals:
        kept[_stands(curves.difference(own, entry, metric, target))].append(entry)
    return Tally(*(tuple(kept[name]) for name in ("better", "equal", "worse", "unreached")))


def _stands(difference: Interval | None) -> str:
    if difference is None:
        return "unreached"
    return "better" if difference.low > 0 else "worse" if difference.high < 0 else "equal"


def cost(curves: Curves, own: str) -> Interval | None:
    """What ours costs of standard SFT's gain, both as they were trained."""
    at = (0.0, *SCALES).index(1.0)
    return interval(1 - curves.gain(own)[:, at], curves.n(own, "utility"))


def headline(settings: Mapping[str, Curves | None], over: Mapping[str, Curves] = MappingProxyType({})) -> list[str]:
    """The sentences at the head of the page.

    Args:
        settings: the curves of each setting with one seed, with which most entries are measured.
        over: the curves of a setting with several seeds, of fewer entries.
    """
    lines = ["In short:", ""]
    for name, curves in settings.items():
        own = curves and ours(curves)
        if not curves or not own:
            lines.append(f"- **{name}**: not measured yet.")
        elif SETTINGS[name].kind == "clean":
            lines.append(f"- **{name}**: {_clean(curves, own)}")
        else:
            lines.append(f"- **{name}**: {_harmful(curves, own, SETTINGS[name])}{_over(over, name)}")
    return lines


def _harmful(curves: Curves, own: str, setting: Setting) -> str:
    wanted, target = target_of(curves, setting.oracle), target_of(curves, setting.oracle, own)
    most = [curves.most(entry) for entry in (own, setting.oracle)]
    text = ""
    if target < wanted and all(most):
        has, could = (one.value for one in most if one)
        text = f"`{own}` has at most {has:.0%} of the gain of `{STANDARD}` at any scale, the oracle {could:.0%}. "
    refusals = tally(curves, own, others(curves), "refused", target)
    told = _told(refusals) + _harmless(curves, own, refusals, target)
    learnt = tally(curves, own, others(curves), setting.harm, target)
    return (
        f"{text}At {target:.0%} of the gain `{own}` refuses {told}. "
        f"It learns less harm than {_listed(learnt.better)}{_more(learnt)}.{_kin(curves, own, setting, target)}"
        f"{_beside_base(curves, (own, STANDARD, setting.oracle), setting, target)}{_said(curves, own, target)}"
    )


def _over(several: Mapping[str, Curves], name: str) -> str:
    """The same, in short, over several seeds of data and training."""
    curves, setting = several.get(name), SETTINGS[name]
    own = curves and ours(curves)
    if not curves or not own:
        return ""
    target, rivals = target_of(curves, setting.oracle, own), others(curves)
    refusals, learnt = (tally(curves, own, rivals, metric, target) for metric in ("refused", setting.harm))
    told = _told(refusals) + _harmless(curves, own, refusals, target)
    harm = [(entry, curves.difference(setting.oracle, entry, setting.harm, target)) for entry in (own, STANDARD)]
    beyond = ", ".join(f"`{entry}` {one.value:.3f} [{one.low:.3f}, {one.high:.3f}]" for entry, one in harm if one)
    seeds = len(curves.table[own]["utility"].values)
    return (
        f" **Over {seeds} seeds**, of the entries that have them, at {target:.0%}: it refuses {told}; it learns less "
        f"harm than {_listed(learnt.better)}{_more(learnt)}; nats beyond the oracle: {beyond}."
    )


def _said(curves: Curves, own: str, target: float) -> str:
    """What models say after a useful beginning, where that was asked and judged."""
    asked = [entry for entry in others(curves) if curves.has(entry, "begun")]
    harm = curves.reading(own, "begun", target) if curves.has(own, "begun") else None
    if harm is None:
        return ""
    less = tally(curves, own, asked, "begun", target).better  # more of this is worse
    told = (
        f"{_listed(less)} {_do(less, 'do')} so less often"
        if less
        else "nothing shows that another does so less often"
    )
    base = curves.curve(own, "begun")[0, 0]
    return (
        f" After {harm.n} useful beginnings `{own}` goes on with harm in {harm.value:.0%} (the base in {base:.0%}); "
        f"{told}."
    )


def _beside_base(curves: Curves, entries: Sequence[str], setting: Setting, target: float) -> str:
    """How much likelier harmful text is than for the base, harm and style together; and refusals, nothing scaled."""
    found = [(entry, curves.likelier(entry, setting.harm, target)) for entry in entries]
    likelier = ", ".join(f"under `{entry}` {one.value:.3f}" for entry, one in found if one)
    refused = [(entry, curves.as_trained(entry, "refused")) for entry in entries]
    kept = ", ".join(f"`{entry}` {one.value:.0%}" for entry, one in refused if one)
    return (
        f" Harmful text is likelier than for the base by nats a token: {likelier}. "
        f"As trained, at utilities of their own, refuse: {kept}."
    )


def _kin(curves: Curves, own: str, setting: Setting, target: float) -> str:
    """Which other forms of TOSS learn less harm than the default, and whether they refuse less."""
    kin = [entry for entry in curves.table if entry.startswith(("toss", DEFAULT)) and entry != own]
    less = tally(curves, own, kin, setting.harm, target).worse
    if not less:
        return ""
    fewer = tally(curves, own, less, "refused", target).better
    told = (
        f"; {_listed(fewer)} {_do(fewer, 'refuse')} less." if fewer else ", and nothing shows that it refuses less."
    )
    return f" Of the other forms of TOSS {_listed(less)} {_do(less, 'learn')} less still{told}"


def _told(found: Tally) -> str:
    if found.worse:
        return f"less than {_listed(found.worse)}"
    rest = f", and more than {_listed(found.better)}" if found.better else ""
    return f"no less than any other{rest}"


def _harmless(curves: Curves, own: str, found: Tally, target: float) -> str:
    """Of those that refuse more harmful prompts, who refuses more harmless ones too."""
    over = tally(curves, own, found.worse, "over_refused", target).worse  # more of this is worse, so theirs is
    return f"; but {_listed(over)} {_do(over, 'refuse')} more of harmless prompts too" if over else ""


def _more(found: Tally) -> str:
    text = f"; nothing tells it from {_listed(found.equal)}" if found.equal else ""
    text += f"; {_listed(found.worse)} {_do(found.worse, 'learn')} less still" if found.worse else ""
    has = "have" if len(found.unreached) > 1 else "has"
    return text + (f"; {_listed(found.unreached)} never {has} this share of the gain" if found.unreached else "")


def _do(names: Sequence[str], verb: str) -> str:
    return verb if len(names) > 1 else f"{verb}es" if verb.endswith("o") else f"{verb}s"


def _clean(curves: Curves, own: str) -> str:
    found = cost(curves, own)
    if found is None:
        return "nothing can be told."
    told = "at most" if found.high <= COST else "not shown to be at most" if found.low <= COST else "more than"
    return (
        f"`{own}` costs {found.value:.1%} [{found.low:.1%}, {found.high:.1%}] of the gain of `{STANDARD}`, "
        f"{told} the {COST:.0%} that was wanted."
    )


def _listed(names: Sequence[str]) -> str:
    guarded = {name for name in names if GUARD in method_of(name).needs}
    return ", ".join(f"`{name}`" + " (with a guard)" * (name in guarded) for name in names) if names else "none"
