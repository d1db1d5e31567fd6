"""All response tokens of the custom set, a stretch at a time, and by what they would be dropped.

Tokens lie in files without a name, at 16 bytes each, 4 more for each further ranking and 1 where people decided, as
long as the report is made; rows are in memory, at 6 bytes each, and while those to show are chosen at some 40.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa

from tosslm.characters import unsafe_tokens
from tosslm.files import read_tables
from tosslm.findings.story import own_choice
from tosslm.ragged import places_in_answers, row_numbers, row_starts
from tosslm.runs.column import Column
from tosslm.runs.decisions import read_by_hand, read_decisions
from tosslm.runs.ranking import evidence_of, quick_posterior
from tosslm.runs.reader import Run
from tosslm.runs.tables import Parts, flat_values, read_evidence, read_losses, read_scores, row_lengths
from tosslm.selection.cut import apply_cut, discard_count
from tosslm.selection.decided import Decision, overrule, placed
from tosslm.selection.kinds import KINDS
from tosslm.selection.order import Stream, cuts_at
from tosslm.text import LISTED_SOURCES

BLOCK_TOKENS, _BLOCK_ROWS = 1 << 18, 1 << 13
_LAST_PLACE = 2**16 - 1


@dataclass(frozen=True, slots=True)
class Ranking:
    """One kind of evidence.

    Attributes:
        key: ``token``, ``window`` or ``posterior``.
        label: what a reader calls it.
        unit: of its values.
        values: float32 ``[N]``, high means risky.
    """

    key: str
    label: str
    unit: str
    values: Column


@dataclass(frozen=True, slots=True)
class Block:
    """Some rows on end, and their tokens.

    Attributes:
        rows: which rows.
        tokens: which tokens.
        lengths: int64, of the rows.
    """

    rows: slice
    tokens: slice
    lengths: np.ndarray

    def sums(self, values: np.ndarray) -> np.ndarray:
        """Sums over each row, float64, of a value a token."""
        return np.add.reduceat(values, row_starts(self.lengths)[:-1], dtype=np.float64)

    def repeated(self, of_rows: np.ndarray) -> np.ndarray:
        """For each token the value of its row; of values of all rows."""
        return np.repeat(of_rows[self.rows], self.lengths)


@dataclass(frozen=True, slots=True)
class CustomTokens:
    """The custom set's tokens, rows one after the other.

    Attributes:
        lengths: int32 ``[R]``, response tokens of each row.
        sources: names of the sources, the largest first; many small ones are one, the last.
        source: uint8 ``[R]``, index into ``sources``.
        marked: bool ``[R]``, whether the row says which of its text is unsafe.
        unsafe: bool ``[N]``, whether a token holds marked unsafe text.
        gone: bool ``[N]``, what selection did drop.
        place: uint16 ``[N]``, how many tokens of the same answer stand before each.
        losses: ``loss_utility`` and ``loss_degraded``, float32 ``[N]`` each; None where the run has no scores.
        rankings: the token score, the run's own evidence where it is another one, and the posterior where it can be
            learnt; none where the run has no scores.
        own_kind: index into ``rankings`` of the evidence that selection went by; None where it was a method's own.
        in_rows: whether selection works inside each row.
        decided: int8 ``[N]``, what people decided of each, as of ``selection.decided``; None where they did of none.
        decisions: theirs, in the order of the file.
    """

    lengths: np.ndarray
    sources: list[str]
    source: np.ndarray
    marked: np.ndarray
    unsafe: Column
    gone: Column
    place: Column
    losses: tuple[Column, Column] | None = None
    rankings: Sequence[Ranking] = ()
    own_kind: int | None = None
    in_rows: bool = False
    decided: Column | None = None
    decisions: Sequence[Decision] = ()

    def blocks(self) -> Iterator[Block]:
        """All rows in turn, about ``BLOCK_TOKENS`` tokens at a time."""
        row = token = 0
        while row < len(self.lengths):
            some = self.lengths[row : row + _BLOCK_ROWS].astype(np.int64)
            own = some[: max(1, int(np.searchsorted(np.cumsum(some), BLOCK_TOKENS, side="right")))]
            yield Block(slice(row, row + len(own)), slice(token, token + int(own.sum())), own)
            row, token = row + len(own), token + int(own.sum())

    def placed(self, ranking: Ranking, block: Block) -> np.ndarray:
        """A block's values in the order of dropping: what people dropped above all others, what they kept below."""
        values = ranking.values[block.tokens]
        return values if self.decided is None else placed(values, self.decided[block.tokens])

    def stream(self, ranking: Ranking) -> Stream:
        """Values in the order of dropping, block by block, as often as it is called."""
        return lambda: (self.placed(ranking, block) for block in self.blocks())

    def dropped(self, ranking: Ranking, discard_fraction: float) -> Iterator[np.ndarray]:
        """What would be dropped: bool, an array a block."""
        for block, below in zip(self.blocks(), self.first(ranking, self.limits(discard_fraction)), strict=True):
            yield below if self.decided is None else ~overrule(~below, self.decided[block.tokens])

    def first(self, ranking: Ranking, limits: np.ndarray) -> Iterator[np.ndarray]:
        """Which tokens stand among the first in the order of dropping: bool, an array a block.

        Args:
            ranking: what orders them.
            limits: int64, how many are first: of each row where selection works in rows, else one number, ``[1]``.
        """
        if self.in_rows:
            for block in self.blocks():
                yield row_ranks(self.placed(ranking, block), block.lengths) < block.repeated(limits)
            return
        cut, ties = cuts_at(self.stream(ranking), len(self.gone), [int(limits[0])])[0], 0
        for part in self.stream(ranking)():
            keep, ties = apply_cut(part, cut, ties)
            yield ~keep

    def limits(self, discard_fraction: float) -> np.ndarray:
        """How many are dropped: int64, of each row where selection works in rows, else of all in one, ``[1]``."""
        if not self.in_rows:
            return np.array([discard_count(len(self.gone), discard_fraction)])
        return np.array([discard_count(int(length), discard_fraction) for length in self.lengths])

    @property
    def shown(self) -> Ranking | None:
        """The ranking that is looked at first: what selection went by, else the token score, where there is one."""
        return self.rankings[self.own_kind or 0] if self.rankings else None

    def by_row(self, of: Callable[[Block], np.ndarray], dtype: Any = np.float64) -> np.ndarray:
        """What a function makes of each block's rows, of all rows: ``[R]``."""
        found = np.empty(len(self.lengths), dtype=dtype)
        for block in self.blocks():
            found[block.rows] = of(block)
        return found

    def by_source(self, of: Callable[[Block], np.ndarray]) -> np.ndarray:
        """Sums by source, int64, of what a function makes of each block's rows."""
        found = np.zeros(len(self.sources))
        for block in self.blocks():
            found += np.bincount(self.source[block.rows], of(block), len(self.sources))
        return found.astype(np.int64)


def load_tokens(run: Run) -> CustomTokens:
    """Read what selection left out, what the data say of each token, and the scores of the last round if any."""
    names: dict[str, int] = {}
    unsafe, place, decided = Column(run.path, bool), Column(run.path, np.uint16), None
    by_hand = None
    if "overrides" in run.stages["selection"]:
        by_hand, decided = read_by_hand(run.layout.decisions, run.layout), Column(run.path, np.int8)
    of_rows, marked, sources = [], [], []
    for table in read_tables(
        run.layout.rows("custom"), ["row_id", "source", "offsets", "unsafe_spans", "response_mask"]
    ):
        own, lengths = table["source"].to_pylist(), row_lengths(table["offsets"])
        sources.append(np.array([names.setdefault(name, len(names)) for name in own], dtype=np.int32))
        marked.append(table["unsafe_spans"].is_valid().to_numpy())
        of_rows.append(lengths.astype(np.int32))
        unsafe.append(_unsafe(table, lengths, marked[-1]))
        place.append(np.minimum(_places(table, lengths), _LAST_PLACE))
        if by_hand is not None and decided is not None:
            decided.append(by_hand.of(table["row_id"].to_pylist(), lengths))
    listed, source = _sources(list(names), np.concatenate(sources))
    gone = _column(run, bool, (~flat_values(table["keep"]) for table in read_tables(run.layout.keep, ["keep"])))
    tokens = CustomTokens(np.concatenate(of_rows), listed, source, np.concatenate(marked), unsafe, gone, place)
    if decided is not None:
        tokens = replace(tokens, decided=decided, decisions=read_decisions(run.layout.decisions))
    return replace(tokens, **_scored(run)) if run.scored else tokens


def _column(run: Run, dtype: Any, parts: Iterable[np.ndarray]) -> Column:
    column = Column(run.path, dtype)
    for part in parts:
        column.append(part)
    return column


def _unsafe(table: pa.Table, lengths: np.ndarray, marked: np.ndarray) -> np.ndarray:
    """Whether a token holds marked unsafe text: bool ``[N]``, of the rows of a table."""
    unsafe, starts = np.zeros(int(lengths.sum()), dtype=bool), row_starts(lengths)
    columns = table.select(["offsets", "unsafe_spans"])
    for row in np.flatnonzero(marked).tolist():
        own = columns.slice(row, 1).to_pylist()[0]
        unsafe[starts[row] : starts[row + 1]] = unsafe_tokens(own["offsets"], own["unsafe_spans"])
    return unsafe


def _places(table: pa.Table, lengths: np.ndarray) -> np.ndarray:
    """How many tokens of the same answer stand before each response token: int64 ``[N]``, of the rows of a table."""
    of_rows = row_lengths(table["response_mask"])
    positions = np.arange(of_rows.sum()) - np.repeat(row_starts(of_rows)[:-1], of_rows)
    return places_in_answers(positions[flat_values(table["response_mask"])], lengths)


def _scored(run: Run) -> dict[str, Any]:
    utility, degraded, scores = (Column(run.path, np.float32) for _ in range(3))
    for _, _, of_utility, of_degraded in read_losses(run.scores_folder()):
        utility.append(of_utility)
        degraded.append(of_degraded)
        scores.append(of_utility - of_degraded)
    rankings = _rankings(run, scores)
    selection = run.stages["selection"]
    own = None if own_choice(run) else [ranking.key for ranking in rankings].index(selection.get("evidence", "token"))
    in_rows = selection.get("scope") == "row"
    return {"losses": (utility, degraded), "rankings": rankings, "own_kind": own, "in_rows": in_rows}


def _sources(names: Sequence[str], of_rows: np.ndarray) -> tuple[list[str], np.ndarray]:
    """Names of the sources, and which of them each row is of: uint8 ``[R]``, of indices into all names."""
    sizes = np.bincount(of_rows, minlength=len(names))
    order = sorted(range(len(names)), key=lambda i: (-sizes[i], names[i]))
    place = np.empty(len(names), dtype=np.int64)
    place[order] = np.arange(len(names))
    source = np.minimum(place, LISTED_SOURCES).astype(np.uint8)[of_rows]
    listed = [names[i] for i in order]
    if len(listed) <= LISTED_SOURCES:
        return listed, source
    return [*listed[:LISTED_SOURCES], f"other sources ({len(listed) - LISTED_SOURCES:,})"], source


def row_ranks(values: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """The place of each value in its row, highest first, equal ones as they stand: int64 ``[n]``."""
    row = row_numbers(lengths)
    order = np.lexsort((-values, row))  # stable
    ranks = np.empty(len(values), dtype=np.int64)
    ranks[order] = np.arange(len(values)) - np.repeat(row_starts(lengths)[:-1], lengths)
    return ranks


def _rankings(run: Run, scores: Column) -> list[Ranking]:
    """What tokens can be ranked by, and which of it selection did rank."""
    own = run.stages["selection"].get("evidence", "token")
    values = {"token": scores}
    if own != "token":
        values[own] = _column(run, np.float32, _values(read_evidence(run.layout.evidence)))
    if own != "posterior" and (posterior := _posterior(run)) is not None:
        values["posterior"] = posterior
    return [Ranking(key, KINDS[key].label, KINDS[key].unit, some) for key, some in values.items()]


def _posterior(run: Run) -> Column | None:
    """The posterior log-odds that selection could have gone by, float32; None where it would refuse to."""
    folder = run.scores_folder()
    if (learnt := quick_posterior(folder, seed=run.manifest["seed"])) is None:
        return None
    return _column(run, np.float32, _values(evidence_of(read_scores(folder), learnt[1])))


def _values(parts: Parts) -> Iterator[np.ndarray]:
    return (values for _, _, values in parts)
