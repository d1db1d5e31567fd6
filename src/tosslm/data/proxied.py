"""Rows as a proxy reads them, and what it says of them on the base's tokens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from tosslm.characters import reached_end
from tosslm.data.answers import PlacedRow, place_row
from tosslm.data.tokenize import RowTokenizer
from tosslm.data.tokenized import Limits, TokenizedRow
from tosslm.mass import carry_mass, said_of

Turns = Literal["all", "last"]


@dataclass(frozen=True, slots=True)
class ProxyRow:
    """A row as a proxy's tokenizer cuts it.

    Attributes:
        record: of ``PROXY_SCHEMA``.
        same: whether its tokens are the base's own.
        unscored: the base's response tokens of which the proxy says nothing.
    """

    record: dict[str, Any]
    same: bool
    unscored: int


def proxy_row(row: Mapping[str, Any], tokenize: RowTokenizer, limits: Limits, turns: Turns) -> ProxyRow:
    """A stored row as a proxy reads it: as much of its text as the base does, in the proxy's own template.

    Args:
        row: ``row_id``, ``messages`` (JSON), ``input_ids``, ``response_mask`` and ``offsets`` of ``DATA_SCHEMA``.
        tokenize: of the proxy, for rows of any length.
        limits: of the proxy.
        turns: ``data.turns`` of the run.

    Raises:
        RowError: the proxy's template refuses the row, or the proxy has no room for it.
    """
    placed = place_row(row, turns)
    made = placed.again(tokenize)
    if _begins_with(made, row):
        record = {name: row[name] for name in ("row_id", "input_ids", "response_mask", "offsets")}
        limits.check(row["input_ids"])
        return ProxyRow(record, same=True, unscored=0)
    record = {"row_id": row["row_id"], **_as_far(placed, made)}
    limits.check(record["input_ids"])
    theirs = placed.place(record["offsets"], record["response_mask"], record["input_ids"])
    unscored = int((~said_of(theirs, placed.tokens, placed.axis.size)).sum())
    return ProxyRow(record, same=False, unscored=unscored)


def carry_losses(row: Mapping[str, Any], proxy: Mapping[str, Any], losses: np.ndarray, turns: Turns) -> np.ndarray:
    """A proxy's losses of a row on the base's response tokens, by share of characters.

    Args:
        row: as for ``proxy_row``.
        proxy: the row's record of ``PROXY_SCHEMA``.
        losses: float32 ``[n]``, nats, one a response token of the proxy.
        turns: ``data.turns`` of the run.

    Returns:
        float32 ``[m]``, nats, one a response token of the base.
    """
    placed = place_row(row, turns)
    theirs = placed.place(proxy["offsets"], proxy["response_mask"], proxy["input_ids"])
    return carry_mass(theirs, losses, placed.tokens, placed.axis.size).astype(np.float32)


def _begins_with(made: TokenizedRow, row: Mapping[str, Any]) -> bool:
    """Whether a row's tokens are the first ones of what was made of it anew."""
    length, responses = len(row["input_ids"]), len(row["offsets"])
    return (
        made.input_ids[:length] == list(row["input_ids"])
        and made.response_mask[:length] == list(row["response_mask"])
        and made.offsets[:responses] == [list(span) for span in row["offsets"]]
    )


def _as_far(placed: PlacedRow, made: TokenizedRow) -> dict[str, Any]:
    """What was made, up to where the base's tokens of a row end that was cut."""
    tokens, last = placed.tokens, placed.trained[-1] if placed.trained else -1
    theirs = placed.place(made.offsets, made.response_mask, made.input_ids)
    beyond = np.zeros(len(theirs.ids), dtype=bool)
    if not reached_end(tokens, last, placed.axis):
        reach = tokens.end[tokens.answer == last].max(initial=placed.axis.base.get(last, 0))
        beyond = (theirs.answer == last) & theirs.has_text & (theirs.start >= reach)
    ids, mask, offsets = made.input_ids, made.response_mask, made.offsets
    if beyond.any():
        count = int(np.argmax(beyond))
        stop = int(np.flatnonzero(mask)[count])
        ids, mask, offsets = ids[:stop], mask[:stop], offsets[:count]
    return {"input_ids": ids, "response_mask": mask, "offsets": offsets}
