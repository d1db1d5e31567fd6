"""One row for another model's tokenizer: its tokens and labels anew, and what became of its mask on the way."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from tosslm.carrying import Carried, Rule, carry_mask, changed_sides
from tosslm.characters import Tokens
from tosslm.data.answers import place_row
from tosslm.data.tokenize import RowTokenizer
from tosslm.training.labels import training_row

_INTS, _BOOLS = pa.list_(pa.int32()), pa.list_(pa.bool_())
TRANSFER_SCHEMA = pa.schema(
    {"row_id": pa.string(), "input_ids": _INTS, "labels": _INTS, "attention_mask": pa.list_(pa.int8())}
    | {"keep": _BOOLS, "response_mask": _BOOLS}
)


@dataclass(frozen=True, slots=True)
class Transferred:
    """A row for another tokenizer.

    Attributes:
        record: of ``TRANSFER_SCHEMA``.
        keep: bool ``[m]``, one a response token.
        source: how many tokens, and of which kinds.
        target: the same of the target.
        characters: how many, and how many of them change sides.
    """

    record: dict[str, Any]
    keep: np.ndarray
    source: dict[str, int]
    target: dict[str, int]
    characters: dict[str, int]


def transfer_row(
    row: Mapping[str, Any],
    keep: np.ndarray,
    tokenize: RowTokenizer,
    rule: Rule,
    turns: Literal["all", "last"] = "all",
) -> Transferred:
    """Tokenise a row anew and carry its mask over.

    Answers that the source does not train are not trained here either.

    Args:
        row: ``row_id``, ``messages`` (JSON), ``input_ids``, ``response_mask`` and ``offsets`` of ``DATA_SCHEMA``.
        keep: bool ``[n]``, one a response token.
        tokenize: of the target.
        rule: how many characters drop a token.
        turns: ``data.turns`` of the run.

    Raises:
        RowError: the target's template refuses the row, or the target has no room for it.
    """
    placed = place_row(row, turns)
    source, axis = placed.tokens, placed.axis
    made = placed.again(tokenize)
    target = placed.place(made.offsets, made.response_mask, made.input_ids)
    carried = carry_mask(source, keep, target, axis, rule)
    trainable = training_row(made.input_ids, made.response_mask, carried.keep.tolist())
    record = {
        "row_id": row["row_id"],
        "input_ids": made.input_ids,
        "labels": trainable["labels"],
        "attention_mask": [1] * len(made.input_ids),
        "keep": carried.keep.tolist(),
        "response_mask": made.response_mask,
    }
    counts = _counts(source, keep, target, carried)
    sides = asdict(changed_sides(source, keep, target, carried, axis.size))
    return Transferred(record, carried.keep, *counts, sides)


def _counts(
    source: Tokens, keep: np.ndarray, target: Tokens, carried: Carried
) -> tuple[dict[str, int], dict[str, int]]:
    last = np.append(source.answer[1:] != source.answer[:-1], True)  # an end of turn hands its choice on
    copied = np.isin(np.arange(len(keep)), carried.partner)
    before = {
        "tokens": len(keep),
        "dropped": int((~keep).sum()),
        "without_text": int((~source.has_text).sum()),
        "without_text_dropped_not_carried": int((~source.has_text & ~last & ~keep & ~copied).sum()),
    }
    after = {
        "tokens": len(carried.keep),
        "dropped": int((~carried.keep).sum()),
        "not_in_source": int((~carried.chosen).sum()),
        "without_text": int((~target.has_text).sum()),
        "without_text_copied": int((~target.has_text & (carried.partner >= 0)).sum()),
    }
    return before, after
