"""Prompts of an evaluation that the model was trained on."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence

from tosslm.evaluation.prompts import Prompt


def seen_prompts(asked: Mapping[str, Sequence[Prompt]], conversations: Iterable[str]) -> dict[str, int]:
    """How many prompts of each kind are a user's turn of some conversation, to the letter but for white space around.

    Args:
        asked: prompts by kind.
        conversations: messages as JSON, such as those of the custom set; read one by one.

    Returns:
        Counts by kind, of the kinds that have any.
    """
    texts = {prompt.text.strip() for prompts in asked.values() for prompt in prompts}
    found: set[str] = set()
    for messages in conversations:
        found |= texts & {turn["content"].strip() for turn in json.loads(messages) if turn["role"] == "user"}
    counts = {kind: sum(prompt.text.strip() in found for prompt in prompts) for kind, prompts in asked.items()}
    return {kind: count for kind, count in counts.items() if count}
