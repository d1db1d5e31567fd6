"""Conversations for ms-swift whose answers are tokens, each with a float weight."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tosslm.data.fields import REASONING
from tosslm.export.kind import ExportKind, Job, Snippet, Written
from tosslm.export.rows import MaskedRow, answer_bounds, message_of_tokens

FILE = "data.jsonl"
_ROOM = 32
"""Tokens that ms-swift's template may write behind an answer that was cut, whose row it would else leave out."""


def conversation(row: MaskedRow) -> tuple[list[dict[str, Any]], Counter[str]]:
    """A row's messages, those answers that have response tokens as token ids with their weights.

    The tokens of an answer hold its reasoning, as the run's template wrote it. ms-swift knows no other place for
    reasoning: it takes of a message its role, content and loss alone. The end of a turn is left to its template,
    which writes and trains it. What comes after the last such answer teaches nothing and is left out: where a row was
    cut, it would make it longer than it is.

    Returns:
        The messages; and counts: ``ends_of_turn_let_in`` that the run does not train, ``answers_without_end``, which
        were cut and get an end all the same, ``reasoning_left_out``, of answers that are context of a trained one,
        and ``tokens_lost``, trained ones of an answer that was cut in its reasoning.
    """
    # The numbers are ints, as the column is read by Python's own literals too, which know no `false`.
    messages: list[dict[str, Any]] = [
        {"role": message["role"], "content": message["content"]}
        | ({"loss": 0} if message["role"] == "assistant" else {})
        for message in row.messages
    ]
    ids, weights = row.input_ids[row.response_mask], row.weights[row.response_mask]
    of_tokens, has_text = message_of_tokens(row), row.offsets[:, 0] >= 0
    counts, answers = Counter[str](), list[int]()
    for first, stop in answer_bounds(row.response_mask):
        last = stop
        while last > first and not has_text[last - 1]:
            last -= 1
        if last == first:  # reasoning or an end of turn alone
            counts["tokens_lost"] += int((weights[first:stop] > 0).sum())
            continue
        counts["answers_without_end"] += last == stop
        counts["ends_of_turn_let_in"] += int((weights[last:stop] == 0).sum())
        content = {"token_ids": ids[first:last].tolist(), "loss_scale": np.float64(weights[first:last]).tolist()}
        answers.append(int(of_tokens[first]))
        messages[answers[-1]] = {"role": "assistant", "content": content}
    before = set(range(max(answers, default=0))) - set(answers)
    if answers:
        del messages[max(answers) + 1 :]
    counts["reasoning_left_out"] = sum(any(map(row.messages[i].get, REASONING)) for i in before)
    return messages, counts


def _write(rows: Iterator[MaskedRow], folder: Path, job: Job) -> Written:
    counts = Counter[str]()
    with (folder / FILE).open("w", encoding="utf-8") as file:
        for row in rows:
            messages, own = conversation(row)
            counts.update(own)
            record: dict[str, Any] = {"messages": json.dumps(messages, ensure_ascii=False)}
            if tools := row.messages[0].get("tools"):
                record["tools"] = json.dumps(tools, ensure_ascii=False)
            file.write(json.dumps(record, ensure_ascii=False) + "\n")
    let_in, cut = counts["ends_of_turn_let_in"], counts["answers_without_end"]
    left_out, lost = counts["reasoning_left_out"], counts["tokens_lost"]
    facts = {
        "ends_of_turn_let_in": let_in,
        "answers_without_end": cut,
        "reasoning_left_out": left_out,
        "tokens_lost": lost,
        "max_length": job.counts.longest_row + _ROOM,
    }
    of_ends = (
        f"ms-swift writes and trains the end of each turn by itself: {let_in:,} that the run does not train, and "
        f"{cut:,} behind answers that data.max_length cut."
    )
    of_reasoning = (
        f"ms-swift has no place for reasoning but the tokens of a trained answer: that of {left_out:,} answers which "
        f"are context is left out, and so are {lost:,} trained tokens of answers that data.max_length cut in their "
        "reasoning. The kinds parquet and tinker have all of it."
    )
    said = ((of_ends, let_in or cut), (of_reasoning, left_out or lost))
    return Written(facts, tuple(sentence for sentence, meant in said if meant))


_SHELL = """#!/bin/sh
# Prompts and ends of turns are written by ms-swift's template for the model: see that it is the tokenizer's own, and
# give --system where the tokenizer's template writes a system prompt by itself.
# Weights between 0 and 1 count only with --is_binary_loss_scale false.
cd "$(dirname "$0")" && swift sft --model @MERGED@ --dataset data.jsonl --loss_scale default \\
  --is_binary_loss_scale false --max_length @MAX_LENGTH@ \\
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
