"""TOSS and what belongs to it: the pipeline itself under other settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from tosslm.config import Config
from tosslm.methods.method import Baseline, plain_settings

_PAPER = "Li et al. 2026, arXiv 2603.01185"
_OURS = "this project"


def _settings(*, pro: bool = False, **changes: Any) -> Callable[[Config], Mapping[str, Any]]:
    """Plain TOSS but for the changes; ``__`` in a name stands for the dot of a key."""
    keys = {name.replace("__", "."): value for name, value in changes.items()}

    def overrides(config: Config) -> Mapping[str, Any]:
        rounds = {"refinement.rounds": max(config.refinement.rounds, 1)} if pro else {}
        return plain_settings(config) | rounds | keys

    return overrides


TOSS_METHODS = (
    Baseline("toss", summary="token selection by both references", source=_PAPER, overrides=_settings()),
    Baseline(
        "toss-pro",
        summary="TOSS with a degraded reference that learns from the riskiest rows, refinement.rounds times",
        source=_PAPER,
        differs="at least one round, whatever the config says",
        needs="refine",
        overrides=_settings(pro=True),
    ),
    Baseline(
        "toss-row",
        summary="TOSS that drops the same share inside each row",
        source=f"{_PAPER} (ablation)",
        overrides=_settings(selection__scope="row"),
    ),
    Baseline(
        "toss-posterior",
        summary="TOSS that ranks tokens by their evidence in context",
        source=_OURS,
        overrides=_settings(selection__evidence="posterior"),
    ),
    Baseline(
        "toss-pro-posterior",
        summary="TOSS-Pro that ranks tokens by their evidence in context",
        source=_OURS,
        needs="refine",
        overrides=_settings(pro=True, selection__evidence="posterior"),
    ),
    Baseline(
        "toss-anchor",
        summary="TOSS that holds dropped tokens to the base instead of ignoring them",
        source=_OURS,
        overrides=_settings(finetune__dropped="anchor"),
    ),
    Baseline(
        "toss-pro-anchor",
        summary="TOSS-Pro that holds dropped tokens to the base",
        source=_OURS,
        needs="refine",
        overrides=_settings(pro=True, finetune__dropped="anchor"),
    ),
    Baseline(
        "toss-posterior-anchor",
        summary="evidence in context, and dropped tokens held to the base",
        source=_OURS,
        overrides=_settings(selection__evidence="posterior", finetune__dropped="anchor"),
    ),
    Baseline(
        "toss-pro-posterior-anchor",
        summary="TOSS-Pro with evidence in context, and dropped tokens held to the base",
        source=_OURS,
        needs="refine",
        overrides=_settings(pro=True, selection__evidence="posterior", finetune__dropped="anchor"),
    ),
)
