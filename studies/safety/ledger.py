"""The results that are kept: a file a setting, and in it a line a method and seed.

Several processes may add to one file: each adds whole lines, under a lock. What a killed process left half written is
not read, and cut off by the next that writes. ``results/README.md`` says what the fields are.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock

FIELDS = ("method", "seed", "base", "code", "versions", "seconds", "metrics", "dropped")
Results = dict[str, dict[int, dict[str, Any]]]
"""By method and seed, what was kept of it."""


def ledger(results: Path, cell: str) -> Path:
    """The file of a setting, such as ``results/headline.jsonl``."""
    return results / f"{cell.replace(' ', '-')}.jsonl"


def read_results(file: Path) -> Results:
    """All results of one setting; none where there is no file yet.

    Raises:
        SystemExit: a line cannot be read, or two are of the same method and seed; the message names it.
    """
    found: Results = {}
    for number, text in enumerate(_whole_lines(file), 1):
        try:
            line = json.loads(text)
            method, seed = str(line["method"]), int(line["seed"])
        except (ValueError, KeyError, TypeError) as error:
            raise SystemExit(f"{file}:{number}: no result can be read there ({error}); remove the line") from None
        if seed in found.setdefault(method, {}):
            raise SystemExit(f"{file}:{number}: a second line of {method}, seed {seed}; remove one of the two")
        found[method][seed] = line
    return found


def add_result(file: Path, line: Mapping[str, Any]) -> bool:
    """Add a line, unless there is one of its method and seed; whether it was added.

    Args:
        file: of ``ledger``.
        line: with all of ``FIELDS``.

    Raises:
        ValueError: a field is missing or unknown, or a value is no number.
        SystemExit: the file's lines are of another base.
    """
    if set(line) != set(FIELDS):
        raise ValueError(f"a result has the fields {', '.join(FIELDS)}, not {', '.join(line)}")
    text = json.dumps({name: line[name] for name in FIELDS}, separators=(",", ":"), allow_nan=False)
    file.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(file.with_name(f".{file.name}.lock")):
        known = read_results(file)
        if line["seed"] in known.get(line["method"], {}):
            return False
        check_bases(known, line["base"])
        with file.open("ab") as stream:
            stream.truncate(sum(len(whole) + 1 for whole in _whole_lines(file)))
            stream.write(text.encode() + b"\n")
            stream.flush()
            os.fsync(stream.fileno())
    return True


def check_bases(results: Results, base: str | None = None) -> None:
    """Refuse results of different bases: figures of theirs do not stand side by side.

    Args:
        results: that are to stand in one table. Those of before bases were written down go with any.
        base: identity of one more.

    Raises:
        SystemExit: names the bases, and what was measured with each.
    """
    known: dict[str, list[str]] = {} if base is None else {base: ["what is to be measured"]}
    for method, seeds in results.items():
        for seed, line in seeds.items():
            if own := line.get("base"):
                known.setdefault(own, []).append(f"{method} (seed {seed})")
    if len(known) > 1:
        told = "; ".join(f"{identity[:12]}: {', '.join(names)}" for identity, names in known.items())
        raise SystemExit(
            f"results of different bases would stand in one table ({told}). Files or dtype of the base differ; "
            "measure the others again, or keep these in another folder with --results"
        )


def short(value: float) -> float | int:
    """A value as it is kept: five digits, whole numbers without a point."""
    value = float(value)
    return int(value) if value.is_integer() else round(value, 5)


def _whole_lines(file: Path) -> list[bytes]:
    """Lines with their end; what stands behind the last end was not written to its own."""
    return file.read_bytes().split(b"\n")[:-1] if file.exists() else []
