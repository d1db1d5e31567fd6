"""Reading a run: its rows, its scores, its keep mask, and the masked data for a trainer of one's own."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from datasets import Dataset, Features, List, Value

from tosslm.config import Config, load_config
from tosslm.errors import InputError
from tosslm.files import read_batches
from tosslm.finetune import selective_rows
from tosslm.masks import read_keep
from tosslm.scoring import part_files, read_scores
from tosslm.store import RunFolder


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
        return Dataset(pq.read_table(self._need("data/custom.parquet", "data")))

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

    def scores_folder(self, round_: int | None = None) -> Path:
        """Where a round's scores lie."""
        chosen = self.config.refinement.rounds if round_ is None else round_
        folder = self.path / "scores" / f"round-{chosen}"
        if not part_files(folder):
            raise InputError(f"{folder}: no scores there; run `toss score` (and `toss refine` for later rounds)")
        return folder

    def keep(self) -> list[np.ndarray]:
        """The keep mask, bool, one array a row, one value a response token."""
        self._need("selection/keep.parquet", "select")
        return [keep for _, keep in read_keep(self.path / "selection")]

    def row(self, row_id: str) -> dict[str, Any]:
        """One row with everything known of its tokens.

        Args:
            row_id: the id, or enough of its beginning to name one row.

        Returns:
            The columns of ``data/custom.parquet`` and ``position``, ``loss_degraded``, ``loss_utility``; ``keep``
            where selection is done.

        Raises:
            InputError: no row, or several, have such an id.
        """
        path = self._need("data/custom.parquet", "data")
        ids = [row["row_id"] for batch in read_batches(path, ["row_id"]) for row in batch]
        found = [row_id] if row_id in ids else [known for known in ids if known.startswith(row_id)]
        if len(found) != 1:
            several = f"{len(found)} rows have ids that begin so: {', '.join(found[:5])}" if found else "no such row"
            raise InputError(f"row {row_id!r}: {several}; `toss show {self.path}` lists the riskiest rows")
        row = pq.read_table(path, filters=[("row_id", "=", found[0])]).to_pylist()[0]
        for part in part_files(self.scores_folder()):
            row |= next(iter(pq.read_table(part, filters=[("row_id", "=", found[0])]).to_pylist()), {})
        keep = self.path / "selection" / "keep.parquet"
        if keep.exists():
            row |= next(iter(pq.read_table(keep, filters=[("row_id", "=", found[0])]).to_pylist()), {})
        return row

    def _need(self, file: str, stage: str) -> Path:
        path = self.path / file
        if not path.is_file():
            raise InputError(f"{path}: not there yet; run `toss {'run' if stage == 'data' else stage}` first")
        return path


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

    Returns:
        ``input_ids``, ``attention_mask`` and ``labels`` (-100 where not trained: prompts, template, dropped tokens),
        one row a row of the custom set, in its order.
    """
    ints = List(Value("int32"))
    features = Features({"input_ids": ints, "attention_mask": List(Value("int8")), "labels": ints})
    columns: dict[str, list] = {"input_ids": [], "attention_mask": [], "labels": []}
    for row in selective_rows(run.path / "data", run.path / "selection"):
        columns["input_ids"].append(row["input_ids"])
        columns["attention_mask"].append([1] * len(row["input_ids"]))
        columns["labels"].append(row["labels"])
    return Dataset.from_dict(columns, features=features)
