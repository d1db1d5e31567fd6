"""Configs that older versions wrote into run folders: what they meant by what they had no key for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tosslm.config.tree import Config


def as_meant(stored: Mapping[str, Any]) -> dict[str, Any]:
    """The config of a run folder, with keys that came after it at the value it was carried out with.

    A folder has every key that its version knew, so one that is missing came later. Where its default is what was
    done before, nothing is to be added.

    Args:
        stored: ``config`` of a manifest.

    Examples:
        >>> as_meant({"finetune": {"anchor_weight": 0.5}})
        {'finetune': {'anchor_weight': 0.5, 'anchor_normalize': 'anchored'}}
    """
    tree, finetune = dict(stored), stored.get("finetune")
    if isinstance(finetune, Mapping) and "anchor_weight" in finetune and "anchor_normalize" not in finetune:
        tree["finetune"] = {**finetune, "anchor_normalize": "anchored"}
    return tree


def anchored_otherwise(stored: Mapping[str, Any], config: Config) -> str | None:
    """That a config of the user's own, once written for an older version, means another anchor now.

    Args:
        stored: ``config`` of the manifest of a run folder that holds a model.
        config: what is carried out there now.
    """
    before, now = as_meant(stored).get("finetune"), config.finetune
    if before == stored.get("finetune") or not isinstance(before, Mapping):
        return None
    if not now.anchors or before.get("dropped") != "anchor" or now.anchor_normalize == "anchored":
        return None
    return (
        f"model: trained by an earlier version with anchor_weight {before['anchor_weight']:g} on the mean KL over "
        f"anchored tokens; now it is {now.anchor_weight:g} on their sum over all kept and anchored ones "
        "(finetune.anchor_normalize: all). With finetune.anchor_normalize: anchored and the weight of then "
        "it is what it was"
    )
