"""Random tokens: as many as the method drops, drawn evenly."""

import numpy as np

from tosslm.methods.material import Material
from tosslm.methods.method import Method
from tosslm.selection.cut import discard_count


def keep_random(material: Material) -> np.ndarray:
    """All but ``floor(d * N)`` tokens drawn without replacement, bool ``[N]``."""
    tokens = int(material.lengths.sum())
    drawn = np.random.default_rng(material.seed).permutation(tokens)
    return np.asarray(drawn < tokens - discard_count(tokens, material.discard_fraction))


RANDOM = Method(
    "random",
    summary="drops as many tokens as TOSS does, at random",
    source="Li et al. 2026, arXiv 2603.01185 (its baseline of random selection)",
    badge="variant",
    differs="the paper does not say whether it draws rows or tokens; here tokens, so that the budget is the same",
    builds_on="data",
    choose=keep_random,
    drops_share=True,
)
