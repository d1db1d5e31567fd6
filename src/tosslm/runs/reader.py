"""Reading a run: its rows, its scores, its keep mask, and the masked data for a trainer of one's own."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset

from tosslm.config import Config, load_config
from tosslm.data.sets import ROWS_PER_WRITE
from tosslm.data.rows import base_id
from tosslm.errors import InputError
from tosslm.files import read_batches
from tosslm.stages.finetune import selective_rows
from tosslm.stages.select import KEEP, read_keep
from tosslm.stages.ranking import EVIDENCE, read_evidence
from tosslm.stages.score import part_files, read_scores
from tosslm.runs.folder import RunFolder


class Run:
    """A run folder, for reading.

    Args:
        path: the folder.

    Raises:
        InputError: there is no run.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not (self.path / "manifest.json").is_file():
            raise InputError(f"{self.path}: no run there (no manifest.json); `toss run CONFIG` makes one")
        self.folder = RunFolder(self.path)

    @property
    def manifest(self) -> dict[str, Any]:
        """Config, versions, seed, and what is recorded of each step."""
        return self.folder.manifest

    @property
    def config(self) -> Config:
        """The config that the run was last called with."""
        return load_config(self.manifest["config"])

    @property
    def rows(self) -> Dataset:
        """The custom set: the columns of ``data/custom.parquet``."""
        self._need("data", "run")
        return Dataset(pq.read_table(self.path / "data/custom.parquet"))

    def scores(self, round_: int | None = None) -> list[np.ndarray]:
        """``loss_utility - loss_degraded``, float32, one array a row, one value a response token.

        Args:
            round_: of TOSS-Pro; None is the last one, by which tokens are selected.
        """
        return list(self.iter_scores(round_))

    def iter_scores(self, round_: int | None = None) -> Iterator[np.ndarray]:
        """As ``scores``, one row after the other."""
        folder = self.scores_folder(round_)
        for _, lengths, scores in read_scores(folder):
            yield from np.split(scores, np.cumsum(lengths)[:-1])

    def has(self, name: str) -> bool:
        """Whether a step is done, and what it was made from has not changed since."""
        return self.folder.is_current(name)

    @property
    def last_round(self) -> int:
        """The last round that is scored; the config's last one when the run is through."""
        done = [r for r in range(self.config.refinement.rounds + 1) if self.has(f"scores/round-{r}")]
        return max(done, default=0)

    def scores_folder(self, round_: int | None = None) -> Path:
        """Where a round's scores lie."""
        chosen = self.last_round if round_ is None else round_
        folder = self.path / "scores" / f"round-{chosen}"
        if not self.has(f"scores/round-{chosen}"):
            raise InputError(f"{folder}: no scores there; run `toss score` (and `toss refine` for later rounds)")
        return folder

    def keep(self) -> list[np.ndarray]:
        """The keep mask, bool, one array a row, one value a response token."""
        self._need("selection", "select")
        return [keep for _, keep in read_keep(self.path / "selection")]

    def evidence(self) -> list[np.ndarray]:
        """What selection ranked, float32, one array a row, one value a response token.

        The scores themselves with ``selection.evidence: token``, in nats; window means, in nats; or the posterior
        log-odds of unsafe.
        """
        return list(self.iter_evidence())

    def iter_evidence(self) -> Iterator[np.ndarray]:
        """As ``evidence``, one row after the other."""
        self._need("selection", "select")
        folder = self.path / "selection"
        parts = read_evidence(folder) if (folder / EVIDENCE).exists() else read_scores(self.scores_folder())
        for _, lengths, values in parts:
            yield from np.split(values, np.cumsum(lengths)[:-1])

    def row(self, row_id: str) -> dict[str, Any]:
        """One row with everything known of its tokens.

        Args:
            row_id: the id, or enough of its beginning to name one content; of its copies the first is meant.

        Returns:
            The columns of ``data/custom.parquet`` and ``position``, ``loss_degraded``, ``loss_utility``; where
            selection is done, ``keep`` and, unless it ranked the scores themselves, ``evidence``.

        Raises:
            InputError: no row, or several, have such an id.
        """
        self._need("data", "run")
        path = self.path / "data/custom.parquet"
        ids = [row["row_id"] for batch in read_batches(path, ["row_id"]) for row in batch]
        found = [row_id] if row_id in ids else [known for known in ids if known.startswith(row_id)]
        if len({base_id(known) for known in found}) != 1:
            several = f"{len(found)} rows have ids that begin so: {', '.join(found[:5])}" if found else "no such row"
            raise InputError(f"row {row_id!r}: {several}; `toss show {self.path}` lists the riskiest rows")
        row = pq.read_table(path, filters=[("row_id", "=", found[0])]).to_pylist()[0]
        for part in part_files(self.scores_folder()):
            row |= next(iter(pq.read_table(part, filters=[("row_id", "=", found[0])]).to_pylist()), {})
        if self.has("selection"):
            for path in (self.path / "selection" / KEEP, self.path / "selection" / EVIDENCE):
                if path.exists():
                    row |= next(iter(pq.read_table(path, filters=[("row_id", "=", found[0])]).to_pylist()), {})
        return row

    def _need(self, step: str, command: str) -> None:
        if not self.has(step):
            raise InputError(f"{self.path}: no {step} yet, or out of date; run `toss {command} {self.path}` first")


def joined_rows(path: Path, round_: int) -> list[str]:
    """Ids of the custom rows that joined the harmful set in a round, in the order they were met."""
    return json.loads((path / f"refinement/round-{round_}.json").read_text(encoding="utf-8"))["row_ids"]


def load_run(path: str | Path) -> Run:
    """Open a run folder for reading.

    Raises:
        InputError: there is no run.
    """
    return Run(path)


def masked_dataset(run: Run) -> Dataset:
    """The custom set as any trainer takes it.

    Raises:
        InputError: selection is not done.

    Returns:
        ``input_ids``, ``attention_mask`` and ``labels`` (-100 where not trained: prompts, template, dropped tokens),
        one row a row of the custom set, in its order.
    """
    if not run.has("selection"):
        raise InputError(f"{run.path}: no selection yet; run `toss select {run.path}` first")
    ints = pa.list_(pa.int32())
    schema = pa.schema([("input_ids", ints), ("attention_mask", pa.list_(pa.int8())), ("labels", ints)])
    batches, pending = [], []
    for row in selective_rows(run.path / "data", run.path / "selection"):
        attention_mask = [1] * len(row["input_ids"])
        pending.append({"input_ids": row["input_ids"], "attention_mask": attention_mask, "labels": row["labels"]})
        if len(pending) == ROWS_PER_WRITE:
            batches.append(pa.RecordBatch.from_pylist(pending, schema=schema))
            pending = []
    batches.append(pa.RecordBatch.from_pylist(pending, schema=schema))
    return Dataset(pa.Table.from_batches(batches))
