"""What of a run goes to the URL of its folder: all files that a manifest names, but no degraded reference's."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from tosslm.errors import TosslmError
from tosslm.outward import outward

ASIDE = ".unsent"
"""Where a working copy keeps what it made and could not send before another one wrote."""
HAZARDOUS = "references/degraded/"
"""Steps that begin so are not copied to where others may read them."""


def shared_files(stages: Mapping[str, Any]) -> dict[str, str]:
    """The files that lie at the URL, with their SHA-256: all but those of degraded references."""
    return {
        file: checksum
        for name, entry in stages.items()
        if not name.startswith(HAZARDOUS)
        for file, checksum in entry["files"].items()
    }


def digest(text: bytes) -> str:
    """SHA-256 of a manifest as it lies there."""
    return hashlib.sha256(text).hexdigest()


def without(manifest: Mapping[str, Any], gone: Collection[str]) -> bytes:
    """A manifest without the steps that have one of these files."""
    stages = {name: entry for name, entry in manifest["stages"].items() if not set(entry["files"]) & set(gone)}
    return json.dumps({**manifest, "stages": stages}).encode()


def hazardous_weights(stages: Mapping[str, Any]) -> set[str]:
    """SHA-256 of the degraded references' weights, by which they are known under any name."""
    return {
        checksum
        for name, entry in stages.items()
        if name.startswith(HAZARDOUS)
        for file, checksum in entry["files"].items()
        if file.endswith(".safetensors")
    }


def refuse_hazardous(stages: Mapping[str, Any], files: Mapping[str, str], url: str) -> None:
    """Refuse to write a degraded reference's file, or its weights under another name, to where others may read it.

    Raises:
        TosslmError: names the file.
    """
    weights = hazardous_weights(stages)
    for file, checksum in files.items():
        if checksum in weights or file.startswith(HAZARDOUS):
            raise TosslmError(f"{file}: is a degraded reference, which is not copied to {url}")


def put_aside(copy: Path, files: Sequence[str]) -> None:
    """Move what a working copy made and never sent out of the way, in the place of what was moved before."""
    shutil.rmtree(copy / ASIDE, ignore_errors=True)
    for file in files:
        beside = copy / ASIDE / file
        beside.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        (copy / file).replace(beside)


def warn(text: str) -> None:
    """Say what only a reader is there to hear."""
    print(outward(text), file=sys.stderr)
