"""What the frontier study trains: each a method of ``toss compare``, and what it is given beyond a config."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tosslm.methods import registry
from tosslm.methods.method import AS_CONFIGURED, Method

UNTRAINED, STANDARD = "base", "sft"
OURS = "toss-posterior-anchor"
DEFAULT = "default"
"""The entry whose settings are the defaults of the tool."""
WITHOUT_UTILITY = f"{DEFAULT}, no utility set"
LIGHTER = f"{DEFAULT}, weight 1"
"""As the default, but for the anchor's weight, a third of it."""
AGAIN = f"{DEFAULT}, again"
"""The default once more, with references that a later version trained, whose sums round otherwise."""
NO_ANCHOR = f"{DEFAULT}, no anchor"
"""As the default, but for dropped tokens, which are ignored."""
ONE_ROUND = f"{DEFAULT}, one round"
"""As the default, but for a degraded reference that is refined once, as TOSS-Pro's."""
OF_MEAN = f"{OURS}, weight 0.5, no first tokens"
"""As the default, but for an anchor of the mean over anchored tokens, however few they are."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of a figure: a method, and what else than the setting's config it is given.

    Attributes:
        method: of ``toss compare``; None is what the config says, with the overrides.
        overrides: further keys of the config, by dotted key.
    """

    method: str | None
    overrides: dict[str, Any] = field(default_factory=dict)


def _weighted(method: str, weight: float, **overrides: Any) -> Entry:
    return Entry(method, {"finetune.anchor_weight": weight, **overrides})


_AUTO = {"selection.discard_fraction": "auto", "selection.evidence": "posterior"}
_EVEN = {**_AUTO, "selection.false_discard": 0.99}  # so much of useful text may go: even odds alone decide
_ANCHOR = {"finetune.anchor_normalize": "all", "finetune.anchor_first": 0}
_PLAIN = {"selection.evidence": "token", "finetune.dropped": "ignore"}
_SHARE = {"selection.discard_fraction": 0.1}


def as_default(method: str) -> str:
    """The name of a method with the default's anchor, in the place of 4 of the mean and three first tokens."""
    return f"{method}, weight 3 of all"


def at_papers_share(method: str) -> str:
    """The name of a method that drops as much as the paper does."""
    return f"{method}, d 0.1"


ENTRIES = {
    STANDARD: Entry("sft"),
    "oracle": Entry("oracle"),
    "oracle-anchor": Entry("oracle-anchor"),
    "oracle-tokens": Entry("oracle-tokens"),
    "oracle-tokens-anchor": Entry("oracle-tokens-anchor"),
    "toss": Entry("toss"),
    "toss-pro": Entry("toss-pro"),
    OURS: Entry(OURS),
    DEFAULT: _weighted(OURS, 3.0, **_ANCHOR, **_AUTO),
    AGAIN: _weighted(OURS, 3.0, **_ANCHOR, **_AUTO),
    WITHOUT_UTILITY: _weighted(
        OURS,
        3.0,
        **_ANCHOR,
        **{"data.utility": "{from: custom}"},
        **_AUTO,
    ),
    LIGHTER: _weighted(OURS, 1.0, **_ANCHOR, **_AUTO),
    ONE_ROUND: _weighted("toss-pro-posterior-anchor", 3.0, **_ANCHOR, **_AUTO),
    NO_ANCHOR: Entry(None, {**_AUTO, "finetune.dropped": "ignore"}),
    "toss-anchor": _weighted("toss-anchor", 3.0, **_ANCHOR),
    OF_MEAN: _weighted(OURS, 0.5, **{"finetune.anchor_first": 0}, **_AUTO),
    f"{OURS}, even odds": Entry(OURS, _EVEN),
    **{
        f"{method}, weight {weight:g}, no first tokens": _weighted(
            name, weight, **{"finetune.anchor_first": 0}, **overrides
        )
        for method, name, overrides in ((f"{OURS}, even odds", OURS, _EVEN), ("rows-anchor", "rows-anchor", {}))
        for weight in (0.5, 1.0)
    },
    "toss-posterior, even odds": Entry("toss-posterior", _EVEN),
    "toss, degraded loss twice": Entry(None, {**_PLAIN, "selection.beta": 2.0}),
    "toss, utility loss twice": Entry(None, {**_PLAIN, "selection.alpha": 2.0}),
    "toss, dropped out of context": Entry(None, {**_PLAIN, "selection.context": "drop"}),
    "toss, harmful rows by a guard": Entry(None, {**_PLAIN, "references.harmful_tokens": "guard"}),
    "toss-soft": Entry("toss-soft"),
    "sft-anchor-first": Entry("sft-anchor-first"),
    "rows-anchor": Entry("rows-anchor"),
    "random-anchor": Entry("random-anchor"),
    "star-dss-hard": Entry("star-dss-hard", {"finetune.anchor_first": 0}),
    **{
        as_default(name): _weighted(name, 3.0, **_ANCHOR)
        for name in ("oracle-anchor", "oracle-tokens-anchor", "random-anchor", "rows-anchor")
    },
    **{at_papers_share(name): Entry(name, _SHARE) for name in ("toss-pro", "datashield")},
    **{
        name: Entry(name)
        for name in (
            "sft-kl",
            "sft-slow",
            "sft-ema",
            "star-dss",
            "safemerge",
            "dr-sft",
            "safegrad",
            "lisa",
            "bds",
            "larf",
            "datashield",
            "seal",
            "dsir",
            "constrained-sft",
            "safeinstr",
            "rows",
            "random",
        )
    },
}


def method_of(entry: str) -> Method:
    """The method of an entry."""
    name = ENTRIES[entry].method
    return registry()[name] if name else AS_CONFIGURED
