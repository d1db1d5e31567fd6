"""TOSS and what belongs to it: the pipeline itself under other settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from tosslm.config import Config
from tosslm.methods.method import Method, paper_settings

_PAPER = "Li et al. 2026, arXiv 2603.01185"
_OURS = "this project"
AS_TRAINED = (
    "the loss of an optimizer batch is divided as finetune.normalize says, by its kept tokens unless told otherwise, "
    "where the paper divides by all of its response tokens and the authors' code takes means of rows; AdamW's betas "
    "are the config's, 0.9 and 0.999 unless told otherwise, theirs 0.9 and 0.95"
)


def _settings(*, pro: bool = False, **changes: Any) -> Callable[[Config], Mapping[str, Any]]:
    """Plain TOSS but for the changes; ``__`` in a name stands for the dot of a key."""
    keys = {name.replace("__", "."): value for name, value in changes.items()}

    def overrides(config: Config) -> Mapping[str, Any]:
        rounds = {"refinement.rounds": max(config.refinement.rounds, 1)} if pro else {}
        own = paper_settings(config) | rounds | keys
        if own["selection.evidence"] == "posterior":
            own["selection.discard_fraction"] = config.selection.discard_fraction  # it can tell how much by itself
        return own

    return overrides


TOSS_METHODS = (
    Method(
        "toss",
        summary="token selection by both references",
        source=_PAPER,
        badge="faithful",
        differs=AS_TRAINED,
        overrides=_settings(),
    ),
    Method(
        "toss-pro",
        summary="TOSS with a degraded reference that learns from the riskiest rows, refinement.rounds times",
        source=_PAPER,
        badge="faithful",
        differs=f"at least one round, whatever the config says; {AS_TRAINED}",
        builds_on="refine",
        overrides=_settings(pro=True),
    ),
    Method(
        "toss-row",
        summary="TOSS that drops the same share inside each row",
        source=f"{_PAPER} (ablation)",
        badge="faithful",
        differs=AS_TRAINED,
        overrides=_settings(selection__scope="row"),
    ),
    Method(
        "toss-posterior",
        summary="TOSS that ranks tokens by their evidence in context",
        source=_OURS,
        badge="own",
        overrides=_settings(selection__evidence="posterior"),
    ),
    Method(
        "toss-pro-posterior",
        summary="TOSS-Pro that ranks tokens by their evidence in context",
        source=_OURS,
        badge="own",
        builds_on="refine",
        overrides=_settings(pro=True, selection__evidence="posterior"),
    ),
    Method(
        "toss-anchor",
        summary="TOSS that holds dropped tokens to the base instead of ignoring them",
        source=_OURS,
        badge="own",
        overrides=_settings(finetune__dropped="anchor"),
    ),
    Method(
        "toss-pro-anchor",
        summary="TOSS-Pro that holds dropped tokens to the base",
        source=_OURS,
        badge="own",
        builds_on="refine",
        overrides=_settings(pro=True, finetune__dropped="anchor"),
    ),
    Method(
        "toss-posterior-anchor",
        summary="evidence in context, and dropped tokens held to the base",
        source=_OURS,
        badge="own",
        overrides=_settings(selection__evidence="posterior", finetune__dropped="anchor"),
    ),
    Method(
        "toss-pro-posterior-anchor",
        summary="TOSS-Pro with evidence in context, and dropped tokens held to the base",
        source=_OURS,
        badge="own",
        builds_on="refine",
        overrides=_settings(pro=True, selection__evidence="posterior", finetune__dropped="anchor"),
    ),
)
