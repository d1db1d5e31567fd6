"""Reading a run: its rows, its scores, its keep mask, and everything known of one row."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tosslm.config import Config, load_config
from tosslm.data.rows import base_id
from tosslm.errors import InputError
from tosslm.files import read_tables
from tosslm.runs import layout
from tosslm.runs.folder import RunFolder
from tosslm.runs.layout import Layout
from tosslm.runs.tables import by_row, part_files, read_evidence, read_keep, read_scores, row_ids

if TYPE_CHECKING:
    from datasets import Dataset


class Run:
    """A run folder, for reading.

    Args:
        path: the folder.
        trust_remote_code: whether its config may have a model's own Python code run. A run folder is data, which
            may come from anywhere, so its own word for it does not count.

    Raises:
        InputError: there is no run.
    """

    def __init__(self, path: str | Path, *, trust_remote_code: bool = False) -> None:
        self.path, self.trust_remote_code = Path(path), trust_remote_code
        self.layout = Layout(self.path)
        if not self.layout.manifest.is_file():
            raise InputError(f"{self.path}: no run there (no manifest.json); `toss run CONFIG` makes one")
        self.folder = RunFolder(self.path)

    @property
    def manifest(self) -> dict[str, Any]:
        """Config, versions, seed, and what is recorded of each step."""
        return self.folder.manifest

    @property
    def stages(self) -> dict[str, Any]:
        """What is recorded of each step."""
        return self.folder.stages

    @property
    def config(self) -> Config:
        """The config that the run was last called with; it trusts a model's code only where this reader does."""
        tree, trusts = _apart(self.manifest.get("config", {}))
        return load_config(tree, ["model.trust_remote_code=true"] if trusts and self.trust_remote_code else ())

    def config_to_go_on(self, overrides: Sequence[str] = (), *, run_dir: str | None = None) -> Config:
        """The config for work on this run's model: as ``load_config``, but trust is never taken from the folder.

        Raises:
            InputError: the folder says ``trust_remote_code: true``, and neither ``overrides`` nor this reader does.
        """
        tree, trusts = _apart(self.manifest.get("config", {}))
        said = ["model.trust_remote_code=true"] if trusts and self.trust_remote_code else []
        config = load_config(tree, [*said, *overrides], run_dir=run_dir)
        if trusts and "trust_remote_code" not in config.model.model_fields_set:
            raise InputError(
                f"{self.path}: its config says model.trust_remote_code: true, which runs Python code that comes with "
                "the model; if you trust whoever made the folder and the model, say so yourself: "
                "--set model.trust_remote_code=true (merge: --trust-remote-code)"
            )
        return config

    @property
    def rows(self) -> Dataset:
        """The custom set: the columns of ``data/custom.parquet``."""
        from datasets import Dataset

        self._need(layout.DATA, "run")
        return Dataset(pa.concat_tables(read_tables(self.layout.rows("custom"))))

    def scores(self, round_: int | None = None) -> list[np.ndarray]:
        """``loss_utility - loss_degraded``, float32, one array a row, one value a response token.

        Args:
            round_: of TOSS-Pro; None is the last one, by which tokens are selected.
        """
        return list(self.iter_scores(round_))

    def iter_scores(self, round_: int | None = None) -> Iterator[np.ndarray]:
        """As ``scores``, one row after the other."""
        return by_row(read_scores(self.scores_folder(round_)))

    def has(self, name: str) -> bool:
        """Whether a step is done, and what it was made from has not changed since."""
        return self.folder.is_current(name)

    @property
    def scored(self) -> bool:
        """Whether the custom set has scores; some methods need none."""
        return self.has(layout.scores(self.last_round))

    @property
    def last_round(self) -> int:
        """The last round that is scored; the config's last one when the run is through."""
        done = [r for r in range(self.config.refinement.rounds + 1) if self.has(layout.scores(r))]
        return max(done, default=0)

    def scores_folder(self, round_: int | None = None) -> Path:
        """Where a round's scores lie.

        Raises:
            InputError: there are none, or they are out of date.
        """
        chosen = layout.scores(self.last_round if round_ is None else round_)
        if not self.has(chosen):
            raise InputError(
                f"{self.layout.of(chosen)}: no scores there; run `toss score` (and `toss refine` for later rounds)"
            )
        return self.layout.of(chosen)

    def keep(self) -> list[np.ndarray]:
        """The keep mask, bool, one array a row, one value a response token."""
        self._need(layout.SELECTION, "select")
        return [keep for _, keep in read_keep(self.layout.keep)]

    def evidence(self) -> list[np.ndarray]:
        """What selection ranked, float32, one array a row, one value a response token.

        The scores themselves with ``selection.evidence: token``, in nats; window means, in nats; or the posterior
        log-odds of unsafe.
        """
        return list(self.iter_evidence())

    def iter_evidence(self) -> Iterator[np.ndarray]:
        """As ``evidence``, one row after the other."""
        self._need(layout.SELECTION, "select")
        stored = self.layout.evidence
        return by_row(read_evidence(stored) if stored.exists() else read_scores(self.scores_folder()))

    def row(self, row_id: str) -> dict[str, Any]:
        """One row with everything known of its tokens.

        Args:
            row_id: the id, or enough of its beginning to name one content; of its copies the first is meant.

        Returns:
            The columns of ``data/custom.parquet``; ``position``, ``loss_degraded``, ``loss_utility`` where the run
            is scored; where selection is done, ``keep`` and, unless it ranked the scores themselves, ``evidence``.

        Raises:
            InputError: no row, or several, have such an id.
        """
        self._need(layout.DATA, "run")
        path = self.layout.rows("custom")
        ids = row_ids(path)
        found = [row_id] if row_id in ids else [known for known in ids if known.startswith(row_id)]
        if len({base_id(known) for known in found}) != 1:
            several = f"{len(found)} rows have ids that begin so: {', '.join(found[:5])}" if found else "no such row"
            raise InputError(f"row {row_id!r}: {several}; `toss show {self.path}` lists the riskiest rows")
        files = [path]
        if self.scored:
            files += part_files(self.scores_folder())
        if self.has(layout.SELECTION):
            files += [file for file in (self.layout.keep, self.layout.evidence) if file.exists()]
        row: dict[str, Any] = {}
        for file in files:
            row |= _record(file, found[0])
        return row

    def _need(self, step: str, command: str) -> None:
        if not self.has(step):
            raise InputError(f"{self.path}: no {step} yet, or out of date; run `toss {command} {self.path}` first")


def _record(file: Path, row_id: str) -> dict[str, Any]:
    """The record of a row; nothing where the file has none of it."""
    for table in read_tables(file):
        found = table.filter(pc.equal(table["row_id"], row_id)).to_pylist()
        if found:
            record: dict[str, Any] = found[0]
            return record
    return {}


def _apart(stored: Mapping[str, Any]) -> tuple[dict[str, Any], bool]:
    """A stored config without its trust in a model's code, and whether it had any."""
    tree = dict(stored)
    trusts = load_config(tree).model.trust_remote_code
    if isinstance(tree.get("model"), Mapping):
        tree["model"] = {key: value for key, value in tree["model"].items() if key != "trust_remote_code"}
    return tree, trusts


def load_run(path: str | Path, *, trust_remote_code: bool = False) -> Run:
    """Open a run folder for reading.

    Args:
        path: the folder.
        trust_remote_code: whether what is done with it may run a model's own Python code, where its config says so.

    Raises:
        InputError: there is no run.
    """
    return Run(path, trust_remote_code=trust_remote_code)
