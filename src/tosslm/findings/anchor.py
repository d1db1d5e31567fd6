"""That a run's model is anchored otherwise than the one that its folder holds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tosslm.config import Config


def anchored_otherwise(stored: Mapping[str, Any], config: Config) -> str | None:
    """What a weight meant for the model that is there, where the same key means another anchor now.

    Args:
        stored: ``config`` of the manifest of a run folder that holds a model.
        config: what is carried out there now.
    """
    before, now = stored.get("finetune", {}), config.finetune
    if before.get("dropped") != "anchor" or before.get("anchor_normalize") != "anchored":
        return None
    if not now.anchors or now.anchor_normalize == "anchored":
        return None
    return (
        f"model: that of before was held to the base with anchor_weight {before['anchor_weight']:g} of the mean KL "
        f"over anchored tokens, as older versions do it; now it is {now.anchor_weight:g} of their sum over all kept "
        "and anchored ones (finetune.anchor_normalize: all). With finetune.anchor_normalize: anchored and the weight "
        "of then it is what it was"
    )
