"""What a run's manifest says of its steps, and whether that still holds."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tosslm.files import fingerprint, sha256
from tosslm.runs.shared import HAZARDOUS

KNOWN_BY = "fingerprint"
"""File of a step's private folder that says whose it is."""
SINCE_BEFORE = "changed_from_previous"
"""Fact of a selection: how many tokens changed sides since the one that stood there; true of that folder alone."""


@dataclass(frozen=True, slots=True)
class Mark:
    """What a step that is about to be done is known by.

    Attributes:
        name: such as ``scores/round-0``; the key in the manifest's ``stages``.
        fingerprint: of what the step depends on, its inputs' prints and its version among it; files that are kept
            from a killed process bear it.
        inputs: the steps it reads from, each with its print at that time.
        outputs: files or folders, relative to the run folder, that the step writes.
        covered: what the fingerprint covers beside inputs and version.
        work: a private folder for unfinished work.
    """

    name: str
    fingerprint: str
    inputs: dict[str, str]
    outputs: tuple[str, ...]
    covered: list[Any]
    work: Path

    def prepare(self) -> None:
        """Make the step's private folder; what a different step left there is removed."""
        known = self.work / KNOWN_BY
        if not known.exists() or known.read_text(encoding="utf-8") != self.fingerprint:
            shutil.rmtree(self.work, ignore_errors=True)
            self.work.mkdir(parents=True)
            for folder in (self.work.parent, self.work):
                folder.chmod(0o700)
            known.write_text(self.fingerprint, encoding="utf-8")


def asked_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """What a run's config asks for: all but where the run lies."""
    return {key: value for key, value in config.items() if key != "run_dir"}


class Recorded:
    """Steps as a manifest has them.

    Attributes:
        path: the run folder.
        manifest: what is recorded.
    """

    path: Path
    manifest: dict[str, Any]

    @property
    def stages(self) -> dict[str, Any]:
        """What is recorded of each step: fingerprint, files with SHA-256, seconds, and the step's own facts."""
        return self.manifest["stages"]

    def is_done(self, mark: Mark) -> bool:
        """Whether the step's fingerprint and all of its checksums hold."""
        entry = self.stages.get(mark.name)
        return entry is not None and entry["fingerprint"] == mark.fingerprint and not self.damaged(mark.name)

    def has_done(self, mark: Mark) -> bool:
        """Whether another run's step is the very same here, of what is still so, and wrote what it writes there."""
        own = self.stages.get(mark.name, {}).get("files", {})
        alike = all(file.startswith(mark.outputs) for file in own)  # earlier versions' steps wrote others' files too
        return alike and self.is_done(mark) and self.is_current(mark.name)

    def damaged(self, name: str) -> list[str]:
        """The step's files that are missing or altered."""
        return [
            file
            for file, checksum in self.stages[name]["files"].items()
            if not (self.path / file).is_file() or sha256(self.path / file) != checksum
        ]

    def print_of(self, name: str) -> str:
        """What later steps take a done step to be: its fingerprint and the bytes that it wrote."""
        entry = self.stages[name]
        return fingerprint(entry["fingerprint"], entry["files"])

    def is_current(self, name: str) -> bool:
        """Whether a step is recorded, and everything it was made from is still what it was."""
        seen, left = {name}, [name]
        while left:
            entry = self.stages.get(left.pop())
            if entry is None:
                return False
            for source, known in entry["inputs"].items():
                if source not in self.stages or self.print_of(source) != known:
                    return False
                if source not in seen:
                    seen.add(source)
                    left.append(source)
        return True

    def holds(self, name: str) -> bool:
        """Whether a step is current, and is known to be what the folder's config asks for."""
        return self.is_current(name) and name not in self.manifest.get("unsettled", ())

    def what_changed(self, mark: Mark) -> str:
        """Why a step that is recorded is not done."""
        entry = self.stages[mark.name]
        if entry["fingerprint"] == mark.fingerprint:
            return f"{next(iter(self.damaged(mark.name)), 'a file of it')} is missing or altered"
        known = entry["inputs"]
        if changed := [name for name in mark.inputs if known.get(name, mark.inputs[name]) != mark.inputs[name]]:
            return f"{', '.join(changed)} changed"
        return "the config, a file or model that it names, or what this version makes of them is not what it was"

    def is_withheld(self, mark: Mark) -> bool:
        """Whether the step was done and has no file here: a degraded reference that was removed, or not made here."""
        entry = self.stages.get(mark.name)
        return entry is not None and entry["fingerprint"] == mark.fingerprint and self.withholds(mark.name)

    def withholds(self, name: str) -> bool:
        """Whether none of a recorded degraded reference's files is here.

        They are deleted when one is done, as they should be, and those of a folder at a URL are never uploaded.
        """
        if not name.startswith(HAZARDOUS) or name not in self.stages:
            return False
        return not any((self.path / file).exists() for file in self.stages[name]["files"])
