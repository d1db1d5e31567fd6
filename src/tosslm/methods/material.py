"""What a method may look at when it chooses tokens, read from the run folder as flat arrays, and texts as streams."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa

from tosslm.config import Config
from tosslm.errors import TosslmError
from tosslm.files import read_tables
from tosslm.ragged import places_in_answers, row_starts, sums_before
from tosslm.runs.layout import scores
from tosslm.runs.tables import (
    RowsInTurn,
    flat_values,
    read_losses,
    reference_rows,
    row_lengths,
    stored_rows,
)

if TYPE_CHECKING:
    from tosslm.workbench import Workbench

_NONE = np.zeros(0, dtype=np.float32)
_COLUMNS = ("row_id", "source", "response_mask")


@dataclass(frozen=True, slots=True)
class Texts:
    """Conversations, each as one text, read from the disk anew each time one goes through them: none is held.

    Attributes:
        rows: streams records that have ``messages``, JSON text.
    """

    rows: Callable[[], Iterable[Mapping[str, Any]]]

    def __iter__(self) -> Iterator[str]:  # noqa: D105
        for row in self.rows():
            yield "\n".join(message["content"] for message in json.loads(row["messages"]))


@dataclass(frozen=True, slots=True)
class Material:
    """What a method may look at; ``N`` response tokens in ``R`` rows: the whole set, or a part of it.

    Attributes:
        lengths: int64 ``[R]``, response tokens of each row.
        answers: int64 ``[A]``, response tokens of each answer, those of a row after those of the row before it.
        sources: ``[R]``, each row's source, as Python's ``str``.
        texts: ``[R]``, each row's conversation as one text: to go through as often as one likes, a pass over the
            disk each. Of a part there are none.
        target_texts: the same of the rows that the utility reference was trained on; with ``data.utility.from:
            custom`` of all that stand in, which may hold harm: a method that reads them ``needs`` ``UTILITY_SET``.
        discard_fraction: share of tokens to drop, for a method with ``drops_share``.
        seed: of what is random.
        harmful_sources: names that the config calls harmful.
        loss_degraded: float32 ``[N]``, nats; empty where the method builds on no scores.
        loss_utility: float32 ``[N]``, likewise.
        signals: the method's own, by name.
    """

    lengths: np.ndarray
    answers: np.ndarray
    sources: np.ndarray
    texts: Iterable[str]
    target_texts: Iterable[str]
    discard_fraction: float
    seed: int
    harmful_sources: frozenset[str] = frozenset()
    loss_degraded: np.ndarray = field(default_factory=lambda: _NONE)
    loss_utility: np.ndarray = field(default_factory=lambda: _NONE)
    signals: Mapping[str, np.ndarray] = field(default_factory=dict)

    @property
    def scores(self) -> np.ndarray:
        """Float32 ``[N]``: loss under the utility minus loss under the degraded reference."""
        return self.loss_utility - self.loss_degraded

    @property
    def positions(self) -> np.ndarray:
        """Int64 ``[N]``, how many response tokens of the same answer stand before each."""
        return np.arange(self.answers.sum()) - np.repeat(row_starts(self.answers)[:-1], self.answers)


def load_material(bench: Workbench, *, with_scores: bool, signals: Mapping[str, np.ndarray]) -> Material:
    """Read what a method may look at, of the whole set.

    Args:
        bench: of the run.
        with_scores: read both references' losses too, 8 bytes a token.
        signals: what the method has made for itself.

    Raises:
        TosslmError: the scores are of other rows than the custom set's.
    """
    path = bench.layout.rows("custom")
    shape = _RowsShape(*map(np.concatenate, zip(*map(_shape_of, _tables(bench)), strict=True)))
    losses = _losses(bench, shape.lengths) if with_scores else (_NONE, _NONE)
    return _material(bench, shape, Texts(lambda: stored_rows(path, ["messages"])), losses, signals)


def material_parts(bench: Workbench, *, with_scores: bool) -> Iterator[tuple[list[str], Material]]:
    """The same a part at a time, with the ids of its rows, without texts and signals.

    Args:
        bench: of the run.
        with_scores: read both references' losses too.

    Raises:
        TosslmError: the scores are of other rows than the custom set's.
    """
    texts = Texts(_no_texts)
    if not with_scores:
        for table in _tables(bench):
            yield table["row_id"].to_pylist(), _material(bench, _shape_of(table), texts, (_NONE, _NONE), {})
        return
    rows = RowsInTurn(bench.layout.rows("custom"), _COLUMNS)
    for ids, lengths, utility, degraded in _scored(bench):
        table = rows.take(len(ids))
        shape = None if table is None else _shape_of(table)
        if shape is None or not np.array_equal(shape.lengths, lengths):
            raise _other_rows()
        yield ids, _material(bench, shape, texts, (utility, degraded), {})
    if rows.take(1) is not None:
        raise _other_rows()


def dropped_share(config: Config) -> float:
    """The share of tokens that a method with ``drops_share`` drops."""
    return 0.0 if config.selection.discard_fraction == "auto" else config.selection.share


class _RowsShape(NamedTuple):
    """``lengths``, ``answers`` and ``sources``, as of ``Material``."""

    lengths: np.ndarray
    answers: np.ndarray
    sources: np.ndarray


def _shape_of(table: pa.Table) -> _RowsShape:
    mask = flat_values(table["response_mask"]).astype(bool, copy=False)
    before = sums_before(mask)
    lengths = np.diff(before[row_starts(row_lengths(table["response_mask"]))])
    places = places_in_answers(np.flatnonzero(mask), lengths)
    answers = np.diff(np.flatnonzero(places == 0), append=len(places))
    coded = table["source"].combine_chunks().dictionary_encode()
    names = np.array([sys.intern(name) for name in coded.dictionary.to_pylist()], dtype=object)
    return _RowsShape(lengths, answers, names[coded.indices.to_numpy()])


def _tables(bench: Workbench) -> Iterator[pa.Table]:
    return read_tables(bench.layout.rows("custom"), _COLUMNS)


def _material(
    bench: Workbench,
    shape: _RowsShape,
    texts: Texts,
    losses: tuple[np.ndarray, np.ndarray],
    signals: Mapping[str, np.ndarray],
) -> Material:
    config, path = bench.config, bench.layout.rows("utility")
    share, columns = config.references.holdout, ("row_id", "messages")
    return Material(
        *shape,
        texts=texts,
        target_texts=Texts(lambda: reference_rows(path, share, want_held_out=False, columns=columns)),
        discard_fraction=dropped_share(config),
        seed=config.seed,
        harmful_sources=frozenset(config.compare.harmful_sources),
        loss_utility=losses[0],
        loss_degraded=losses[1],
        signals=signals,
    )


def _losses(bench: Workbench, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Losses under the utility and the degraded reference, each written into one array part by part."""
    utility, degraded = (np.empty(int(lengths.sum()), dtype=np.float32) for _ in range(2))
    row = token = 0
    for ids, own, of_utility, of_degraded in _scored(bench):
        if not np.array_equal(lengths[row : row + len(ids)], own):
            raise _other_rows()
        place = slice(token, token + len(of_utility))
        utility[place], degraded[place] = of_utility, of_degraded
        row, token = row + len(ids), place.stop
    if row != len(lengths):
        raise _other_rows()
    return utility, degraded


def _scored(bench: Workbench) -> Iterator[tuple[list[str], np.ndarray, np.ndarray, np.ndarray]]:
    return read_losses(bench.layout.of(scores(bench.config.refinement.rounds)))


def _no_texts() -> Iterable[Mapping[str, Any]]:
    raise TosslmError("a choice that is made part by part sees no texts; make it a function of the whole set")


def _other_rows() -> TosslmError:
    return TosslmError("the scores are of other rows than data/custom.parquet; `toss run` makes both again")
