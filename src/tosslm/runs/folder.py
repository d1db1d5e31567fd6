"""The run folder: its manifest, its lock, and which steps are done."""

from __future__ import annotations

import os
import platform
import shutil
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from tosslm.errors import InputError, TosslmError
from tosslm.files import (
    atomic_path,
    check_writable,
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
from tosslm.runs.mirror import Mirror, url_of
from tosslm.runs.outputs import clear_run, files_of, make_outputs_private, refuse_strangers, remove_others
from tosslm.runs.recorded import KNOWN_BY, SINCE_BEFORE, Mark, Recorded, asked_of
from tosslm.runs.shared import HAZARDOUS
from tosslm.runs.versions import versions_here


def _unsaid(text: str) -> None: ...


class RunFolder(Recorded):
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
        self._fresh = self._anew = fresh
        self._outputs: Sequence[str] = ()
        self.layout = Layout(self.path)
        self.manifest: dict[str, Any] = self._read_manifest()

    def _read_manifest(self) -> dict[str, Any]:
        known = None if self._fresh else read_manifest(self.layout.manifest)
        return known or {"format": MANIFEST_FORMAT, "stages": {}, "begun": {}}

    @contextmanager
    def lock(self, outputs: Sequence[str], *, say: Callable[[str], None] = _unsaid) -> Iterator[None]:
        """Be the one writer of this folder.

        The operating system frees the lock when its holder is gone, however it went.

        Args:
            outputs: names at the top of the folder that the writer's steps write.
            say: told what a user should know of a folder at a URL.

        Raises:
            InputError: as ``check_ours``, or nothing can be written there.
            TosslmError: another process writes here.
        """
        self.check_ours(outputs)
        self._outputs = outputs
        # Where the folder is new it is its owner's alone; one that is there may be open on purpose.
        make_folder(self.path, mode=0o700)
        holder, mirror = self.layout.writer, self._mirror
        check_writable(self.path)
        try:
            with FileLock(self.layout.lock, timeout=1 if mirror else 0, mode=0o600):  # a reader asks for it
                write_text(holder, f"process {os.getpid()} on {platform.node()}")
                make_private(holder)
                remove_unfinished(self.path, deep=False)
                for folder in map(self.layout.of, outputs):
                    remove_unfinished(folder)
                with mirror.writing(outputs, fresh=self._fresh, say=say) if mirror else nullcontext():
                    if self._fresh:
                        clear_run(self.layout)
                        self._fresh = False
                    self.manifest = self._read_manifest()
                    yield
                    self._push()
        except Timeout:
            who = holder.read_text(encoding="utf-8") if holder.exists() else "another process"
            told = f"{self.path}: {who} is writing here; wait for it to end, or choose another --run-dir"
            raise TosslmError(told) from None

    def begin(
        self, config: Mapping[str, Any], seed: int, machine: Mapping[str, Any], steps: Collection[str] = ()
    ) -> None:
        """Write down what is about to run, and on what.

        Args:
            config: of the run. Where it is another one than before, each step that is done is ``unsettled`` in the
                manifest until it is looked at.
            seed: of all that is random.
            machine: where it runs.
            steps: names of all steps of a run of this config.
        """
        before = self.manifest.get("config")
        if before is not None and asked_of(before) != asked_of(config):
            self.manifest["unsettled"] = [name for name in steps if name in self.stages]
        versions = versions_here(quantized=bool(machine.get("quantize")))
        self.manifest |= {"config": dict(config), "seed": seed, "versions": versions, "machine": dict(machine)}
        self._write()

    def check_ours(self, outputs: Sequence[str]) -> None:
        """Refuse to write here where it is no run's folder.

        Without our manifest, one that holds a name that steps write belongs to somebody else.

        Args:
            outputs: as for ``lock``.

        Raises:
            InputError: names what stands there; or it is a working copy.
        """
        if self._mirror is None and (url := url_of(self.path)):
            raise InputError(f"{self.path}: is the working copy of {url}; name that instead")
        if self.layout.manifest.exists():
            read_manifest(self.layout.manifest)  # which refuses what is no manifest of ours
            return
        names = (*outputs, self.layout.comparison.name)
        if found := [name for name in names if os.path.lexists(self.path / name)]:
            raise InputError(
                f"run_dir: {self.path} is no run folder (it has no manifest.json) and holds {', '.join(found)}, "
                "which a run would replace; name a new folder"
            )

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
                if not name.startswith(skip) and other.is_current(name) and self.stages.get(name) != entry:
                    self._take(other, name)

    def take_over(self, other: Recorded, mark: Mark) -> bool:
        """Take over one step of another run where it is the very same there, inputs, settings and all; whether it is.

        The lock must be held. A folder that was opened ``fresh`` takes nothing over.

        Raises:
            InputError: something stands there that no step of this run wrote.
        """
        if self._anew or not other.has_done(mark):
            return False
        self._claim(mark)
        self._take(other, mark.name)
        return True

    def _take(self, other: Recorded, name: str) -> None:
        entry, begun = other.stages[name], self.manifest.get("begun", {})
        files = [] if other.withholds(name) else list(entry["files"])
        # What a killed step has left would be read with what is taken over.
        known = {*self.stages.get(name, {}).get("files", {}), *files_of(self.path, begun.get(name, ()))}
        for file in known.difference(files):
            (self.path / file).unlink(missing_ok=True)
        for file in files:
            with atomic_path(self.path / file) as beside:
                link_or_copy(other.path / file, beside)
        make_outputs_private(self.path, files)
        self.stages[name] = {key: value for key, value in entry.items() if key != SINCE_BEFORE}
        begun.pop(name, None)
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
            self._settle(mark.name)
            # A kill may have come between the manifest and this.
            shutil.rmtree(mark.work, ignore_errors=True)
            return False
        if mark.name in self.stages:
            say(f"{mark.name}: made anew, as {self.what_changed(mark)}")
        start = time.monotonic()
        self._claim(mark)
        mark.prepare()
        facts = dict(work())
        make_outputs_private(self.path, mark.outputs)
        self.stages[mark.name] = {
            "fingerprint": mark.fingerprint,
            "inputs": mark.inputs,
            "files": {file: sha256(self.path / file) for file in files_of(self.path, mark.outputs)},
            "seconds": round(time.monotonic() - start, 3),
            "finished": datetime.now(UTC).isoformat(timespec="seconds"),
            **facts,
        }
        self.manifest.get("begun", {}).pop(mark.name, None)
        if not self._settle(mark.name):
            self._write()
        shutil.rmtree(mark.work, ignore_errors=True)
        self._push()
        return True

    def _settle(self, name: str) -> bool:
        """Write down that a step is what the config asks for, unless nobody doubts it; whether it was written."""
        if name not in self.manifest.get("unsettled", ()):
            return False
        self.manifest["unsettled"].remove(name)
        self._write()
        return True

    def _push(self) -> None:
        """Let the URL of the folder, if it has one, follow what is recorded here."""
        if self._mirror:
            self._mirror.push(self.manifest, self._outputs)

    def _claim(self, mark: Mark) -> None:
        """Write down that a step is about to write its outputs, unless they are somebody else's.

        Raises:
            InputError: something stands there that no step of this run wrote.
        """
        begun, known = self.manifest.get("begun"), {file for entry in self.stages.values() for file in entry["files"]}
        if begun is None:  # version 0.1 wrote no such list
            return
        claimed = begun.get(mark.name)
        before = self.stages.get(mark.name, {}).get("files", ())
        remove_others(self.path, [*before, *files_of(self.path, claimed or ())], mark.outputs)
        if claimed == list(mark.outputs):
            return
        if claimed is None:
            refuse_strangers(self.path, mark.outputs, known)
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
            if folder.name not in wanted and (folder / KNOWN_BY).is_file():  # else a step did not make it
                shutil.rmtree(folder, ignore_errors=True)

    def _write(self) -> None:
        if self._mirror:
            self.manifest["withheld"] = [name for name in self.stages if name.startswith(HAZARDOUS)]
        write_json(self.layout.manifest, self.manifest)
        make_private(self.layout.manifest)
