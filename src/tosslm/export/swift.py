"""Conversations for ms-swift whose answers are tokens, each with a float weight."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tosslm.export.kind import ExportKind, Job, Snippet, Written
from tosslm.export.rows import MaskedRow, answer_bounds, message_of_tokens

FILE = "data.jsonl"


def conversation(row: MaskedRow) -> tuple[list[dict[str, Any]], int, int]:
    """A row's messages, those answers that have response tokens as token ids with their weights.

    The end of a turn is left to ms-swift's template, which writes and trains it.

    Returns:
        The messages; ends of turn that the run does not train; answers that were cut and get an end all the same.
    """
    # The numbers are ints, as the column is read by Python's own literals too, which know no `false`.
    messages: list[dict[str, Any]] = [
        {"role": message["role"], "content": message["content"]}
        | ({"loss": 0} if message["role"] == "assistant" else {})
        for message in row.messages
    ]
    ids, weights = row.input_ids[row.response_mask], row.weights[row.response_mask]
    of_tokens, has_text = message_of_tokens(row), row.offsets[:, 0] >= 0
    let_in = cut = 0
    for first, stop in answer_bounds(row.response_mask):
        last = stop
        while last > first and not has_text[last - 1]:
            last -= 1
        if last == first:  # reasoning or an end of turn alone
            continue
        cut += last == stop
        let_in += int((weights[last:stop] == 0).sum())
        content = {"token_ids": ids[first:last].tolist(), "loss_scale": np.float64(weights[first:last]).tolist()}
        messages[int(of_tokens[first])] = {"role": "assistant", "content": content}
    return messages, let_in, cut


def _write(rows: Iterator[MaskedRow], folder: Path, job: Job) -> Written:
    let_in = cut = 0
    with (folder / FILE).open("w", encoding="utf-8") as file:
        for row in rows:
            messages, more, ended = conversation(row)
            let_in, cut = let_in + more, cut + ended
            record: dict[str, Any] = {"messages": json.dumps(messages, ensure_ascii=False)}
            if tools := row.messages[0].get("tools"):
                record["tools"] = json.dumps(tools, ensure_ascii=False)
            file.write(json.dumps(record, ensure_ascii=False) + "\n")
    facts = {"ends_of_turn_let_in": let_in, "answers_without_end": cut}
    sentence = (
        f"ms-swift writes and trains the end of each turn by itself: {let_in:,} that the run does not train, and "
        f"{cut:,} behind answers that data.max_length cut."
    )
    return Written(facts, (sentence,) if let_in or cut else ())


_SHELL = """#!/bin/sh
# Prompts and ends of turns are written by ms-swift's template for the model: see that it is the tokenizer's own, and
# give --system where the tokenizer's template writes a system prompt by itself.
# Weights between 0 and 1 count only with --is_binary_loss_scale false.
cd "$(dirname "$0")" && swift sft --model @MERGED@ --dataset data.jsonl --loss_scale default \\
  --is_binary_loss_scale false --max_length @LONGEST@ \\
  --truncation_strategy delete --train_type lora --per_device_train_batch_size 4
"""

KIND = ExportKind(
    "swift",
    f"{FILE}: messages whose answers are token_ids with a float loss_scale each",
    _write,
    (Snippet("ms-swift", "train_swift.sh", _SHELL),),
    weighs=True,
    data=FILE,
)
