"""One reference alone: is the difference of two needed?"""

import numpy as np

from tosslm.methods.material import Material
from tosslm.methods.method import Method
from tosslm.selection.cut import select_tokens


def by_degraded(material: Material) -> np.ndarray:
    """Tokens that the degraded reference finds likeliest are dropped; bool ``[N]``."""
    return select_tokens(-material.loss_degraded, material.discard_fraction)


def by_utility(material: Material) -> np.ndarray:
    """Tokens that the utility reference finds unlikeliest are dropped; bool ``[N]``."""
    return select_tokens(material.loss_utility, material.discard_fraction)


_SOURCE = "ablation of Li et al. 2026, arXiv 2603.01185"
DEGRADED_ONLY = Method(
    "degraded-only",
    summary="ranks tokens by low loss under the degraded reference",
    source=_SOURCE,
    badge="faithful",
    choose=by_degraded,
    drops_share=True,
)
UTILITY_ONLY = Method(
    "utility-only",
    summary="ranks tokens by high loss under the utility reference",
    source=_SOURCE,
    badge="faithful",
    choose=by_utility,
    drops_share=True,
)
