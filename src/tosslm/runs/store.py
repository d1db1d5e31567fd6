"""A folder of objects at a URL: what is asked of the driver, and the lock that a writer holds there.

A single object is written as a whole or not at all, which is what stands for a rename on a disk.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tosslm.errors import InputError, TosslmError
from tosslm.outward import has_credentials, without_secrets
from tosslm.remote import file_system

LOCK = ".lock"


class Store:
    """The objects under a URL.

    Args:
        url: of the folder, such as ``s3://bucket/runs/x``.

    Raises:
        InputError: no driver for it is installed, or the URL holds a password or a signature.
    """

    def __init__(self, url: str) -> None:
        if has_credentials(url):
            raise InputError(
                f"run_dir: {without_secrets(url)}: a URL with a password, token or signature would be written into "
                "the run folder; give credentials through the environment"
            )
        self.url = url.rstrip("/")
        self._system, root = file_system(self.url)
        self._root = root.rstrip("/")

    def read(self, name: str) -> bytes | None:
        """An object's bytes; None where there is none."""
        try:
            found: bytes = self._ask(self._system.cat_file, name)
        except FileNotFoundError:
            return None
        return found

    def write(self, name: str, content: bytes) -> None:
        """Write a small object as a whole."""
        self._ask(self._system.pipe_file, name, content)

    def create(self, name: str, content: bytes) -> bool:
        """Write a small object unless there is one; whether it was written."""
        if self.read(name) is not None:  # drivers, among them fsspec's before 2024.12, may know no such condition
            return False
        try:
            self._ask(self._system.pipe_file, name, content, mode="create")
        except FileExistsError:
            return False
        return True

    def fetch(self, name: str, target: Path) -> bool:
        """Copy an object to a file; False where there is none."""
        try:
            self._ask(lambda path: self._system.get_file(path, str(target)), name)
        except FileNotFoundError:
            return False
        return True

    def upload(self, source: Path, name: str) -> None:
        """Copy a file to an object.

        Raises:
            TosslmError: it cannot be written, or has another size there.
        """
        self._ask(lambda path: self._system.put_file(str(source), path), name)
        size = self._ask(self._system.info, name)["size"]
        if size != source.stat().st_size:
            raise TosslmError(f"{self.url}/{name}: holds {size} bytes of {source.stat().st_size}; run again")

    def remove(self, name: str) -> None:
        """Remove an object, if there is one."""
        with suppress(FileNotFoundError):
            self._ask(self._system.rm_file, name)

    def names(self) -> list[str]:
        """All objects of the folder, by their names in it."""
        return sorted(self.sizes())

    def sizes(self) -> dict[str, int | None]:
        """Bytes of all objects of the folder, by their names in it; None where the store does not tell."""
        root = f"{self._root}/"
        try:
            found = self._ask(lambda _: self._system.find(self._root, detail=True), "")
        except FileNotFoundError:
            return {}
        return {name.removeprefix(root): about.get("size") for name, about in found.items() if name.startswith(root)}

    @contextmanager
    def lock(self, owner: str, say: Callable[[str], None]) -> Iterator[None]:
        """Be the one writer here.

        Args:
            owner: of the working copy, of which the caller is the one writer: a lock of the same owner is left by a
                process that is gone.
            say: told where such a lock is taken over.

        Raises:
            TosslmError: another one writes here, or did and was killed.
        """
        created = self.create(LOCK, _holder(owner))
        held = self._held()  # a store that heeds no condition may have let another one write over it
        if held.get("owner") != owner:
            raise TosslmError(
                f"{self.url}: {held.get('who', 'somebody')} is writing here, last heard of at "
                f"{held.get('heard', 'an unknown time')}; wait for it to end. If it is gone, remove the object "
                f"{self.url}/{LOCK} by hand and start again"
            )
        if not created:
            say(f"{self.url}: going on where a process of this working copy was ended")
            self.write(LOCK, _holder(owner))
        try:
            yield
        except BaseException:
            with suppress(TosslmError):  # what went wrong first is what the user has to know
                self._unlock(owner)
            raise
        self._unlock(owner)

    def renew_lock(self, owner: str) -> None:
        """Say that the writer is still there; asked before each object that it writes, for an upload may take long.

        Raises:
            TosslmError: the lock was taken away.
        """
        if self._held().get("owner") != owner:
            raise TosslmError(
                f"{self.url}/{LOCK}: was removed or taken over while this process wrote; nothing more is written "
                "there. Start again when nobody else writes"
            )
        self.write(LOCK, _holder(owner))

    def _unlock(self, owner: str) -> None:
        if self._held().get("owner") == owner:
            self.remove(LOCK)

    def _held(self) -> dict[str, Any]:
        try:
            held = json.loads(self.read(LOCK) or b"{}")
        except ValueError:
            return {}
        return held if isinstance(held, dict) else {}

    def _ask(self, work: Callable[..., Any], name: str, *arguments: Any, **options: Any) -> Any:
        """What a driver gives for an object, without what it remembers of earlier listings.

        Raises:
            FileNotFoundError: there is no such object.
            FileExistsError: there is one, and none was to be.
            TosslmError: all else that goes wrong.
        """
        try:
            self._system.invalidate_cache()
            return work(f"{self._root}/{name}", *arguments, **options)
        except (FileNotFoundError, FileExistsError):
            raise
        except Exception as error:  # drivers raise what their network libraries do
            said = without_secrets(f"{type(error).__name__}: {error}")
            raise TosslmError(f"{self.url}/{name}: the store does not do it ({said}); run again to go on") from error


def _holder(owner: str) -> bytes:
    who = f"process {os.getpid()} on {platform.node()}"
    heard = datetime.now(UTC).isoformat(timespec="seconds")
    return json.dumps({"owner": owner, "who": who, "heard": heard}).encode()
