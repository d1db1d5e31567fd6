"""The text of each token of a row, one by one, so that the pieces together are the row's text."""

from __future__ import annotations

from typing import Any

import numpy as np

_HALF = "\ufffd"
_CONTEXT = 4
"""Tokens before a piece that it is read behind: many tokenizers drop the space before a text's first word."""
_LONGEST = 12
"""Tokens that one character may be made of; more are no character."""


def token_texts(ids: np.ndarray, tokenizer: Any) -> list[str]:
    """The text that each token adds.

    A character that several tokens make stands at the last of them, the others are empty. An id that the tokenizer
    does not know is shown as its number; without a tokenizer all are.

    Args:
        ids: int64 ``[T]``.
        tokenizer: whose ids they are, or None.

    Returns:
        ``T`` texts.
    """
    if tokenizer is None:
        return [f"{token} " for token in ids.tolist()]
    texts: list[str] = []
    start = done = (
        0  # tokens from ``start`` are read together, of which those before ``done`` have their text already
    )
    for at, token in enumerate(ids.tolist()):
        if not 0 <= token < len(tokenizer):
            texts.append(f"\u2039{token}\u203a")
            start = done = at + 1
            continue
        before, now = (_decoded(tokenizer, ids[start:end]) for end in (done, at + 1))
        added = now[len(before) :] if now.startswith(before) else _decoded(tokenizer, ids[done : at + 1])
        if added.endswith(_HALF) and at + 1 - done < _LONGEST:
            texts.append("")
            continue
        texts.append(added)
        start, done = max(start, at + 1 - _CONTEXT), at + 1
    if done < len(ids) and texts:  # half of a character, and the row ends
        texts[-1] += _HALF
    return texts


def _decoded(tokenizer: Any, ids: np.ndarray) -> str:
    text = tokenizer.decode(ids.tolist(), skip_special_tokens=False, clean_up_tokenization_spaces=False)
    return str(text) if len(ids) else ""
