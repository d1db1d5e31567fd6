"""Rows of a run: everything known of one, and which are worth a look."""

from __future__ import annotations

import heapq
import json
from collections.abc import Iterator
from itertools import repeat
from typing import Any

import numpy as np

from tosslm.characters import unsafe_tokens
from tosslm.runs import layout
from tosslm.runs.reader import Run
from tosslm.runs.tables import read_keep, stored_rows


def row_record(run: Run, row_id: str) -> dict[str, Any]:
    """One row for machines: each response token with text, losses and score, and whether it is kept.

    What the run does not have is None: losses and scores of a method that builds on none, say.

    Raises:
        InputError: no row, or several, have such an id.
    """
    row = run.row(row_id)
    messages = json.loads(row["messages"])
    marked = unsafe_tokens(row["offsets"], row["unsafe_spans"] or [])
    positions = np.flatnonzero(row["response_mask"]).tolist()
    tokens = []
    for i, (message, start, end) in enumerate(row["offsets"]):
        degraded, utility = (row[name][i] if name in row else None for name in ("loss_degraded", "loss_utility"))
        tokens.append(
            {
                "position": positions[i],
                "text": messages[message]["content"][start:end] if message >= 0 else "",
                "offsets": [message, start, end],
                "loss_degraded": degraded,
                "loss_utility": utility,
                "score": None if utility is None else float(np.float32(utility) - np.float32(degraded)),
                "evidence": row["evidence"][i] if "evidence" in row else None,
                "keep": row["keep"][i] if "keep" in row else None,
                "marked_unsafe": bool(marked[i]) if row["unsafe_spans"] is not None else None,
            }
        )
    head = {key: row[key] for key in ("row_id", "origin", "source", "unsafe_spans")}
    return head | {"messages": messages, "tokens": tokens}


def riskiest_rows(run: Run, count: int = 20) -> list[dict[str, Any]]:
    """The rows of which the largest share is dropped, then those with the highest score.

    Before there is a selection ``dropped`` is None, before there are scores ``highest_score``; without either the
    rows are the first ones.
    """
    return [
        {
            "row_id": row["row_id"],
            "source": row["source"],
            "tokens": tokens,
            "dropped": dropped,
            "highest_score": highest,
            "answer": next(m["content"] for m in json.loads(row["messages"]) if m["role"] == "assistant"),
        }
        for _, row, tokens, dropped, highest in heapq.nlargest(count, _ranked(run), key=lambda item: item[0])
    ]


def _ranked(run: Run) -> Iterator[tuple[tuple[float, float, int], dict[str, Any], int, int | None, float | None]]:
    """How high each row stands, the row, its tokens, how many are dropped, and its highest score."""
    selected = run.has(layout.SELECTION)
    # A mask of lists is slow to read; scores and keep masks know as well how many tokens a row has.
    columns = ["row_id", "source", "messages", *([] if run.scored or selected else ["response_mask"])]
    rows = stored_rows(run.layout.rows("custom"), columns)
    scores = run.iter_scores() if run.scored else repeat(None)
    masks = (keep for _, keep in read_keep(run.layout.keep)) if selected else repeat(None)
    for number, (row, own, keep) in enumerate(zip(rows, scores, masks, strict=False)):
        known = own if own is not None else keep
        tokens = len(known) if known is not None else sum(row["response_mask"])
        gone = None if keep is None else int((~keep).sum())
        highest = None if own is None else float(own.max())
        yield ((gone or 0) / tokens, highest or 0.0, -number), row, tokens, gone, highest
