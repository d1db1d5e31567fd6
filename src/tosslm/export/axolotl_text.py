"""Conversations with the trained pieces of each answer in characters, which Axolotl tokenises anew."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from tosslm.data.fields import REASONING
from tosslm.errors import InputError
from tosslm.export.axolotl_config import axolotl_yaml
from tosslm.export.kind import ExportKind, Job, Snippet, Written
from tosslm.export.rows import MaskedRow, message_of_tokens

FILE = "data.jsonl"


def train_detail(length: int, spans: np.ndarray, trained: np.ndarray) -> list[dict[str, Any]]:
    """The pieces of a text, end inclusive, each trained or not.

    Args:
        length: of the text, in code points.
        spans: int ``[n, 2]``, start and end of each of its tokens.
        trained: bool ``[n]``. A character is trained where every token on it is, and see ``_barred``.

    Returns:
        Pieces that cover the text; none where nothing is trained, which leaves out the whole answer.

    Examples:
        >>> train_detail(5, np.array([[0, 2], [2, 5]]), np.array([True, False]))  # doctest: +NORMALIZE_WHITESPACE
        [{'begin_offset': 0, 'end_offset': 1, 'train': True},
         {'begin_offset': 2, 'end_offset': 4, 'train': False}]
    """
    wanted, barred = np.zeros(length, dtype=bool), np.zeros(length, dtype=bool)
    for (start, end), own in zip(spans.tolist(), (~_barred(spans[:, 0], trained)).tolist(), strict=True):
        (wanted if own else barred)[start:end] = True
    learnt = wanted & ~barred
    if not learnt.any():
        return []
    borders = [0, *(np.flatnonzero(np.diff(learnt)) + 1).tolist(), length]
    return [
        {"begin_offset": start, "end_offset": stop - 1, "train": bool(learnt[start])}
        for start, stop in pairwise(borders)
    ]


def _barred(starts: np.ndarray, trained: np.ndarray) -> np.ndarray:
    """Tokens that must not be trained for the dropped ones to be left out, bool ``[n]``.

    Axolotl takes a token to end before the next one starts. Of the tokens that share a character all but the last
    are empty by that count, and such a one is trained where the piece *before* it is: so the token before goes too.
    """
    barred = ~trained
    groups = np.split(np.arange(len(starts)), np.flatnonzero(np.diff(starts)) + 1)
    for before, group in zip([None, *groups[:-1]][::-1], groups[::-1], strict=True):
        if len(group) and barred[group].any():
            barred[group] = True
            if before is not None and len(group) > 1:
                barred[before[-1]] = True
    return barred


def marked(row: MaskedRow) -> tuple[dict[str, Any], int, int, int]:
    """A row with its pieces.

    Returns:
        The record; answers that are left out since the chat template writes their text otherwise; trained tokens
        that are lost; untrained ends of turn that are let in.
    """
    trained, of_tokens = row.trained[row.response_mask], message_of_tokens(row)
    messages: list[dict[str, Any]] = []
    rewritten = lost = let_in = 0
    for i, message in enumerate(row.messages):
        turn = {key: value for key, value in message.items() if key != "tools"} | {"train_detail": []}
        own = of_tokens == i
        spans, has_text = row.offsets[own][:, 1:], row.offsets[own][:, 0] >= 0
        if own.any():
            content = message["content"]
            first = int(spans[has_text, 0].min(initial=len(content)))
            last = int(spans[has_text, 1].max(initial=first))
            # Such text is tokenised by itself: what a template strips would shift its tokens against the turn's.
            if _whole(content, first, last, spans[has_text]):
                turn["content"] = content[first:last]
                turn["train_detail"] = train_detail(last - first, spans[has_text] - first, trained[own][has_text])
            else:
                rewritten += 1
        details = turn["train_detail"]
        if details:
            # What stands before the text is reasoning: to Axolotl it is not of the turn's content, and not trained.
            ends = ~has_text & np.logical_or.accumulate(has_text)
            lost += int((trained[own] & ~(ends | _covered(spans - first, has_text, details))).sum())
            let_in += int((~trained[own][ends]).sum())
        else:
            lost += int(trained[own].sum())
        messages.append(turn)
    # What comes after the last trained answer teaches nothing, and makes a row that was cut longer than it is:
    # Axolotl would leave out all of it.
    last = max((i for i, turn in enumerate(messages) if turn["train_detail"]), default=len(messages))
    del messages[last + 1 :]
    tools = row.messages[0].get("tools")
    return {"messages": messages} | ({"tools": tools} if tools else {}), rewritten, lost, let_in


def _whole(content: str, first: int, last: int, spans: np.ndarray) -> bool:
    """Whether the template writes a text as it stands, white space around it aside."""
    covered = np.zeros(len(content), dtype=bool)
    for start, end in spans.tolist():
        covered[start:end] = True
    around = content[:first] + content[last:]
    return bool(last > first and covered[first:last].all() and not around.strip())


def _covered(spans: np.ndarray, has_text: np.ndarray, details: list[dict[str, Any]]) -> np.ndarray:
    """Tokens with text that Axolotl trains: those within a trained piece."""
    inside, starts = np.zeros(len(has_text), dtype=bool), spans[has_text, 0]
    lasts = np.append(starts[1:] - 1, details[-1]["end_offset"])  # before the next one starts, as Axolotl has it
    for piece in details:
        if piece["train"]:
            inside[has_text] |= (starts >= piece["begin_offset"]) & (lasts <= piece["end_offset"])
    return inside


def _reasoning_field(row: MaskedRow, known: str | None) -> str | None:
    """The one name that reasoning has in the rows so far, which Axolotl's config has to say; None where none has any.

    Raises:
        InputError: this row has it under another.
    """
    names = {name for message in row.messages for name in REASONING if message.get(name)}
    if len(names | ({known} - {None})) > 1:
        both = " and ".join(sorted(names | {known or ""} - {""}))
        raise InputError(
            f"row {row.row_id}: reasoning is under {both} in this set, and Axolotl reads one of them; give it one "
            "name in the data, or export another kind"
        )
    return names.pop() if names else known


def _write(rows: Iterator[MaskedRow], folder: Path, job: Job) -> Written:
    rewritten = lost = let_in = 0
    field: str | None = None
    with (folder / FILE).open("w", encoding="utf-8") as file:
        for row in rows:
            field = _reasoning_field(row, field)
            record, *counts = marked(row)
            rewritten, lost, let_in = rewritten + counts[0], lost + counts[1], let_in + counts[2]
            file.write(json.dumps(record, ensure_ascii=False) + "\n")
    told = {"answers_left_out": rewritten, "tokens_lost": lost, "ends_of_turn_let_in": let_in}
    sentence = (
        f"Axolotl tokenises this anew, by characters: {lost:,} trained tokens are lost"
        f"{', those of reasoning among them' if field else ''}, {let_in:,} dropped ends of turn are trained, and "
        f"{rewritten:,} answers that the chat template rewrites are left out. The kind parquet loses none."
    )
    return Written(told | {"reasoning_field": field or REASONING[0]}, (sentence,) if any(told.values()) else ())


_ROWS = """
  - path: data.jsonl  # relative to where axolotl is called: go to @FOLDER@
    type: chat_template
    field_messages: messages
    message_field_training_detail: train_detail
    field_thinking: @REASONING_FIELD@
    template_thinking_key: @REASONING_FIELD@
    roles_to_train: []
    train_on_eos: turn
chat_template: tokenizer_default
"""

KIND = ExportKind(
    "axolotl-text",
    f"{FILE}: messages with train_detail, the trained pieces of each answer in characters",
    _write,
    (Snippet("axolotl-chat", "axolotl.yaml", axolotl_yaml(_ROWS)),),
    data=FILE,
)
