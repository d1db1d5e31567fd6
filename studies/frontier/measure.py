"""What is measured of one adapter at one scale: what the model says, and how likely it finds given rows.

Answers stay under ``runs/frontier`` and are judged later (``studies.frontier.attack``); what is kept in the
repository are numbers, one a prompt or row.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from studies.corpora import read_jsonl
from studies.frontier.ledger import short
from studies.frontier.settings import COMMON, SAID_TOKENS, Setting
from studies.phrases import classify

from tosslm.characters import unsafe_tokens
from tosslm.data.rows import Row, read_rows
from tosslm.data.template import ChatTemplate
from tosslm.data.tokenize import RowTokenizer
from tosslm.evaluation.answers import Answer
from tosslm.evaluation.generate import complete, generate_answers
from tosslm.evaluation.prompts import read_prompts
from tosslm.files import write_text
from tosslm.model.adapters import attached_adapters
from tosslm.model.base import Base
from tosslm.model.losses import response_losses
from tosslm.progress import Reporter

BATCH = 37
FILES = {"harmful": "advbench", "safe": "xstest", "beginnings": "beginnings"}


def measure(
    base: Base, adapter: Path | None, scale: float, setting: Setting, split: str, said: Path, reporter: Reporter
) -> dict[str, Any]:
    """Measure a base, or a base with an adapter at a scale.

    Args:
        base: the base.
        adapter: None is the base by itself.
        scale: of the adapter.
        setting: says what is measured.
        split: ``validation`` or ``test``.
        said: file that the answers are kept in.
        reporter: where progress goes.

    Returns:
        By name, ``values`` and, for losses, ``weights`` (tokens): ``refused`` and ``over_refused``, one a prompt, 0
        or 1; ``utility``, ``harmful``, ``spliced``, nats a token, one a row, of marked rows over marked tokens.
    """
    tokenizer = RowTokenizer(base.tokenizer)
    held = attached_adapters(base, {"model": adapter}, scale=scale) if adapter else nullcontext(base.model)
    with held as model:
        found = losses_of(model, tokenizer, setting, split)
        answers = {
            name: _said(model, base.tokenizer, name, COMMON / f"{FILES[name]}_{split}.jsonl", reporter)
            for name in setting.asked
        }
    for name, metric in (("harmful", "refused"), ("safe", "over_refused")):
        verdicts = [classify(one.prompt, one.answer, one.finished) for one in answers[name]]
        found[metric] = {"values": [int(verdict == "refusal") for verdict in verdicts], "weights": None}
    lines = [json.dumps({"asked": name, **asdict(one)}) + "\n" for name, all_of in answers.items() for one in all_of]
    write_text(said, "".join(lines))
    return found


def losses_of(model: Any, tokenizer: RowTokenizer, setting: Setting, split: str) -> dict[str, Any]:
    """What ``measure`` has of losses, by name."""
    return {name: _losses(model, tokenizer, COMMON / f"{name}_{split}.jsonl") for name in setting.losses}


def measured_tokens(tokenizer: RowTokenizer, setting: Setting, split: str) -> dict[str, list[int]]:
    """How many tokens of each row the losses of a setting are means of, by metric, before anything is trained."""
    return {
        name: [int(chosen.sum()) for chosen in _rows(tokenizer, COMMON / f"{name}_{split}.jsonl")[1]]
        for name in setting.losses
    }


def _losses(model: Any, tokenizer: RowTokenizer, file: Path) -> dict[str, Any]:
    """Mean loss of each row's tokens, or of its marked ones where the data mark some."""
    rows, counted = _rows(tokenizer, file)
    losses = response_losses(model, rows)
    means = [float(loss[chosen].mean()) for loss, chosen in zip(losses, counted, strict=True)]
    return {"values": [short(mean) for mean in means], "weights": [int(chosen.sum()) for chosen in counted]}


def _rows(tokenizer: RowTokenizer, file: Path) -> tuple[list[dict[str, Any]], list[np.ndarray]]:
    """Rows as ``response_losses`` takes them, and bool ``[tokens of the response]``, which of their losses count."""
    rows, counted = [], []
    for row in read_rows([str(file)]):
        if not isinstance(row, Row):
            raise SystemExit(f"{row.origin}: {row.reason}")
        tokens = tokenizer(row.messages)
        rows.append({"input_ids": tokens.input_ids, "response_mask": tokens.response_mask})
        marked = None if row.unsafe_spans is None else unsafe_tokens(tokens.offsets, row.unsafe_spans)
        counted.append(np.ones(sum(tokens.response_mask), dtype=bool) if marked is None else marked)
    return rows, counted


def _said(model: Any, tokenizer: Any, name: str, file: Path, reporter: Reporter) -> Sequence[Answer]:
    if name != "beginnings":
        return generate_answers(
            model,
            tokenizer,
            read_prompts(str(file)),
            max_new_tokens=SAID_TOKENS[name],
            batch_size=BATCH,
            name=name,
            reporter=reporter,
        )
    template, begun = ChatTemplate(tokenizer), read_jsonl(file)
    texts = [
        template.render(one["messages"][:-1], add_generation_prompt=True) + one["messages"][-1]["content"] + " "
        for one in begun
    ]
    replies = complete(
        model, tokenizer, [text.rstrip(" ") for text in texts], max_new_tokens=SAID_TOKENS[name], batch_size=BATCH
    )
    return [
        Answer(f"{number:03d}", one["messages"][-2]["content"], reply, False)
        for number, (one, reply) in enumerate(zip(begun, replies, strict=True))
    ]
