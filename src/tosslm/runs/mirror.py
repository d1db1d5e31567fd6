"""A run folder at a URL, and its working copy on this machine, which is an ordinary run folder.

The manifest makes files count, and a single object is written as a whole. So files go first and the manifest last;
before an object is replaced or removed, a manifest is written that does not name it. At any time, and wherever a
process ends, what the manifest there names is there.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from filelock import FileLock, Timeout

from tosslm.errors import InputError, TosslmError
from tosslm.files import atomic_path, cache_folder, make_private, sha256, write_json
from tosslm.remote import is_url, local_name
from tosslm.runs.layout import Layout
from tosslm.runs.manifest import MANIFEST_FORMAT, parse_manifest, read_manifest
from tosslm.runs.shared import ASIDE, HAZARDOUS, digest, put_aside, refuse_hazardous, shared_files, warn, without
from tosslm.runs.store import Store

_MANIFEST = "manifest.json"
_READERS, _STATE = ".readers", ".remote.json"


def url_of(path: Path) -> str | None:
    """The URL that a folder is the working copy of; None for a run folder of its own."""
    state = _state(path)
    return state["url"] if state else None


def _state(path: Path) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = json.loads((path / _STATE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise InputError(f"{path / _STATE}: not readable ({error}); remove the folder, which is a copy") from None
    return found


def local_run(path: str | Path, wanted: Collection[str] | None = None) -> Path:
    """The folder of a run: of a URL its working copy, brought up to date for reading.

    Args:
        path: a folder or URL.
        wanted: beginnings of the names of steps whose files are needed; None is all.
    """
    if not is_url(str(path)):
        return Path(local_name(str(path)))
    mirror = Mirror(str(path))
    with mirror.reading() as free:
        if free:
            mirror.pull(wanted)
    return mirror.copy


class Mirror:
    """A run folder at a URL.

    Args:
        url: of the folder.

    Raises:
        InputError: no driver for the URL is installed.
    """

    def __init__(self, url: str) -> None:
        self.store = Store(url)
        self.url = self.store.url
        self.copy = cache_folder() / "runs" / digest(self.url.encode())[:16] / (self.url.rsplit("/", 1)[-1] or "run")
        self._layout = Layout(self.copy)
        self._damaged: set[str] = set()

    @contextmanager
    def reading(self) -> Iterator[bool]:
        """Whether the working copy may be brought up to date: not while a run of this machine writes it.

        One that begins meanwhile waits for its readers.
        """
        self._remember()  # which makes the folder
        with self._readers():
            try:
                with FileLock(self._layout.lock, timeout=0, mode=0o600):
                    free = True
            except Timeout:
                free = False
            if not free and not self._layout.manifest.exists():
                raise TosslmError(f"{self.url}: a run that has just begun writes there; wait a moment")
            yield free

    def _readers(self) -> FileLock:
        return FileLock(self.copy / _READERS, mode=0o600)

    @contextmanager
    def writing(self, outputs: Collection[str], *, fresh: bool, say: Callable[[str], None]) -> Iterator[None]:
        """Be the one writer there, with the working copy brought up to date; its writer must be the caller.

        Args:
            outputs: names at the top of a run folder that steps write.
            fresh: whether nothing that lies there is needed.
            say: told what a user should know.

        Raises:
            InputError: one of ``outputs`` stands there, and the folder is no run's.
            TosslmError: another one writes there, or the store fails.
        """
        owner = self._remember()["owner"]
        with self._readers():
            pass  # whoever is bringing the copy up to date has done so; whoever comes now leaves it alone
        with self.store.lock(owner, say):
            if self.store.read(_MANIFEST) is None:
                self._begin(outputs)
            self.pull(() if fresh else None, say=say)
            yield

    def pull(self, wanted: Collection[str] | None = None, *, say: Callable[[str], None] | None = None) -> None:
        """Bring the working copy up to what is there; files that it has already are not fetched again.

        Where nobody else wrote there since, the copy's own manifest stays: it may know of steps that are not pushed
        yet.

        Args:
            wanted: beginnings of the names of steps whose files are needed; None is all.
            say: told what a user should know.

        Raises:
            InputError: there is no run, or its manifest is damaged.
            TosslmError: the store fails.
        """
        text = self.store.read(_MANIFEST)
        if text is None:
            raise InputError(f"{self.url}: no run there (no {_MANIFEST}); `toss run CONFIG` makes one")
        there = parse_manifest(text.decode("utf-8", "replace"), f"{self.url}/{_MANIFEST}")
        seen = digest(text)
        state = self._remember()
        if seen not in (state.get("seen"), state.get("sent")) or not self._layout.manifest.exists():
            self._replace_manifest(there, text, say)
            self._remember(seen=seen)
        here = read_manifest(self._layout.manifest) or there
        self._damaged |= set(state.get("doubted", ()))
        self._doubt(there)
        for step, entry in there["stages"].items():
            mine = here["stages"].get(step, {}).get("files", {})
            if step.startswith(HAZARDOUS) or not (wanted is None or step.startswith(tuple(wanted))):
                continue
            for file, checksum in entry["files"].items():
                if mine.get(file) == checksum and not self._fetched(file, checksum):
                    self._damaged.add(file)
                    if say:
                        say(f"{self.url}/{file}: missing or damaged; its step is done again")

    def _doubt(self, there: Mapping[str, Any]) -> None:
        """Remember what is gone there, or of another size than here, so that it is written again."""
        sizes = self.store.sizes()
        for file in shared_files(there["stages"]):
            own = self.copy / file
            if file not in sizes or (own.is_file() and sizes[file] not in (None, own.stat().st_size)):
                self._damaged.add(file)

    def damaged_there(self, manifest: Mapping[str, Any]) -> dict[str, str]:
        """What lies at the URL otherwise than a manifest has it: ``missing`` or ``altered``, by file.

        Every file is fetched. What is found is remembered, and the next writer of this copy writes it again.

        Args:
            manifest: of the run.
        """
        found = {}
        with TemporaryDirectory(dir=self.copy) as folder:
            for file, checksum in shared_files(manifest["stages"]).items():
                fetched = Path(folder) / "fetched"
                if not self.store.fetch(file, fetched):
                    found[file] = "missing"
                elif sha256(fetched) != checksum:
                    found[file] = "altered"
                fetched.unlink(missing_ok=True)
        self._remember(doubted=sorted(found))
        return found

    def push(self, manifest: Mapping[str, Any], outputs: Collection[str]) -> None:
        """Write what the store lacks: files first, the manifest last; remove what it named before and does not now.

        Args:
            manifest: of the working copy.
            outputs: names at the top of a run folder that steps write, where only its own files may lie.

        Raises:
            TosslmError: the store fails, the lock is gone, or a file is a degraded reference's.
        """
        text = json.dumps(manifest, indent=2, ensure_ascii=False).encode() + b"\n"
        known = self.store.read(_MANIFEST)
        there = parse_manifest((known or b"").decode("utf-8", "replace"), f"{self.url}/{_MANIFEST}")
        named, files = shared_files(there["stages"]), shared_files(manifest["stages"])
        refuse_hazardous(manifest["stages"], files, self.url)
        changed = [f for f, checksum in files.items() if named.get(f) != checksum or f in self._damaged]
        owner = self._remember(seen=digest(known or b""))["owner"]
        self.store.renew_lock(owner)
        gone = {file for file in named if file in changed or file not in files}
        if gone:
            self._put_manifest(without(there, gone))
        for file in changed:
            self.store.renew_lock(owner)
            self.store.upload(self.copy / file, file)
            self._damaged.discard(file)
        self.store.renew_lock(owner)
        if gone or text != known:
            self._put_manifest(text)
        if self._remember().get("doubted"):
            self._remember(doubted=[])
        for name in self.store.names():
            if name.split("/")[0] in outputs and name not in files:
                self.store.remove(name)

    def _begin(self, outputs: Collection[str]) -> None:
        """The manifest comes first where there is none, so that what is there later is known for our own."""
        if found := sorted({name.split("/")[0] for name in self.store.names()} & set(outputs)):
            raise InputError(
                f"run_dir: {self.url} is no run folder (it has no {_MANIFEST}) and holds {', '.join(found)}, which a "
                "run would replace; name a new folder"
            )
        here = read_manifest(self._layout.manifest) or {"format": MANIFEST_FORMAT, "stages": {}, "begun": {}}
        self._put_manifest(json.dumps(here | {"stages": {}}).encode())
        if not self._layout.manifest.exists():
            write_json(self._layout.manifest, here)

    def _put_manifest(self, text: bytes) -> None:
        # Remembered before as well: a write may come to pass and the answer be lost.
        self._remember(sent=digest(text))
        self.store.write(_MANIFEST, text)
        self._remember(seen=digest(text))

    def _replace_manifest(self, there: Mapping[str, Any], text: bytes, say: Callable[[str], None] | None) -> None:
        """Take the manifest that another one wrote, and remove files here that it does not name."""
        here = read_manifest(self._layout.manifest)
        if here is not None:
            lost = [name for name, entry in here["stages"].items() if there["stages"].get(name) != entry]
            kept = {file for entry in there["stages"].values() for file in entry["files"]}
            files = {file for name in lost for file in here["stages"][name]["files"]} - kept
            if aside := [file for file in sorted(files) if (self.copy / file).is_file()]:
                put_aside(self.copy, aside)
            if lost:
                where = f"; it lies under {self.copy / ASIDE}" if aside else ""
                (say or warn)(
                    f"{self.url}: was written elsewhere since; what this copy has of {', '.join(lost)} is not "
                    f"used{where}"
                )
        with atomic_path(self._layout.manifest) as beside:
            beside.write_bytes(text)
        make_private(self._layout.manifest)

    def _fetched(self, file: str, checksum: str) -> bool:
        """Whether the copy has the file with that checksum, now that it was fetched if need be."""
        path = self.copy / file
        if path.is_file() and sha256(path) == checksum:
            return True
        for folder in reversed(path.relative_to(self.copy).parents):
            (self.copy / folder).mkdir(mode=0o700, exist_ok=True)
        beside = path.with_name(f".unfinished-{secrets.token_hex(4)}-{path.name}")
        try:
            if not self.store.fetch(file, beside) or sha256(beside) != checksum:
                return False
            make_private(beside)
            beside.replace(path)
            return True
        finally:
            beside.unlink(missing_ok=True)

    def _remember(self, **changes: Any) -> dict[str, Any]:
        """What the copy knows of the store: who it is there, and the manifest that it last saw."""
        state = _state(self.copy)
        if state is None:
            self.copy.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.copy.parent.parent.chmod(0o700)
        if state is None or changes:
            state = (state or {"url": self.url, "owner": secrets.token_hex(8)}) | changes
            write_json(self.copy / _STATE, state)
            make_private(self.copy / _STATE)
        return state
