"""Dynamic safety shaping: a guard reads along, and what it finds unsafe is held to the base instead of learnt."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tosslm.config import ClassifierConfig, Config, ModelConfig
from tosslm.evaluation.answers import Answer
from tosslm.methods.material import Material
from tosslm.methods.method import Method, keep_all, paper_settings
from tosslm.methods.needs import GUARD, guard_parts
from tosslm.runs.tables import stored_rows

if TYPE_CHECKING:
    from tosslm.workbench import Workbench

UNSAFE = "unsafe"
P_UNSAFE = "probability of unsafe"
Guard = Callable[[Sequence[Answer]], Sequence[bool | None] | np.ndarray]
"""What a guard says of answers: a verdict on each, or a probability of unsafe; None or nan where it says neither."""
Reading = Callable[[Any, Any, Sequence[Answer], ClassifierConfig], Sequence[bool | None] | np.ndarray]
"""How a guard is read: its model, its tokenizer, the answers, and its settings."""


def safe_weights(material: Material) -> np.ndarray:
    """The guard's probability of safe at each token, float32 ``[N]``; 1 where it gave none."""
    return (1 - np.nan_to_num(material.signals[P_UNSAFE], nan=0.0)).astype(np.float32)


def keep_safe_segments(material: Material) -> np.ndarray:
    """All tokens but those of segments that the guard calls unsafe, however many; bool ``[N]``."""
    return ~material.signals[UNSAFE]


def guard_probabilities(bench: Workbench) -> np.ndarray:
    """The probability that the guard of ``compare.guard`` gives to unsafe at each token, float64 ``[N]``."""
    from tosslm.evaluation.classifiers import unsafe_probabilities

    return _guarded(bench, unsafe_probabilities)


def guard_marks(bench: Workbench) -> np.ndarray:
    """Tokens of segments that the guard of ``compare.guard`` calls unsafe, bool ``[N]``."""
    from tosslm.evaluation.classifiers import classify_attacks

    return _guarded(bench, classify_attacks) == 1


def _guarded(bench: Workbench, reading: Reading) -> np.ndarray:
    from tosslm.model.base import open_base

    settings = bench.config.compare.guard
    assert settings is not None, "the need was checked at the door"
    found = open_base(ModelConfig.model_validate({"name": settings.model, "revision": settings.revision}))
    rows = list(stored_rows(bench.layout.rows("custom"), ["messages", "offsets"]))
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


def segment_values(rows: Sequence[Mapping[str, Any]], segment: int, guard: Guard) -> np.ndarray:
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


def _settings(config: Config) -> dict[str, Any]:
    return paper_settings(config) | {"finetune.normalize": "kept"}


def _hard_settings(config: Config) -> dict[str, Any]:
    return _settings(config) | {"finetune.dropped": "anchor", "finetune.anchor_first": 0}


STAR_DSS = Method(
    "star-dss",
    summary="weighs each token's loss by a guard's probability of safe, and KL to the base by what is left of it",
    source="Peng et al. 2025, arXiv 2505.17196",
    badge="variant",
    differs="the whole KL to the base, weighed 1, where their code takes half the squared log-ratio of the row's "
    "own token (the k2 estimate), and their scripts weigh it 0.5; the guard's probability as it is, where theirs is "
    "of scores at temperature 0.2 and top-p 0.9, and so nearer to 0 or 1; segments of compare.guard_segment tokens, "
    "where theirs have five words; what the guard calls neither safe nor unsafe counts as safe; a LoRA is trained "
    "instead of all weights. Checked against the copy of their code in secml-lab-vt/Optimus; their own repository "
    "was not at hand",
    builds_on="data",
    choose=keep_all,
    token_weights=safe_weights,
    hold=True,
    signals={P_UNSAFE: guard_probabilities},
    overrides=_settings,
    needs=(GUARD,),
    choice_covers=guard_parts,
    version=2,
)
STAR_DSS_HARD = Method(
    "star-dss-hard",
    summary="holds segments that a guard model calls unsafe to the base by KL, and trains on the others",
    source="after Peng et al. 2025, arXiv 2505.17196",
    badge="simplified",
    differs="the guard decides for or against a segment, where theirs weighs the two losses by its probability "
    "(see star-dss); cross-entropy and KL are means over their own tokens, weighed by finetune.anchor_weight",
    builds_on="data",
    choose=keep_safe_segments,
    signals={UNSAFE: guard_marks},
    overrides=_hard_settings,
    needs=(GUARD,),
    choice_covers=guard_parts,
)
