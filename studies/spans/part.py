"""What a script has measured, by corpus and seed, in a file; and its part of the page."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from tosslm.files import write_json, write_text


def kept(results: Path) -> dict[str, Any]:
    """What was measured, by ``CORPUS:SEED``."""
    found: dict[str, Any] = json.loads(results.read_text(encoding="utf-8")) if results.exists() else {}
    return found


def measure_missing(results: Path, keys: Iterable[str], measure: Callable[[str, int], dict[str, Any]]) -> None:
    """Measure what the file lacks, and keep each as it is done."""
    for key in keys:
        if key not in kept(results):
            corpus, _, seed = key.partition(":")
            write_json(results, kept(results) | {key: measure(corpus, int(seed))})


def write_part(page: Path, begin: str, end: str, part: str) -> None:
    """Put a part, with its marks, in the place of the one that the page has; at its end where it has none."""
    head, _, rest = page.read_text(encoding="utf-8").partition(begin)
    pieces = [piece.strip("\n") for piece in (head, part, rest.partition(end)[2])]
    write_text(page, "\n\n".join(filter(None, pieces)) + "\n")
