"""What a path of the user names: a file of some kind, a saved folder, a hub id."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tosslm.errors import InputError
from tosslm.remote import file_system, is_url, local_name

_KINDS = {".jsonl": "lines", ".ndjson": "lines", ".json": "json", ".parquet": "parquet"}
_PACKINGS = {".gz": "gzip", ".zst": "zstd"}
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


@dataclass(frozen=True, slots=True)
class Place:
    """What a path of the user names.

    Attributes:
        name: the path as the user wrote it; of a ``file://`` URL the path that it names.
        kind: ``lines``, ``json``, ``parquet``, ``folder`` or ``hub``.
        packing: ``gzip``, ``zstd`` or None.
        stem: the last part of the name without its known extensions.
    """

    name: str
    kind: str
    packing: str | None
    stem: str

    @property
    def local(self) -> bool:
        """Whether it lies on this machine."""
        return self.kind != "hub" and not is_url(self.name)

    @property
    def has_splits(self) -> bool:
        """Whether its rows may lie in several splits."""
        return self.kind == "hub" or (self.kind == "folder" and (Path(self.name) / "dataset_dict.json").is_file())


def locate(name: str) -> Place:
    """Tell what `name` is, without reading it.

    Raises:
        InputError: there is no such file, it is of no kind that can be read, or a URL's driver is not installed.
    """
    name = local_name(name)
    if is_url(name):
        file_system(name)
    path = Path(name)
    if path.is_dir():
        return _locate_folder(path, name)
    if path.exists():
        check_regular(path, name)
    bare, packing = path, _PACKINGS.get(path.suffix.lower())
    if packing:
        bare = path.with_suffix("")
    kind = _KINDS.get(bare.suffix.lower())
    known = kind is not None and not (kind == "parquet" and packing)
    if path.exists() or is_url(name):
        if not known or kind is None:
            raise InputError(
                f"{name}: unknown extension; use .jsonl, .ndjson or .json (each also .gz or .zst) or .parquet"
            )
        return Place(name, kind, packing, bare.stem)
    if known or not _HUB_ID.fullmatch(name):
        raise InputError(f"{name}: no such file; check the path (relative ones start from the working directory)")
    return Place(name, "hub", None, path.name)


def check_split(places: Sequence[Place], split: str | None, key: str) -> None:
    """Refuse a split of what has none, whose rows would all be read without a word.

    Args:
        places: what is read; a split counts where one of them has splits.
        split: that is asked for.
        key: how the user asks for it.

    Raises:
        InputError: names the key.
    """
    if split is not None and places and not any(place.has_splits for place in places):
        raise InputError(
            f"{key}: {places[0].name} has no splits, so no {split!r}; leave {key} out, or name the file that holds "
            "those rows alone"
        )


def check_regular(path: Path, name: str) -> None:
    """Refuse what may have no end, or wait for a writer for ever: a pipe, a device, a socket, a link to one.

    Raises:
        InputError: names it.
    """
    if not path.is_file():
        raise InputError(f"{name}: no regular file (a pipe, a device or a socket); write the rows to a file")


def _locate_folder(path: Path, name: str) -> Place:
    if not any((path / mark).is_file() for mark in ("state.json", "dataset_dict.json")):
        raise InputError(f"{name}: a folder, but not one saved by datasets.save_to_disk; name the files in it")
    for inside in path.rglob("*"):
        if not inside.is_dir() and inside.exists():
            check_regular(inside, str(inside))
    return Place(name, "folder", None, path.resolve().name)
