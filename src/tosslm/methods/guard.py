"""What a guard model says of an answer as it grows, segment by segment."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tosslm.config import Config, ModelConfig
from tosslm.evaluation.classifiers import classify_attacks
from tosslm.evaluation.generate import Answer
from tosslm.files import read_batches
from tosslm.model.base import open_base

Guard = Callable[[Sequence[Answer]], list[bool | None]]


def guard_marks(path: Path, config: Config) -> np.ndarray:
    """Tokens of segments that the guard of ``compare.guard`` calls unsafe, bool ``[N]``.

    Args:
        path: the run folder.
        config: the run's config.
    """
    settings = config.compare.guard
    assert settings is not None
    found = open_base(ModelConfig.model_validate({"name": settings.model, "revision": settings.revision}))
    columns = ["messages", "offsets"]
    rows = [row for batch in read_batches(path / "data/custom.parquet", columns) for row in batch]
    return unsafe_segments(
        rows,
        config.compare.guard_segment,
        lambda answers: classify_attacks(found.model, found.tokenizer, answers, settings),
    )


def unsafe_segments(rows: Sequence[Mapping[str, Any]], segment: int, guard: Guard) -> np.ndarray:
    """Ask a guard of every answer up to the end of each of its segments.

    Args:
        rows: ``messages`` (JSON text) and ``offsets``, one ``[message, start, end]`` a response token.
        segment: tokens of a segment.
        guard: says of answers whether each does harm; None where it says nothing readable.

    Returns:
        bool ``[N]``: True at the tokens of a segment at whose end the guard said unsafe. A segment of which it said
        nothing readable is not marked.
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
    return np.repeat([verdict is True for verdict in guard(asked)], sizes).astype(bool)


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
