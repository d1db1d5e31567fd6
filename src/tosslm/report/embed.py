"""Rows as the report's script reads them: compact, compressed, and unable to break out of their element.

The block is gzip in Base64, an alphabet without ``<`` and quotes: whatever text the data hold, it cannot end the
element that carries it, and it takes a fifth of the space of JSON.
"""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tosslm.files import read_tables
from tosslm.ragged import row_starts, sums_before
from tosslm.report.tokens import Block, CustomTokens, Ranking, row_ranks
from tosslm.runs.column import Column
from tosslm.runs.reader import Run
from tosslm.runs.tables import read_joined
from tosslm.selection.order import quantiles, ranks_of_some

MAX_BYTES = 25 * 2**20
MAX_ROWS = 20_000
STEP = 1 / 256
"""Nats between two neighbours of the stored losses and scores."""
_TEXT_BYTES, _TOKEN_BYTES = 0.7, 10.0
"""Rough sizes in the file, of a byte of text and of a token; a report that comes out too large is made again."""
_TENTH = 0.1
_PIECE = 1 << 14
COVERED, JOINED, MARKED = 1, 2, 4
_LOSSES = ("utility", "degraded")


def row_sizes(tokens: CustomTokens, text_bytes: np.ndarray) -> np.ndarray:
    """About how many bytes each row takes in the file: float64 ``[R]``."""
    sizes: np.ndarray = tokens.lengths * (_TOKEN_BYTES * max(len(tokens.rankings), 1))
    sizes += text_bytes * _TEXT_BYTES
    return sizes


def choose_rows(tokens: CustomTokens, text_bytes: np.ndarray, budget: float, seed: int) -> dict[str, np.ndarray]:
    """The rows to show when not all fit: a third the riskiest, a third around the median, a third at random.

    Without scores nobody knows which are riskiest: those that lost most stand for them.

    Args:
        tokens: all tokens.
        text_bytes: of each row's messages, ``[R]``.
        budget: bytes in the file.
        seed: of the random rows.

    Returns:
        Indices of rows under ``riskiest`` (or ``lost most``), ``median``, ``random``, without those that would fill a
        third alone; all rows under ``all`` if they fit; the smallest under ``smallest`` if no other does.
    """
    sizes = row_sizes(tokens, text_bytes)
    if sizes.sum() <= budget and len(sizes) <= MAX_ROWS:
        return {"all": np.arange(len(sizes))}
    chosen: dict[str, np.ndarray] = {}
    free = sizes <= budget / 3  # the first row of a third that is larger would end it there
    if not free.any():
        return {"smallest": np.array([np.argmin(sizes)])}
    by_risk = np.argsort(-_risk(tokens), kind="stable")
    orders: dict[str, Callable[[], Iterator[np.ndarray]]] = {
        "riskiest" if tokens.shown else "lost most": lambda: _in_pieces(by_risk),
        "median": lambda: (by_risk[places] for places in _from_the_middle(len(by_risk))),
        "random": lambda: _in_pieces(np.random.default_rng(seed).permutation(len(sizes))),
    }
    for name, order in orders.items():
        chosen[name] = _fitting(order(), sizes, free, budget / 3)
        free[chosen[name]] = False
    return chosen


def _fitting(order: Iterable[np.ndarray], sizes: np.ndarray, free: np.ndarray, room: float) -> np.ndarray:
    """The first free rows of an order that comes in pieces, as many as there is room for."""
    found: list[np.ndarray] = []
    taken, rows = 0.0, 0
    for piece in order:
        left = piece[free[piece]]
        total = taken + np.cumsum(sizes[left])
        fits = (total <= room) & (rows + np.arange(len(left)) < MAX_ROWS // 3)
        found.append(left[fits])
        if not fits.all():
            break
        taken, rows = total[-1] if len(left) else taken, rows + len(left)
    return np.concatenate([*found, np.zeros(0, dtype=np.int64)])


def _in_pieces(order: np.ndarray) -> Iterator[np.ndarray]:
    return (order[start : start + _PIECE] for start in range(0, len(order), _PIECE))


def _from_the_middle(count: int) -> Iterator[np.ndarray]:
    """All places, nearest to the middle first, of two as near the one before it; in pieces."""
    middle = count // 2
    for start in range(0, middle + 1, _PIECE):
        far = np.arange(start, min(start + _PIECE, middle + 1))
        places = np.stack([middle - far, middle + far], axis=1).ravel()
        places = places if start else places[1:]  # the middle itself once
        yield places[(places >= 0) & (places < count)]


def _risk(tokens: CustomTokens) -> np.ndarray:
    """What rows are ordered by, float32 ``[R]``: the highest value of each, or the share that it lost."""
    if shown := tokens.shown:
        return tokens.by_row(
            lambda block: np.maximum.reduceat(shown.values[block.tokens], row_starts(block.lengths)[:-1]), np.float32
        )
    return tokens.by_row(lambda block: block.sums(tokens.gone[block.tokens]) / block.lengths)


def risky_rows(tokens: CustomTokens, discard_fraction: float) -> np.ndarray:
    """Rows whose text may be harmful, whatever selection did with them: bool ``[R]``.

    Those with marked unsafe text; with more than a tenth of their tokens among the riskiest tenth of all; with
    evidence above zero on average, which speaks for harm; and those that lost more than their share. Without scores
    nothing is known of any, and all may be.

    Args:
        tokens: all tokens.
        discard_fraction: the run's own.
    """
    if tokens.shown is None:
        return np.ones(len(tokens.lengths), dtype=bool)
    column = tokens.shown.values
    [high] = quantiles(lambda: (column[block.tokens] for block in tokens.blocks()), len(column), [1 - _TENTH])

    def risky(block: Block) -> np.ndarray:
        values = column[block.tokens]
        riskiest = block.sums(values >= np.float32(high)) / block.lengths
        lost = block.sums(tokens.gone[block.tokens]) / block.lengths
        unsafe = block.sums(tokens.unsafe[block.tokens]) > 0
        marked: np.ndarray = unsafe | (riskiest > _TENTH) | (block.sums(values) > 0) | (lost > discard_fraction)
        return marked

    return tokens.by_row(risky, bool)


def embed_rows(run: Run, tokens: CustomTokens, chosen: np.ndarray, discard_fraction: float) -> dict[str, Any]:
    """What the script needs of the chosen rows.

    Args:
        run: the run.
        tokens: all tokens.
        chosen: indices of rows, ascending.
        discard_fraction: the run's own.

    Returns:
        ``header`` (JSON-able) and ``columns`` (name to array), for ``encode``.
    """
    rows, places = _texts(run, tokens, chosen, discard_fraction)
    wanted = np.zeros(len(tokens.lengths), dtype=bool)
    wanted[chosen] = True
    arrays = _places(places, tokens.lengths[chosen])
    if tokens.losses:
        arrays |= {
            name: _quantised(_taken(tokens, loss, wanted)) for name, loss in zip(_LOSSES, tokens.losses, strict=True)
        }
    for i, ranking in enumerate(tokens.rankings):
        arrays[f"value{i}"] = _quantised(_taken(tokens, ranking.values, wanted))
        arrays[f"rank{i}"] = _ranks(tokens, ranking, wanted)
    if tokens.own_kind is None:  # no ranking gives the choice back
        arrays["gone"] = _taken(tokens, tokens.gone, wanted).astype(np.uint8)
    return {"header": {"rows": rows, "step": STEP}, "columns": arrays}


def _taken(tokens: CustomTokens, column: Column, wanted: np.ndarray) -> np.ndarray:
    """The values of wanted rows' tokens, one after the other."""
    return np.concatenate([column[block.tokens][block.repeated(wanted)] for block in tokens.blocks()])


def _ranks(tokens: CustomTokens, ranking: Ranking, wanted: np.ndarray) -> np.ndarray:
    """The place of wanted rows' tokens in the order of dropping, 0 for the first of all, or of its row: uint32."""
    if not tokens.in_rows:
        return ranks_of_some(
            lambda: ((tokens.placed(ranking, block), block.repeated(wanted)) for block in tokens.blocks())
        )
    parts = [
        row_ranks(tokens.placed(ranking, block), block.lengths)[block.repeated(wanted)] for block in tokens.blocks()
    ]
    return np.concatenate(parts).astype(np.uint32)


def _texts(
    run: Run, tokens: CustomTokens, chosen: np.ndarray, discard_fraction: float
) -> tuple[list[list[Any]], list[np.ndarray]]:
    """Of each chosen row its facts and conversation; and the places of its tokens, ``[n, 3]``."""
    risky = risky_rows(tokens, discard_fraction)
    joined = {id_ for round_ in range(1, run.last_round + 1) for id_ in read_joined(run.layout.joined(round_))}
    rows, places = [], []
    columns = ["row_id", "origin", "source", "messages", "offsets", "unsafe_spans"]
    for number, row in _records(run.layout.rows("custom"), columns, chosen):
        messages = [(message["role"], message["content"]) for message in json.loads(row["messages"])]
        is_joined = row["row_id"] in joined
        covered = bool(risky[number]) or is_joined
        flags = COVERED * covered | JOINED * is_joined | MARKED * bool(tokens.marked[number])
        spans = utf16_places(messages, row["unsafe_spans"] or [])
        source = int(tokens.source[number])
        # A row of a small source stands under "other sources", and carries the name of its own.
        own = [] if tokens.sources[source] == row["source"] else [row["source"]]
        rows.append([row["row_id"], row["origin"], source, flags, messages, spans.tolist(), *own])
        places.append(utf16_places(messages, row["offsets"]))
    return rows, places


def _records(path: Path, columns: Sequence[str], chosen: np.ndarray) -> Iterator[tuple[int, dict[str, Any]]]:
    """Number and record of chosen rows; of the others nothing is made a Python object."""
    start = 0
    for table in read_tables(path, columns):
        first, last = np.searchsorted(chosen, [start, start + len(table)])
        own = chosen[first:last]
        yield from zip(own.tolist(), table.take(own - start).to_pylist(), strict=True)
        start += len(table)


def _places(places: Sequence[np.ndarray], lengths: np.ndarray) -> dict[str, np.ndarray]:
    """Where tokens stand, as columns that compress well."""
    place = np.concatenate(places)
    last_end = np.concatenate([[0], place[:-1, 2]])
    last_end[np.cumsum(lengths)[:-1]] = 0  # each row begins anew
    return {
        "length": lengths.astype(np.uint32),
        "turn": place[:, 0].astype(np.int16),
        # A token mostly begins where the last one ended, so the differences are mostly zero, and compress away.
        "gap": (place[:, 1] - last_end).astype(np.int32),
        "size": (place[:, 2] - place[:, 1]).astype(np.int32),
    }


def _quantised(values: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(values / STEP), -(2**15), 2**15 - 1).astype(np.int16)


def utf16_places(messages: Sequence[tuple[str, str]], triples: Sequence[Sequence[int]]) -> np.ndarray:
    """Triples of message index, start and end, from code points to the UTF-16 units that scripts count in."""
    places = np.array(triples, dtype=np.int64).reshape(-1, 3)
    for i, (_, content) in enumerate(messages):
        if content.isascii():
            continue
        astral = np.fromiter((ord(character) > 0xFFFF for character in content), dtype=np.int64, count=len(content))
        unit = sums_before(1 + astral)
        own = places[:, 0] == i
        places[own, 1:] = unit[places[own, 1:]]
    return places


def encode(header: dict[str, Any], columns: dict[str, np.ndarray]) -> str:
    """One Base64 text: gzip over the header's length, the header as JSON, and the columns, each padded to 8 bytes."""
    body, index, at = [], {}, 0
    for name, values in columns.items():
        data = np.ascontiguousarray(values, dtype=values.dtype.newbyteorder("<")).tobytes()
        index[name] = [values.dtype.name, at, len(values)]
        body.append(data + bytes(-len(data) % 8))
        at += len(body[-1])
    head = json.dumps(header | {"columns": index}, ensure_ascii=False, separators=(",", ":")).encode()
    head += b" " * (-(len(head) + 8) % 8)
    packed = b"".join([len(head).to_bytes(8, "little"), head, *body])
    return base64.b64encode(gzip.compress(packed, 6, mtime=0)).decode()
