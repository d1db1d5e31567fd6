"""One reference alone: is the difference of two needed?"""

import numpy as np

from tosslm.methods.material import Material
from tosslm.methods.method import Method, Ranked
from tosslm.methods.toss import AS_TRAINED


def by_degraded(material: Material) -> np.ndarray:
    """High where the degraded reference finds a token likely: float32 ``[N]``."""
    return -material.loss_degraded


def by_utility(material: Material) -> np.ndarray:
    """High where the utility reference finds a token unlikely: float32 ``[N]``."""
    return material.loss_utility


_SOURCE = "ablation of Li et al. 2026, arXiv 2603.01185"
DEGRADED_ONLY = Method(
    "degraded-only",
    summary="ranks tokens by low loss under the degraded reference",
    source=_SOURCE,
    badge="faithful",
    differs=AS_TRAINED,
    choose=Ranked(by_degraded),
    drops_share=True,
)
UTILITY_ONLY = Method(
    "utility-only",
    summary="ranks tokens by high loss under the utility reference",
    source=_SOURCE,
    badge="faithful",
    differs=AS_TRAINED,
    choose=Ranked(by_utility),
    drops_share=True,
)
