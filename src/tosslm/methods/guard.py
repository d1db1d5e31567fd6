"""A guard model reads along: what it says of answers, segment by segment, put on their tokens."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tosslm.config import ClassifierConfig, ModelConfig
from tosslm.evaluation.answers import Answer

if TYPE_CHECKING:
    from tosslm.workbench import Workbench

Guard = Callable[[Sequence[Answer]], Sequence[bool | None] | np.ndarray]
"""What a guard says of answers: a verdict on each, or a probability of unsafe; None or nan where it says neither."""
Reading = Callable[[Any, Any, Sequence[Answer], ClassifierConfig], Sequence[bool | None] | np.ndarray]
"""How a guard is read: its model, its tokenizer, the answers, and its settings."""


def guarded(bench: Workbench, rows: Iterable[Mapping[str, Any]], reading: Reading) -> np.ndarray:
    """What the guard of ``compare.guard`` says of every response token of some rows.

    Args:
        bench: of a run whose config names a guard.
        rows: as of ``segment_values``.
        reading: how the guard is read.

    Returns:
        As of ``segment_values``.
    """
    from tosslm.model.base import Keys, open_base

    settings = bench.config.compare.guard
    assert settings is not None, "the need was checked at the door"
    chosen = ModelConfig.model_validate(
        {"name": settings.model, "revision": settings.revision, "device": bench.config.model.device}
    )
    found = open_base(chosen, Keys("compare.guard.model", ""))
    values = segment_values(
        rows,
        bench.config.compare.guard_segment,
        lambda answers: reading(found.model, found.tokenizer, answers, settings),
    )
    if unread := int(np.isnan(values).sum()):
        bench.reporter.say(
            f"compare.guard: of {unread} of {len(values)} tokens it says neither word; they count as safe"
        )
    return values


def segment_values(rows: Iterable[Mapping[str, Any]], segment: int, guard: Guard) -> np.ndarray:
    """Ask a guard of every answer up to the end of each of its segments.

    Args:
        rows: ``messages`` (JSON text) and ``offsets``, one ``[message, start, end]`` a response token.
        segment: tokens of a segment.
        guard: what it says of answers.

    Returns:
        Float64 ``[N]``: at each token what the guard said at the end of its segment, from 0, safe, to 1, unsafe; nan
        where it said neither.
    """
    asked: list[Answer] = []
    sizes: list[int] = []
    for row in rows:
        messages = json.loads(row["messages"])
        for tokens in _answers(row["offsets"]):
            for start in range(0, len(tokens), segment):
                part = tokens[start : start + segment]
                end = max((stop for index, _, stop in tokens[: start + len(part)] if index >= 0), default=0)
                index = next((message for message, _, _ in tokens if message >= 0), -1)
                prompt = messages[index - 1]["content"] if index > 0 else ""
                text = messages[index]["content"][:end] if index >= 0 else ""
                asked.append(Answer(str(len(asked)), prompt, text, True))
                sizes.append(len(part))
    said = [np.nan if value is None else float(value) for value in guard(asked)]
    return np.repeat(np.array(said, dtype=np.float64), sizes)


def _answers(offsets: Sequence[Sequence[int]]) -> list[list[Sequence[int]]]:
    """The tokens of each answer; one without text, such as an end of turn, belongs to the answer before it."""
    answers: list[list[Sequence[int]]] = []
    current = None
    for token in offsets:
        if not answers or (token[0] >= 0 and current is not None and token[0] != current):
            answers.append([])
        if token[0] >= 0:
            current = token[0]
        answers[-1].append(token)
    return answers
