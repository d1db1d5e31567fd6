"""The sets of a config, read and tokenised as a run does it: counts, samples, and what is wrong with them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from tosslm.config import Config
from tosslm.data.own_utility import check_folds, rows_dealt
from tosslm.data.rows import BadRow, held_out, source_rows
from tosslm.data.sets import SetCounts, prepared_rows
from tosslm.data.shared import REFERENCES, Shared
from tosslm.data.tokenize import RowTokenizer
from tosslm.errors import InputError
from tosslm.model.proxy import Proxy, ProxyCounts
from tosslm.planning.sample import RowSample
from tosslm.runs.decisions import DECIDED_COLUMNS, numbered, read_text
from tosslm.runs.layout import SETS
from tosslm.selection.decided import Decision


@dataclass(slots=True)
class SetsRead:
    """What is known of the sets once they were read: counts, a sample of rows, and how long it took."""

    sets: dict[str, SetCounts] = field(default_factory=lambda: {name: SetCounts() for name in SETS})
    proxy_sets: dict[str, ProxyCounts] = field(default_factory=lambda: {name: ProxyCounts() for name in SETS})
    samples: dict[str, RowSample] = field(default_factory=lambda: {name: RowSample() for name in SETS})
    of_proxy: dict[str, RowSample] = field(default_factory=lambda: {name: RowSample() for name in SETS})
    bad_rows: list[dict[str, str]] = field(default_factory=list)
    decisions: list[tuple[int, Decision]] = field(default_factory=list)
    decided: list[dict[str, Any]] = field(default_factory=list)
    shared: Shared = field(default_factory=Shared)
    seconds: float = 0.0

    @property
    def seconds_a_token(self) -> float:
        """How long it took, for a token of the sets."""
        return self.seconds / max(sum(counts.tokens for counts in self.sets.values()), 1)


def read_sets(config: Config, tokenizer: RowTokenizer, proxy: Proxy | None) -> SetsRead:
    """Read and tokenise the sets, as the data stage does."""
    read, start = SetsRead(), time.perf_counter()
    dealt = _Dealt.of(config) if config.data.utility.of_custom else None
    if overrides := config.selection.overrides:
        read.decisions = list(numbered(read_text(Path(overrides)), overrides))
    decided = {decision.row_id for _, decision in read.decisions}
    for name in (*REFERENCES, "custom"):
        counts = read.sets[name]
        rows = _sampled(_good_rows(config, name, tokenizer, counts, read.bad_rows, dealt), read.samples[name])
        if proxy:
            rows = _sampled(proxy.rows(rows, config.data.turns, read.proxy_sets[name]), read.of_proxy[name])
        for row in rows:
            if name in config.data.sources:
                read.shared.add(name, row["row_id"])
            if name == "custom" and row["row_id"] in decided:
                read.decided.append({key: row[key] for key in DECIDED_COLUMNS})
        source = config.data.sources.get(name)  # the custom set may stand in for another, and tells its bad rows
        if source and not counts.rows and not counts.bad:
            raise InputError(f"data.{name}: {source.path} has no row; name a file with rows in it")
        if source and not counts.rows and config.data.on_bad_row == "skip":
            raise InputError(f"data.{name}: {source.path} has no usable row; name a file with rows in it")
    read.bad_rows.sort(key=lambda bad: SETS.index(bad["set"]))
    read.seconds = time.perf_counter() - start
    return read


def mended_rows(config: Config, read: SetsRead) -> dict[str, int]:
    """Rows of each set, copies aside, once its bad ones are mended; some may then stand in for a utility set."""
    if config.data.on_bad_row == "skip":  # none is mended
        return {name: counts.rows - counts.repeated for name, counts in read.sets.items()}
    rows = {name: counts.rows - counts.repeated + counts.bad for name, counts in read.sets.items()}
    if config.data.utility.of_custom:
        most = config.data.utility.rows or rows["custom"]
        rows["utility"] = max(rows["utility"], min(rows["utility"] + read.sets["custom"].bad, most))
    return rows


def _sampled(rows: Iterator[dict[str, Any]], sample: RowSample) -> Iterator[dict[str, Any]]:
    for row in rows:
        sample.add(row)
        yield row


@dataclass(frozen=True, slots=True)
class _Dealt:
    """Which contents of the custom set stand in for a utility set, and which of these are held out."""

    utility: set[str]
    apart: set[str]

    @classmethod
    def of(cls, config: Config) -> _Dealt:
        rows = source_rows(config.data.custom, config.data.max_row_bytes, key="data.custom")
        utility = rows_dealt((row.row_id for row in rows if not isinstance(row, BadRow)), config.data.utility.rows)
        apart = held_out(utility, config.references.holdout) if utility else set()
        if utility:
            check_folds(utility, apart)
        return cls(utility, apart)

    def takes(self, name: str, content: str) -> bool:
        """Whether a row of the custom set is of this set."""
        return content in self.utility if name == "utility" else name != "custom" or content not in self.apart


def _good_rows(
    config: Config,
    name: str,
    tokenizer: RowTokenizer,
    counts: SetCounts,
    bad_rows: list[dict[str, str]],
    dealt: _Dealt | None,
) -> Iterator[dict[str, Any]]:
    again = dealt is not None and name == "utility"  # its bad rows are the custom set's, told of there
    of = "custom" if again else name
    takes = partial(dealt.takes, name) if dealt else (lambda _: True)
    for row in prepared_rows(
        config.data.sources[of],
        tokenizer,
        counts,
        max_row_bytes=config.data.max_row_bytes,
        takes=takes,
        key=f"data.{of}",
    ):
        if again and isinstance(row, BadRow):
            counts.bad = 0
        elif isinstance(row, BadRow):
            bad_rows.append({"set": name, "origin": row.origin, "reason": row.reason, "remedy": row.remedy})
        else:
            yield row
