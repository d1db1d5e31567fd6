"""An inspected set as one page: counts and findings at the top, below them rows whose trained tokens are coloured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tosslm.files import write_text
from tosslm.report.embed import encode, utf16_places
from tosslm.report.shell import coded, dress, environment
from tosslm.text import number

WORDS = ["trained", "not trained", "tokens"]


@dataclass(frozen=True, slots=True)
class PageRow:
    """A row of the page.

    Attributes:
        number: line or row of the file.
        ids: int64 ``[T]``, the tokens that are shown.
        texts: what each of them reads.
        trained: bool ``[T]``.
        length: tokens of the whole row.
    """

    number: int
    ids: np.ndarray
    texts: Sequence[str]
    trained: np.ndarray
    length: int


def write_inspection(facts: Mapping[str, Any], meaning: str, rows: Sequence[PageRow], path: Path) -> None:
    """Write the page.

    Args:
        facts: of ``Inspection.summary``.
        meaning: how the set says which tokens train.
        rows: to look at; those without tokens are left out.
        path: the HTML file.
    """
    shown = [row for row in rows if len(row.ids)]
    html = (
        environment(review=None)
        .get_template("inspection.html")
        .render(
            name=facts["path"],
            facts=facts,
            meaning=meaning,
            counts=_counts(facts),
            rows=len(shown),
            cut=sum(row.length > len(row.ids) for row in shown),
            decisions=coded([]),
            block=_block(shown),
            **dress(),
        )
    )
    write_text(path, html)


def _counts(facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    counts = [("rows", f"{facts['rows']:,}")]
    if "tokens" in facts:
        if facts["sequences"] != facts["rows"]:
            counts.append(("sequences", f"{facts['sequences']:,}"))
        counts.append(("tokens", f"{facts['tokens']:,}"))
        counts.append(("tokens that train", f"{facts['trained_tokens']:,} ({number(facts['trained_share'], '.1%')})"))
    if answers := facts.get("answers"):
        counts.append(("answers that train", f"{answers['trained']:,} of {answers['answers']:,}"))
    counts.append(("rows that train on nothing", f"{facts['rows_training_nothing']:,}"))
    if facts.get("longest_row") is not None:
        counts.append(("longest row", f"{facts['longest']:,} tokens (row {facts['longest_row']:,})"))
    return counts


def _block(rows: Sequence[PageRow]) -> str:
    """Rows as the script reads them: each one message, whose tokens stand one behind the other."""
    listed, places = [], []
    for row in rows:
        ends = np.cumsum([len(text) for text in row.texts])
        messages = [("tokens", "".join(row.texts))]
        triples = np.stack([np.zeros_like(ends), ends - [len(text) for text in row.texts], ends], axis=1)
        places.append(utf16_places(messages, triples.tolist()))
        told = f"the first {len(row.ids):,} of {row.length:,} tokens" if row.length > len(row.ids) else ""
        listed.append([f"{row.number}", told, 0, 0, messages, [], f"row {row.number}"])
    place = np.concatenate([*places, np.zeros((0, 3), dtype=np.int64)])
    lengths = np.array([len(row.ids) for row in rows], dtype=np.int64)
    flat = {
        "ids": np.concatenate([*(row.ids for row in rows), np.zeros(0, dtype=np.int64)]),
        "trained": np.concatenate([*(row.trained for row in rows), np.zeros(0, dtype=bool)]),
    }
    gap = np.zeros(len(place), dtype=np.int32)
    columns = {
        "length": lengths.astype(np.uint32),
        "turn": np.zeros(len(place), dtype=np.int16),
        "gap": gap,
        "size": (place[:, 2] - place[:, 1]).astype(np.int32),
        "gone": (~flat["trained"]).astype(np.uint8),
        "id": np.clip(flat["ids"], -(2**31), 2**31 - 1).astype(np.int32),
    }
    header = {
        "rows": listed,
        "words": WORDS,
        "sources": ["row"],
        "sourceTokens": [len(place)],
        "sourceGone": [int((~flat["trained"]).sum())],
        "kinds": [],
        "ownKind": None,
        "tokens": len(place),
        "grid": [0.0],
        "own": 0,
        "inRows": False,
        "step": 1,
    }
    return encode(header, columns)
