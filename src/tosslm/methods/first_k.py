"""The first tokens of every answer, since they decide whether it refuses."""

import numpy as np

from tosslm.methods.material import Material
from tosslm.methods.method import Method
from tosslm.selection.cut import select_tokens


def drop_first(material: Material) -> np.ndarray:
    """All first tokens of answers are dropped, then all second ones, to ``floor(d * N)``; bool ``[N]``."""
    return select_tokens(-material.positions.astype(np.float64), material.discard_fraction)


FIRST_K = Method(
    "first-k",
    summary="drops the first tokens of every answer, as many in all as TOSS drops",
    source="the observation of Qi et al. 2025, arXiv 2406.05946, that alignment lies in the first tokens",
    badge="control",
    differs="they constrain the first tokens (see constrained-sft); dropping them is the plain form of the idea",
    builds_on="data",
    choose=drop_first,
    drops_share=True,
)
