"""Standard fine-tuning with KL to the base at every token: holding on without any choice of what to hold."""

import numpy as np

from tosslm.methods.material import Material
from tosslm.methods.method import EachRow, Method, keep_all

LEARNT = 0.5
"""Share of cross-entropy in the loss; the rest is KL(base || model)."""


@EachRow
def even_weights(material: Material) -> np.ndarray:
    """Every token counts ``LEARNT``, and what that lacks to 1 holds it to the base; float32 ``[N]``."""
    return np.full(int(material.lengths.sum()), LEARNT, dtype=np.float32)


SFT_KL = Method(
    "sft-kl",
    summary="standard fine-tuning whose loss is half cross-entropy and half KL to the base, at every token",
    source="none; a KL penalty to the start, as is usual in RLHF",
    badge="control",
    differs="the two are mixed one to one: the ratio of cross-entropy plus KL at weight 1, at half the size, which "
    "AdamW evens out but for the clipping of gradients",
    builds_on="data",
    choose=keep_all,
    token_weights=even_weights,
    hold=True,
)
