"""Standard fine-tuning: every response token is trained on."""

import numpy as np

from tosslm.methods.method import Baseline, Material


def keep_all(material: Material) -> np.ndarray:
    """Every token, bool ``[N]``."""
    return np.ones(int(material.lengths.sum()), dtype=bool)


SFT = Baseline(
    "sft", summary="standard fine-tuning on every response token", source="none", needs="data", keep=keep_all
)
