"""Dynamic safety shaping: a guard reads along, and segments it calls unsafe are held to the base."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tosslm.config import Config, ModelConfig
from tosslm.evaluation.answers import Answer
from tosslm.methods.material import Material
from tosslm.methods.method import Method, paper_settings
from tosslm.methods.needs import GUARD, guard_parts
from tosslm.runs.tables import stored_rows

if TYPE_CHECKING:
    from tosslm.workbench import Workbench

UNSAFE = "unsafe"
Guard = Callable[[Sequence[Answer]], list[bool | None]]


def keep_safe_segments(material: Material) -> np.ndarray:
    """All tokens but those of segments that the guard calls unsafe, however many; bool ``[N]``."""
    return ~material.signals[UNSAFE]


def guard_marks(bench: Workbench) -> np.ndarray:
    """Tokens of segments that the guard of ``compare.guard`` calls unsafe, bool ``[N]``."""
    from tosslm.evaluation.classifiers import classify_attacks
    from tosslm.model.base import open_base

    settings = bench.config.compare.guard
    assert settings is not None, "the need was checked at the door"
    found = open_base(ModelConfig.model_validate({"name": settings.model, "revision": settings.revision}))
    rows = list(stored_rows(bench.layout.rows("custom"), ["messages", "offsets"]))
    return unsafe_segments(
        rows,
        bench.config.compare.guard_segment,
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


def _anchored(config: Config) -> dict[str, Any]:
    return paper_settings(config) | {"finetune.dropped": "anchor", "finetune.normalize": "kept"}


STAR_DSS = Method(
    "star-dss",
    summary="holds segments that a guard model calls unsafe to the base by KL, and trains on the others",
    source="Peng et al. 2025, arXiv 2505.17196",
    badge="simplified",
    differs="the guard decides for or against a segment, where theirs weighs the two losses by its probability; "
    "cross-entropy and KL are means over their own tokens, weighed by finetune.anchor_weight",
    builds_on="data",
    choose=keep_safe_segments,
    signals={UNSAFE: guard_marks},
    overrides=_anchored,
    needs=(GUARD,),
    choice_covers=guard_parts,
)
