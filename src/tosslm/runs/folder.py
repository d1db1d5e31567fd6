"""The run folder: its manifest, its lock, and which steps are done."""

from __future__ import annotations

import os
import platform
import shutil
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from tosslm.errors import InputError, TosslmError
from tosslm.files import (
    atomic_path,
    fingerprint,
    link_or_copy,
    make_folder,
    make_private,
    remove_unfinished,
    sha256,
    write_json,
    write_text,
)
from tosslm.outward import outward
from tosslm.remote import is_url, local_name
from tosslm.runs.layout import Layout
from tosslm.runs.manifest import MANIFEST_FORMAT, read_manifest
from tosslm.runs.mirror import HAZARDOUS, Mirror, url_of
from tosslm.runs.staged import clear_stage

_PACKAGES = ("tosslm", "torch", "transformers", "peft", "trl", "tokenizers", "numpy", "pyarrow", "datasets")
_KNOWN_BY = "fingerprint"


def _unsaid(text: str) -> None:
    pass


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


class RunFolder:
    """A run folder on disk.

    Args:
        path: the folder; made when the first file is written. Of a URL its working copy, which follows what is there
            while the folder is locked.
        fresh: take no notice of what earlier runs left there.

    Raises:
        TosslmError: the manifest cannot be read.
    """

    def __init__(self, path: str | Path, *, fresh: bool = False) -> None:
        self._mirror = Mirror(str(path)) if is_url(str(path)) else None
        self.path = self._mirror.copy if self._mirror else Path(local_name(str(path)))
        self._fresh = fresh
        self._outputs: Sequence[str] = ()
        self.layout = Layout(self.path)
        self.manifest: dict[str, Any] = self._read_manifest()

    def _read_manifest(self) -> dict[str, Any]:
        empty: dict[str, Any] = {"format": MANIFEST_FORMAT, "stages": {}, "begun": {}}
        return (None if self._fresh else read_manifest(self.layout.manifest)) or empty

    @property
    def stages(self) -> dict[str, Any]:
        """What is recorded of each step: fingerprint, files with SHA-256, seconds, and the step's own facts."""
        return self.manifest["stages"]

    @contextmanager
    def lock(self, outputs: Sequence[str], *, say: Callable[[str], None] = _unsaid) -> Iterator[None]:
        """Be the one writer of this folder.

        The operating system frees the lock when its holder is gone, however it went.

        Args:
            outputs: names at the top of the folder that the writer's steps write.
            say: told what a user should know of a folder at a URL.

        Raises:
            InputError: one of these names stands there, and the folder is no run's; or it is a working copy.
            TosslmError: another process writes here.
        """
        if self._mirror is None and (url := url_of(self.path)):
            raise InputError(f"{self.path}: is the working copy of {url}; name that instead")
        self._refuse_what_is_not_ours(outputs)
        self._outputs = outputs
        # Where the folder is new it is its owner's alone; one that is there may be open on purpose.
        make_folder(self.path, mode=0o700)
        holder = self.layout.writer
        try:
            with FileLock(self.layout.lock, timeout=0, mode=0o600):
                write_text(holder, f"process {os.getpid()} on {platform.node()}")
                make_private(holder)
                remove_unfinished(self.path, deep=False)
                for folder in map(self.layout.of, outputs):
                    remove_unfinished(folder)
                mirror = self._mirror
                with mirror.writing(outputs, fresh=self._fresh, say=say) if mirror else nullcontext():
                    if self._fresh:
                        self._clear()
                    self.manifest = self._read_manifest()
                    yield
                    self._push()
        except Timeout:
            who = holder.read_text(encoding="utf-8") if holder.exists() else "another process"
            raise TosslmError(
                f"{self.path}: {who} is writing here; wait for it to end, or choose another --run-dir"
            ) from None

    def begin(self, config: Mapping[str, Any], seed: int, machine: Mapping[str, Any]) -> None:
        """Write down what is about to run, and on what."""
        packages = (*_PACKAGES, *(["bitsandbytes"] if machine.get("quantize") else []))
        versions = {name: metadata.version(name) for name in packages}
        versions["python"] = platform.python_version()
        self.manifest |= {"config": dict(config), "seed": seed, "versions": versions, "machine": dict(machine)}
        self._write()

    def _refuse_what_is_not_ours(self, outputs: Sequence[str]) -> None:
        """A folder without our manifest that holds a name that steps write belongs to somebody else.

        Raises:
            InputError: names what stands there.
        """
        if self.layout.manifest.exists():
            read_manifest(self.layout.manifest)  # which refuses what is no manifest of ours
            return
        names = (*outputs, self.layout.comparison.name)
        if found := [name for name in names if os.path.lexists(self.path / name)]:
            raise InputError(
                f"run_dir: {self.path} is no run folder (it has no manifest.json) and holds {', '.join(found)}, "
                "which a run would replace; name a new folder"
            )

    def _clear(self) -> None:
        """Remove what the manifest says that steps wrote, and nothing that the user put beside it."""
        manifest = read_manifest(self.layout.manifest)
        self._fresh = False
        if manifest is None:
            return
        for name in manifest["stages"]:
            self._forget(manifest, name)
        for outputs in manifest.get("begun", {}).values():
            for output in outputs:
                _remove(self.path / output)
        shutil.rmtree(self.layout.work, ignore_errors=True)
        clear_stage(self.layout)
        self.layout.manifest.unlink()

    def _forget(self, manifest: dict[str, Any], name: str) -> None:
        """Remove the files of a recorded step, and the folders that are empty without them."""
        for file in manifest["stages"][name]["files"]:
            path = self.path / file
            path.unlink(missing_ok=True)
            for folder in path.relative_to(self.path).parents:
                if folder != Path() and (self.path / folder).is_dir() and not any((self.path / folder).iterdir()):
                    (self.path / folder).rmdir()

    def adopt(self, other: RunFolder, outputs: Sequence[str], *, skip: tuple[str, ...]) -> None:
        """Take over the finished steps of another run whose files are not here, as links where the disk allows.

        Every file of a run is replaced as a whole and never written into, so a link is as good as a copy.

        Args:
            other: the run they are taken from.
            outputs: as for ``lock``.
            skip: beginnings of the names of steps that are not taken over.
        """
        with self.lock(outputs):
            self._write()
            for name, entry in other.stages.items():
                if name.startswith(skip) or not other.is_current(name) or self.stages.get(name) == entry:
                    continue
                for file in self.stages.get(name, {}).get("files", {}):
                    (self.path / file).unlink(missing_ok=True)
                for file in entry["files"]:
                    with atomic_path(self.path / file) as beside:
                        link_or_copy(other.path / file, beside)
                self._make_private(list(entry["files"]))
                self.stages[name] = entry
                self._write()

    def mark(
        self, name: str, version: int, covered: list[Any], reads: Sequence[str], writes: tuple[str, ...]
    ) -> Mark:
        """What a step is known by, now that all it reads is done.

        Args:
            name: of the step.
            version: of what it writes.
            covered: JSON-able, what it depends on beside the steps it reads.
            reads: names of those steps.
            writes: files or folders, relative to the run folder.
        """
        inputs = {source: self.print_of(source) for source in reads}
        work = self.layout.work / name.replace("/", "-")
        return Mark(name, fingerprint(version, *covered, inputs), inputs, writes, covered, work)

    def is_done(self, mark: Mark) -> bool:
        """Whether the step's fingerprint and all of its checksums hold."""
        entry = self.stages.get(mark.name)
        return entry is not None and entry["fingerprint"] == mark.fingerprint and not self.damaged(mark.name)

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

    def do(self, mark: Mark, work: Callable[[], Mapping[str, Any]], *, say: Callable[[str], None] = _unsaid) -> bool:
        """Do a step's work and record it, unless it is done.

        Args:
            mark: what the step is known by.
            work: writes the outputs and returns facts for the manifest.
            say: told why what was there is made anew.

        Returns:
            Whether the work was done now.
        """
        if self.is_done(mark):
            # A kill may have come between the manifest and this.
            shutil.rmtree(mark.work, ignore_errors=True)
            return False
        if mark.name in self.stages:
            say(f"{mark.name}: made anew, as {self._what_changed(mark)}")
        start = time.monotonic()
        self._claim(mark)
        _prepare(mark)
        facts = dict(work())
        self._make_private(mark.outputs)
        files = {file: sha256(self.path / file) for file in self._files(mark.outputs)}
        self.stages[mark.name] = {
            "fingerprint": mark.fingerprint,
            "inputs": mark.inputs,
            "files": files,
            "seconds": round(time.monotonic() - start, 3),
            "finished": datetime.now(UTC).isoformat(timespec="seconds"),
            **facts,
        }
        self.manifest.get("begun", {}).pop(mark.name, None)
        self._write()
        shutil.rmtree(mark.work, ignore_errors=True)
        self._push()
        return True

    def _what_changed(self, mark: Mark) -> str:
        entry = self.stages[mark.name]
        if entry["fingerprint"] == mark.fingerprint:
            return f"{next(iter(self.damaged(mark.name)), 'a file of it')} is missing or altered"
        known = entry["inputs"]
        if changed := [name for name in (known | mark.inputs) if known.get(name) != mark.inputs.get(name)]:
            return f"{', '.join(changed)} changed"
        return "the config, a file or model that it names, or what this version makes of them is not what it was"

    def is_withheld(self, mark: Mark) -> bool:
        """Whether the step was done where its files stay: a degraded reference of a run folder at a URL."""
        entry = self.stages.get(mark.name)
        return entry is not None and entry["fingerprint"] == mark.fingerprint and self.withholds(mark.name)

    def withholds(self, name: str) -> bool:
        """Whether a recorded step's files were kept back where it was done, and none of them is here."""
        if not name.startswith(HAZARDOUS) or name not in self.stages or name not in self.manifest.get("withheld", []):
            return False
        return not any((self.path / file).exists() for file in self.stages[name]["files"])

    def _push(self) -> None:
        """Let the URL of the folder, if it has one, follow what is recorded here."""
        if self._mirror:
            self._mirror.push(self.manifest, self._outputs)

    def _make_private(self, outputs: Sequence[str]) -> None:
        """What a step wrote, and the folders on the way there."""
        for output in outputs:
            make_private(self.path / output)
            for folder in Path(output).parents:
                if folder != Path() and (self.path / folder).is_dir():
                    (self.path / folder).chmod(0o700)

    def _claim(self, mark: Mark) -> None:
        """Write down that a step is about to write its outputs, unless they are somebody else's.

        Raises:
            InputError: something stands there that no step of this run wrote.
        """
        begun = self.manifest.get("begun")
        if begun is None or mark.name in begun:  # version 0.1 wrote no such list
            return
        known = {file for entry in self.stages.values() for file in entry["files"]}
        for file in self._files(mark.outputs):
            if file not in known:
                raise InputError(
                    f"{self.path / file}: stands there and is not of this run, which would replace it; move it away, "
                    "or name another run_dir"
                )
        begun[mark.name] = list(mark.outputs)
        self._write()

    def warn(self, warnings: Sequence[str]) -> None:
        """Write down what a reader should know before trusting the run."""
        warnings = [outward(warning) for warning in warnings]
        if self.manifest.get("warnings") != list(warnings):
            self.manifest["warnings"] = list(warnings)
            self._write()

    def forget_work(self, known: Collection[str]) -> None:
        """Remove the unfinished work of steps that are not to be done any more."""
        wanted = {name.replace("/", "-") for name in known}
        for folder in self.layout.work.glob("*"):
            if folder.name not in wanted and (folder / _KNOWN_BY).is_file():  # else a step did not make it
                shutil.rmtree(folder, ignore_errors=True)

    def _files(self, outputs: Sequence[str]) -> list[str]:
        found: list[str] = []
        for output in outputs:
            path = self.path / output
            files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
            found += [file.relative_to(self.path).as_posix() for file in files]
        return found

    def _write(self) -> None:
        if self._mirror:
            self.manifest["withheld"] = [name for name in self.stages if name.startswith(HAZARDOUS)]
        write_json(self.layout.manifest, self.manifest)
        make_private(self.layout.manifest)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _prepare(mark: Mark) -> None:
    """Make the step's private folder; what a different step left there is removed."""
    known = mark.work / _KNOWN_BY
    if not known.exists() or known.read_text(encoding="utf-8") != mark.fingerprint:
        shutil.rmtree(mark.work, ignore_errors=True)
        mark.work.mkdir(parents=True)
        for folder in (mark.work.parent, mark.work):
            folder.chmod(0o700)
        known.write_text(mark.fingerprint, encoding="utf-8")
