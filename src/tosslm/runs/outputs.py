"""Files that steps wrote: found, made private, removed."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from tosslm.errors import InputError
from tosslm.files import make_private
from tosslm.runs.layout import DATA, Layout
from tosslm.runs.manifest import read_manifest
from tosslm.runs.staged import clear_stage


def files_of(root: Path, outputs: Sequence[str]) -> list[str]:
    """All files of some outputs, relative to the run folder."""
    found: list[str] = []
    for output in outputs:
        path = root / output
        files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
        found += [file.relative_to(root).as_posix() for file in files]
    return found


def make_outputs_private(root: Path, outputs: Sequence[str]) -> None:
    """What a step wrote, and the folders on the way there."""
    for output in outputs:
        make_private(root / output)
        for folder in Path(output).parents:
            if folder != Path() and (root / folder).is_dir():
                (root / folder).chmod(0o700)


def clear_run(layout: Layout) -> None:
    """Remove what the manifest says that steps wrote, and nothing that the user put beside it."""
    manifest = read_manifest(layout.manifest)
    if manifest is None:
        clear_stage(layout, DATA)  # the one step that shards work for before there is a manifest
        return
    for entry in manifest["stages"].values():
        _remove_files(layout.root, entry)
    for outputs in manifest.get("begun", {}).values():
        for output in outputs:
            _remove(layout.root / output)
    shutil.rmtree(layout.work, ignore_errors=True)
    clear_stage(layout)
    layout.manifest.unlink()


def refuse_strangers(root: Path, outputs: Sequence[str], known: Collection[str]) -> None:
    """Refuse to write some outputs where what stands there is not of the run.

    Raises:
        InputError: names the file.
    """
    for file in files_of(root, outputs):
        if file not in known:
            raise InputError(
                f"{root / file}: stands there and is not of this run, which would replace it; move it away, or name "
                "another run_dir"
            )


def remove_others(root: Path, files: Sequence[str], outputs: tuple[str, ...]) -> None:
    """Remove of the files that an earlier version's step wrote those that the same step no longer writes."""
    for file in files:
        if not file.startswith(outputs):
            (root / file).unlink(missing_ok=True)


def _remove_files(root: Path, entry: Mapping[str, Any]) -> None:
    """Remove the files of a recorded step, and the folders that are empty without them."""
    for file in entry["files"]:
        path = root / file
        path.unlink(missing_ok=True)
        for folder in path.relative_to(root).parents:
            if folder != Path() and (root / folder).is_dir() and not any((root / folder).iterdir()):
                (root / folder).rmdir()


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
