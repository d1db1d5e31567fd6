"""A beginning that texts share, read once: its losses, and the cache that the rest of each text looks back at."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from tosslm.model.head import SplitHead
from tosslm.model.texts import Text

_CONTINUED = (DynamicLayer, DynamicSlidingWindowLayer)
_LENGTH_BOUND = ("dynamic", "longrope")
"""Rotary embeddings whose angles depend on how long the text is that is read at once."""


@dataclass(frozen=True, slots=True)
class Prefix:
    """A beginning that was read.

    Attributes:
        losses: float32 ``[P + 1]``, in nats, at the response tokens among it and the token after it; else 0.
        cache: of its ``P`` tokens, for one row.
    """

    losses: np.ndarray
    cache: Any

    def caches(self, rows: int) -> Any:
        """A cache for so many rows that come after it; views of this one's, which it leaves as it is."""
        cache = copy.copy(self.cache)
        cache.layers = [copy.copy(layer) for layer in cache.layers]
        for layer in cache.layers:
            layer.keys = layer.keys.expand(rows, -1, -1, -1)
            layer.values = layer.values.expand(rows, -1, -1, -1)
        return cache


def can_share(model: Any) -> bool:
    """Whether a text read in two pieces gives the model's own predictions.

    Of attention, also over a sliding window, the cache says all that came before. A state that is not attention's
    is not continued by several tokens everywhere; code that is not transformers' own may keep more than the cache.
    """
    config = model.config.get_text_config()
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    if not type(inner).__module__.startswith("transformers."):
        return False
    if any(getattr(one, "is_prompt_learning", False) for one in getattr(model, "peft_config", {}).values()):
        return False
    rope = getattr(config, "rope_parameters", None) or {}
    nested = [rope, *(one for one in rope.values() if isinstance(one, dict))]
    if any(one.get("rope_type") in _LENGTH_BOUND for one in nested):
        return False
    if "past_key_values" not in inspect.signature(inner.forward).parameters:
        return False
    try:
        layers = DynamicCache(config=config).layers
    except (AttributeError, KeyError, ValueError):  # layers of a kind that transformers has no cache of this sort for
        return False
    return len(layers) == config.num_hidden_layers and all(type(layer) in _CONTINUED for layer in layers)


@torch.inference_mode()
def read_prefix(split: SplitHead, texts: Sequence[Text], shared: int) -> Prefix | None:
    """Read what texts have in common; None where the model does not keep all of it in its cache.

    Args:
        split: the model.
        texts: whose first ``shared + 1`` tokens are the same.
        shared: ``P``, tokens to read.
    """
    device = split.model.device
    cache = DynamicCache(config=split.model.config.get_text_config())
    ids = torch.as_tensor(texts[0].input_ids[: shared + 1]).long()[None].to(device)
    hidden = split.hidden_states(ids[:, :-1], None, cache)
    if any(layer.get_seq_length() != shared for layer in cache.layers):
        return None
    predicted = np.logical_or.reduce([text.response_mask[: shared + 1] for text in texts])
    wanted = torch.as_tensor(predicted[1:]).to(device)
    losses = np.zeros(shared + 1, dtype=np.float32)
    losses[predicted] = split.losses(hidden[0, wanted], ids[0, 1:][wanted]).cpu().numpy()
    return Prefix(losses, cache)
