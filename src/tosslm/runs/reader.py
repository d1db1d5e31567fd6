"""Reading a run: its rows, its scores, its keep mask, and everything known of one row."""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterator, Mapping, Sequence
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
from tosslm.runs.decisions import print_of, read_text
from tosslm.runs.folder import RunFolder
from tosslm.runs.layout import Layout
from tosslm.runs.mirror import local_run, url_of
from tosslm.runs.tables import by_row, part_files, read_evidence, read_keep, read_scores
from tosslm.runs.untrusted import CODE, JUDGE, apart, says, unsaid_told

if TYPE_CHECKING:
    from datasets import Dataset


class Run:
    """A run folder, for reading.

    Args:
        path: the folder, or its URL, whose working copy is then brought up to date.
        trust_remote_code: whether its config may have a model's own Python code run. A run folder is data, which
            may come from anywhere, so its own word for it does not count.
        steps: of a URL, beginnings of the names of steps whose files are wanted; None is all.

    Raises:
        InputError: there is no run.
        TosslmError: it cannot be fetched.
    """

    def __init__(
        self, path: str | Path, *, trust_remote_code: bool = False, steps: Collection[str] | None = None
    ) -> None:
        self.path, self.trust_remote_code = local_run(path, steps), trust_remote_code
        self.layout = Layout(self.path)
        if not self.layout.manifest.is_file():
            raise InputError(f"{self.path}: no run there (no manifest.json); `toss run CONFIG` makes one")
        self.folder = RunFolder(self.path)
        self._read: tuple[Any, Config] | None = None

    @property
    def name(self) -> str:
        """The folder as a user names it: its URL, where it is a working copy."""
        return url_of(self.path) or str(self.path)

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
        """The config that the run was last called with, for reading.

        It trusts a model's code only where this reader does, and names no judge at an address of the folder's own.
        """
        stored = self.manifest.get("config", {})
        if self._read is None or self._read[0] != stored:
            tree, said = apart(stored)
            if any(key.startswith(JUDGE) for key in said):
                tree["evaluation"] = {key: value for key, value in tree["evaluation"].items() if key != "judge"}
            self._read = copy.deepcopy(stored), load_config(tree, self._trusted(said))
        return self._read[1]

    def config_to_go_on(
        self, overrides: Sequence[str] = (), *, run_dir: str | None = None, asks: bool = True
    ) -> Config:
        """The config for work on this run's model: as ``load_config``, but trust is never taken from the folder.

        Args:
            overrides: as of ``load_config``.
            run_dir: as of ``load_config``.
            asks: whether that work may ask a judge or start a server; else what the folder says of them is left out.

        Raises:
            InputError: the folder has code run or names an address or a key's variable, and neither ``overrides``
                nor this reader says so too.
        """
        tree, said = apart(self.manifest.get("config", {}))
        config = load_config(tree, [*self._trusted(said), *overrides], run_dir=run_dir)
        if unsaid := [key for key in said if (asks or key == CODE) and not says(config, key)]:
            raise InputError(unsaid_told(self.name, said, unsaid))
        return config

    def _trusted(self, said: Mapping[str, Any]) -> list[str]:
        return [f"{CODE}=true"] if CODE in said and self.trust_remote_code else []

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

    def holds(self, name: str) -> bool:
        """Whether a step is done, current, and known to be what the run's config asks for."""
        return self.folder.holds(name)

    def has(self, name: str) -> bool:
        """Whether a step is done, and what it was made from has not changed since."""
        return self.folder.is_current(name)

    @property
    def own_stages(self) -> dict[str, Any]:
        """The steps that are done and of the config: a folder may hold more rounds than that asks for now."""
        rounds = self.config.refinement.rounds
        return {
            name: entry
            for name, entry in self.stages.items()
            if self.has(name) and ("round-" not in name or int(name.rpartition("-")[2]) <= rounds)
        }

    def decided_since(self) -> bool:
        """Whether people's decisions, in the file that the config names, are others than selection went by."""
        path = self.manifest.get("config", {}).get("selection", {}).get("overrides")
        if path is None or not Path(path).is_file():
            return False
        known = self.stages.get(layout.SELECTION, {}).get("overrides", {}).get("sha256")
        return bool(print_of(read_text(Path(path))) != known)

    def check_settled(self, name: str, command: str) -> None:
        """Refuse to hand over what a step made under another config, or other decisions, than there are now.

        Raises:
            InputError: the config was changed, and no command since has looked whether the step still holds; or
                people have decided further since selection.
        """
        if name in (layout.SELECTION, layout.MODEL) and self.decided_since():
            raise InputError(
                f"{self.name}: {self.config.selection.overrides} has other decisions than the selection went by; run "
                f"`toss {command} {self.name}`, or name the file that it went by in selection.overrides"
            )
        if name in self.manifest.get("unsettled", ()):
            raise InputError(
                f"{self.name}: its config was changed after its {name} was made, and nothing has looked since "
                f"whether that still holds; run `toss {command} {self.name}`, which makes anew what does not"
            )

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

        The scores themselves with ``selection.evidence: token``, in nats, or as ``selection.alpha`` and ``beta``
        weigh their losses; window means, in nats; or the posterior log-odds of unsafe.

        Raises:
            InputError: selection is not done, or its method chose tokens by itself and ranked nothing of this.
        """
        return list(self.iter_evidence())

    def iter_evidence(self) -> Iterator[np.ndarray]:
        """As ``evidence``, one row after the other."""
        self._need(layout.SELECTION, "select")
        if method := self.stages[layout.SELECTION].get("method"):
            raise InputError(
                f"{self.name}: {method} chose tokens by itself, so selection ranked nothing; scores() has the scores"
            )
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
        found, known = _beginning(path, row_id)
        if len({base_id(one) for one in found}) != 1:
            several = f"{known} rows have ids that begin so: {', '.join(found[:5])}" if found else "no such row"
            raise InputError(f"row {row_id!r}: {several}; `toss show {self.name}` lists the riskiest rows")
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
            raise InputError(f"{self.name}: no {step} yet, or out of date; run `toss {command} {self.name}` first")


_NAMED = 100
"""Ids of rows that are held where many begin alike."""


def _beginning(path: Path, row_id: str) -> tuple[list[str], int]:
    """The row of an id, else the first rows whose ids begin so, and how many there are."""
    found: list[str] = []
    count = 0
    for table in read_tables(path, ["row_id"]):
        some = table["row_id"].filter(pc.starts_with(table["row_id"], row_id)).to_pylist()
        if row_id in some:
            return [row_id], 1
        count += len(some)
        found += some[: _NAMED - len(found)]
    return found, count


def _record(file: Path, row_id: str) -> dict[str, Any]:
    """The record of a row; nothing where the file has none of it."""
    for table in read_tables(file):
        found = table.filter(pc.equal(table["row_id"], row_id)).to_pylist()
        if found:
            record: dict[str, Any] = found[0]
            return record
    return {}


def load_run(path: str | Path, *, trust_remote_code: bool = False, steps: Collection[str] | None = None) -> Run:
    """Open a run folder for reading.

    Args:
        path: the folder, or its URL.
        trust_remote_code: whether what is done with it may run a model's own Python code, where its config says so.
        steps: of a URL, beginnings of the names of steps whose files are wanted; None is all.

    Raises:
        InputError: there is no run.
        TosslmError: it cannot be fetched.
    """
    return Run(path, trust_remote_code=trust_remote_code, steps=steps)
