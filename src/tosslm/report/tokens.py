"""All response tokens of the custom set, flat in memory, and the order in which they would be dropped.

About 30 bytes a token: a report of 100 million tokens needs 3 GB while it is made.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa

from tosslm.characters import unsafe_tokens
from tosslm.errors import TosslmError
from tosslm.files import read_tables
from tosslm.findings.story import own_choice
from tosslm.ragged import row_starts
from tosslm.runs.decisions import read_by_hand, read_decisions
from tosslm.runs.ranking import QUICK_TOKENS, learn_ranking
from tosslm.runs.reader import Run
from tosslm.runs.tables import flat_values, read_losses, row_lengths
from tosslm.selection.cut import discard_count
from tosslm.selection.decided import Decision, overrule, placed
from tosslm.selection.kinds import KINDS
from tosslm.text import LISTED_SOURCES


@dataclass(frozen=True, slots=True)
class Ranking:
    """One kind of evidence, and the order of dropping that it gives.

    Attributes:
        key: ``token``, ``window`` or ``posterior``.
        label: what a reader calls it.
        unit: of its values.
        values: float32 ``[N]``, high means risky.
        ranks: uint32 ``[N]``, 0 for the token that is dropped first; inside each row with ``scope: row``.
    """

    key: str
    label: str
    unit: str
    values: np.ndarray
    ranks: np.ndarray


@dataclass(frozen=True, slots=True)
class CustomTokens:
    """The custom set's tokens, rows one after the other.

    Attributes:
        row_ids: ``[R]``.
        lengths: int64 ``[R]``, response tokens of each row.
        sources: names of the sources, the largest first; many small ones are one, the last.
        source: int ``[R]``, index into ``sources``.
        unsafe: bool ``[N]``, whether a token holds marked unsafe text.
        marked: bool ``[R]``, whether the row says which of its text is unsafe.
        gone: bool ``[N]``, what selection did drop.
        losses: ``loss_utility`` and ``loss_degraded``, float32 ``[N]`` each; None where the run has no scores.
        rankings: the token score, the run's own evidence where it is another one, and the posterior where it can be
            learnt; none where the run has no scores.
        own_kind: index into ``rankings`` of the evidence that selection went by; None where it was a method's own.
        in_rows: whether selection works inside each row.
        decided: int8 ``[N]``, what people decided of each, as of ``selection.decided``; None where they did of none.
        decisions: theirs, in the order of the file.
    """

    row_ids: list[str]
    lengths: np.ndarray
    sources: list[str]
    source: np.ndarray
    unsafe: np.ndarray
    marked: np.ndarray
    gone: np.ndarray
    losses: tuple[np.ndarray, np.ndarray] | None = None
    rankings: Sequence[Ranking] = ()
    own_kind: int | None = None
    in_rows: bool = False
    decided: np.ndarray | None = None
    decisions: Sequence[Decision] = ()

    @property
    def starts(self) -> np.ndarray:
        """Where each row's tokens begin, and where the last row's end: int64 ``[R + 1]``."""
        return row_starts(self.lengths)

    def dropped(self, ranking: Ranking, discard_fraction: float) -> np.ndarray:
        """What would be dropped: bool ``[N]``."""
        limit = self.limits(discard_fraction)
        below = ranking.ranks < (np.repeat(limit, self.lengths) if self.in_rows else limit[0])
        return below if self.decided is None else ~overrule(~below, self.decided)

    def limits(self, discard_fraction: float) -> np.ndarray:
        """The rank that dropping goes up to: int64 ``[R]``, the same for every row unless selection works in rows."""
        if not self.in_rows:
            return np.full(len(self.lengths), discard_count(len(self.gone), discard_fraction))
        return np.array([discard_count(int(length), discard_fraction) for length in self.lengths])

    @property
    def shown(self) -> Ranking | None:
        """The ranking that is looked at first: what selection went by, else the token score, where there is one."""
        return self.rankings[self.own_kind or 0] if self.rankings else None

    def by_row(self, values: np.ndarray) -> np.ndarray:
        """Sums over each row: ``[R]``."""
        return np.add.reduceat(values, self.starts[:-1], dtype=np.float64)


def load_tokens(run: Run) -> CustomTokens:
    """Read what selection left out, what the data say of each token, and the scores of the last round if any."""
    row_ids, sources, of_rows, unsafe, marked = [], [], [], [], []
    for table in read_tables(run.layout.rows("custom"), ["row_id", "source", "offsets", "unsafe_spans"]):
        row_ids += table["row_id"].to_pylist()
        sources += table["source"].to_pylist()
        of_rows.append(row_lengths(table["offsets"]))
        marked.append(table["unsafe_spans"].is_valid().to_numpy())
        unsafe.append(_unsafe(table, of_rows[-1], marked[-1]))
    names, source = _sources(sources)
    lengths, is_marked = np.concatenate(of_rows), np.concatenate(marked)
    gone = ~np.concatenate([flat_values(table["keep"]) for table in read_tables(run.layout.keep, ["keep"])])
    tokens = CustomTokens(row_ids, lengths, names, source, np.concatenate(unsafe), is_marked, gone)
    if "overrides" in run.stages["selection"]:
        by_hand = read_by_hand(run.layout.decisions, run.layout)
        decisions = read_decisions(run.layout.decisions)
        tokens = replace(tokens, decided=by_hand.of(row_ids, lengths), decisions=decisions)
    return replace(tokens, **_scored(run, lengths, tokens.decided)) if run.scored else tokens


def _unsafe(table: pa.Table, lengths: np.ndarray, marked: np.ndarray) -> np.ndarray:
    """Whether a token holds marked unsafe text: bool ``[N]``, of the rows of a table."""
    unsafe, starts = np.zeros(int(lengths.sum()), dtype=bool), row_starts(lengths)
    columns = table.select(["offsets", "unsafe_spans"])
    for row in np.flatnonzero(marked).tolist():
        own = columns.slice(row, 1).to_pylist()[0]
        unsafe[starts[row] : starts[row + 1]] = unsafe_tokens(own["offsets"], own["unsafe_spans"])
    return unsafe


def _scored(run: Run, lengths: np.ndarray, decided: np.ndarray | None) -> dict[str, Any]:
    parts = list(read_losses(run.scores_folder()))
    utility, degraded = (np.concatenate([part[i] for part in parts]) for i in (2, 3))
    selection = run.stages["selection"]
    in_rows = selection.get("scope") == "row"
    rankings = _rankings(run, utility - degraded, lengths, in_rows, decided)
    own = None if own_choice(run) else [ranking.key for ranking in rankings].index(selection.get("evidence", "token"))
    return {"losses": (utility, degraded), "rankings": rankings, "own_kind": own, "in_rows": in_rows}


def _sources(of_rows: Sequence[str]) -> tuple[list[str], np.ndarray]:
    """Names of the sources, and which of them each row is of: int ``[R]``."""
    names, source, sizes = np.unique(np.array(of_rows, dtype=object), return_inverse=True, return_counts=True)
    order = np.argsort(-sizes, kind="stable")
    listed = [str(names[i]) for i in order]
    source = np.argsort(order)[source]
    if len(listed) <= LISTED_SOURCES:
        return listed, source
    others = f"other sources ({len(listed) - LISTED_SOURCES:,})"
    return [*listed[:LISTED_SOURCES], others], np.minimum(source, LISTED_SOURCES)


def _ranks(values: np.ndarray, lengths: np.ndarray | None) -> np.ndarray:
    """The place of each value, highest first, equal ones as they stand; inside each row where lengths are given."""
    ranks = np.empty(len(values), dtype=np.uint32)
    if lengths is None:
        ranks[np.argsort(-values, kind="stable")] = np.arange(len(values), dtype=np.uint32)
        return ranks
    for start, end in zip(np.cumsum(lengths) - lengths, np.cumsum(lengths), strict=True):
        ranks[start:end] = _ranks(values[start:end], None)
    return ranks


def _rankings(
    run: Run, scores: np.ndarray, lengths: np.ndarray, in_rows: bool, decided: np.ndarray | None
) -> list[Ranking]:
    """What tokens can be ranked by, and which of it selection did rank."""
    own = run.stages["selection"].get("evidence", "token")
    values = {"token": scores}
    if own != "token":
        values[own] = np.concatenate(run.evidence())
    if own != "posterior" and (posterior := _posterior(run, scores, lengths)) is not None:
        values["posterior"] = posterior
    ordered = {key: some if decided is None else placed(some, decided) for key, some in values.items()}
    return [
        Ranking(key, KINDS[key].label, KINDS[key].unit, some, _ranks(ordered[key], lengths if in_rows else None))
        for key, some in values.items()
    ]


def _posterior(run: Run, scores: np.ndarray, lengths: np.ndarray) -> np.ndarray | None:
    """The posterior log-odds that selection could have gone by: float32 ``[N]``; None where it would refuse to."""
    try:
        _, log_odds = learn_ranking(
            KINDS["posterior"], run.scores_folder(), seed=run.manifest["seed"], learning_tokens=QUICK_TOKENS
        )
    except (TosslmError, ValueError):  # ValueError: a held-out score is no number
        return None
    return log_odds(scores, lengths).astype(np.float32)
