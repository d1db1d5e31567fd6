"""Chat files as OpenAI's and similar services take them: whole answers, each trained or not."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tosslm.data.fields import REASONING
from tosslm.errors import InputError
from tosslm.export.kind import ExportKind, Job, Snippet, Written
from tosslm.export.rows import MaskedRow, message_of_tokens

FILE = "data.jsonl"


def answer_weights(row: MaskedRow) -> tuple[dict[int, int], int, int]:
    """Which answers are trained as a whole: those of which more than half of the tokens are.

    An answer with text that has no token, behind ``data.max_length`` or rewritten by the chat template, is none: that
    text was never scored, and would be trained with the rest.

    Returns:
        0 or 1 for each answer, by its message; trained tokens of the answers left out; untrained tokens of those
        taken.
    """
    trained, messages = row.trained[row.response_mask], message_of_tokens(row)
    weights = {i: 0 for i, message in enumerate(row.messages) if message["role"] == "assistant"}
    lost = let_in = 0
    for message in np.unique(messages).tolist():
        own = trained[messages == message]
        whole = message in weights and own.mean() > 0.5 and not has_unread_text(row, message)
        if whole:
            weights[message] = 1
            let_in += int((~own).sum())
        else:
            lost += int(own.sum())
    return weights, lost, let_in


def has_unread_text(row: MaskedRow, message: int) -> bool:
    """Whether a message has text, other than white space, that no response token holds."""
    content = row.messages[message]["content"]
    read = np.zeros(len(content), dtype=bool)
    for _, start, end in row.offsets[row.offsets[:, 0] == message].tolist():
        read[start:end] = True
    return any(not there and not character.isspace() for there, character in zip(read, content, strict=True))


def _record(row: MaskedRow, weights: dict[int, int]) -> dict[str, Any]:
    messages = []
    for i, message in enumerate(row.messages):
        if reasoning := next((name for name in REASONING if message.get(name)), None):
            raise InputError(
                f"row {row.row_id}: message {i} has {reasoning}, and chat files have no place for it; export another "
                "kind, or take it out of the data"
            )
        turn = {"role": message["role"], "content": message["content"]}
        messages.append(turn | {"weight": weights[i]} if i in weights else turn)
    tools = row.messages[0].get("tools")
    return {"messages": messages} | ({"tools": tools} if tools else {})


def _write(rows: Iterator[MaskedRow], folder: Path, job: Job) -> Written:
    written = answers = taken = lost = let_in = cut = 0
    with (folder / FILE).open("w", encoding="utf-8") as file:
        for row in rows:
            weights, gone, more = answer_weights(row)
            cut += sum(has_unread_text(row, message) for message in np.unique(message_of_tokens(row)).tolist())
            record = _record(row, weights)
            answers, taken, lost, let_in = (
                answers + len(weights),
                taken + sum(weights.values()),
                lost + gone,
                let_in + more,
            )
            if any(weights.values()):
                written += 1
                file.write(json.dumps(record, ensure_ascii=False) + "\n")
    facts = {
        "rows_written": written,
        "rows_left_out": job.counts.rows - written,
        "answers": answers,
        "answers_trained": taken,
        "answers_cut": cut,
        "tokens_lost": lost,
        "tokens_let_in": let_in,
    }
    sentence = (
        f"A chat file trains whole answers: {let_in:,} tokens that the run does not train are trained here, and "
        f"{lost:,} that it trains are not. An answer counts where more than half of it is trained; "
        f"{facts['rows_left_out']:,} rows without one are left out."
    )
    unread = f"{cut:,} answers have text without a token, which was never scored: they have weight 0."
    return Written(facts, (sentence, *([unread] if cut else [])))


_SHELL = """#!/bin/sh
curl https://api.openai.com/v1/files -H "Authorization: Bearer $OPENAI_API_KEY" \\
  -F purpose=fine-tune -F file=@"$(dirname "$0")"/data.jsonl
"""

KIND = ExportKind(
    "openai",
    f"{FILE}: messages, each answer with weight 0 or 1; tokens inside an answer cannot be told apart",
    _write,
    (Snippet("openai-api", "upload.sh", _SHELL),),
    data=FILE,
)
