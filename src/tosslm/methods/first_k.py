"""The first tokens of every answer, since they decide whether it refuses."""

import numpy as np

from tosslm.methods.material import Material
from tosslm.methods.method import Method, Ranked


def earliness(material: Material) -> np.ndarray:
    """The earlier in its answer the higher, so that first tokens go before any second one: float32 ``[N]``.

    Exact in answers of up to 2**24 tokens.
    """
    return -material.positions.astype(np.float32)


FIRST_K = Method(
    "first-k",
    summary="drops the first tokens of every answer, as many in all as TOSS drops",
    source="the observation of Qi et al. 2025, arXiv 2406.05946, that alignment lies in the first tokens",
    badge="control",
    differs="they constrain the first tokens (see constrained-sft); dropping them is the plain form of the idea",
    builds_on="data",
    choose=Ranked(earliness),
    drops_share=True,
)
