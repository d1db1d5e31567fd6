"""The results that are kept: a file a setting, and in it a line an entry, seed, split and scale."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock

RESULTS = Path(__file__).parent / "results"
FIELDS = ("entry", "seed", "split", "scale", "base", "code", "seconds", "metrics")
Key = tuple[str, int, str, float]


def known(setting: str, results: Path = RESULTS) -> dict[Key, dict[str, Any]]:
    """All results of a setting by entry, seed, split and scale.

    Raises:
        SystemExit: a line cannot be read, comes twice, or is of another base or of other rows than those before it.
    """
    file = results / f"{setting}.jsonl"
    found: dict[Key, dict[str, Any]] = {}
    bases: set[str] = set()
    rows: dict[tuple[str, str], Any] = {}
    for number, text in enumerate(_whole_lines(file), 1):
        try:
            line = json.loads(text)
            key = (str(line["entry"]), int(line["seed"]), str(line["split"]), float(line["scale"]))
            bases.add(line["base"])
            other = _of_other_rows(line, rows)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise SystemExit(f"{file}:{number}: no result can be read there ({error}); remove the line") from None
        if key in found:
            raise SystemExit(f"{file}:{number}: a second line of {key}; remove one of the two")
        if len(bases) > 1:
            raise SystemExit(
                f"{file}:{number}: of another base than the lines before it; remove one of the two kinds"
            )
        if other:
            raise SystemExit(
                f"{file}:{number}: {other[0]!r} is of other rows than the lines before it; remove one of the two"
            )
        found[key] = line
    return found


def add_result(setting: str, line: Mapping[str, Any], results: Path = RESULTS) -> None:
    """Add a line, whole, under a lock; one that is there already stays.

    Raises:
        ValueError: a field is missing or unknown.
        SystemExit: the file's lines are of another base, or of other rows, as where a processor that rounds otherwise
            made the answers that teach harm (``complied``).
    """
    if set(line) != set(FIELDS):
        raise ValueError(f"a result has the fields {', '.join(FIELDS)}, not {', '.join(line)}")
    file = results / f"{setting}.jsonl"
    file.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(file.with_name(f".{file.name}.lock")):
        lines = known(setting, results)
        if (line["entry"], line["seed"], line["split"], float(line["scale"])) in lines:
            return
        if lines and line["base"] != next(iter(lines.values()))["base"]:
            raise SystemExit(f"{file}: its lines are of another base; move them away, and measure all of it with one")
        _refuse_other_rows(file, lines, line["split"], _tokens(line))
        text = json.dumps({name: line[name] for name in FIELDS}, separators=(",", ":"), allow_nan=False)
        with file.open("ab") as stream:
            stream.truncate(sum(len(whole) + 1 for whole in _whole_lines(file)))
            stream.write(text.encode() + b"\n")
            stream.flush()
            os.fsync(stream.fileno())


def check_rows(setting: str, split: str, tokens: Mapping[str, Any], results: Path = RESULTS) -> None:
    """Refuse to measure on other rows than the results that are kept, before anything is trained for it.

    Args:
        setting: whose results.
        split: of the rows.
        tokens: of each row, by metric, as of ``measured_tokens``.
        results: folder of the files.

    Raises:
        SystemExit: the file's lines are of other rows.
    """
    _refuse_other_rows(results / f"{setting}.jsonl", known(setting, results), split, tokens)


def _refuse_other_rows(file: Path, lines: Mapping[Key, Any], split: str, tokens: Mapping[str, Any]) -> None:
    for line in lines.values():
        kept = _tokens(line) if line["split"] == split else {}
        for metric in kept.keys() & tokens.keys():
            if kept[metric] != tokens[metric]:
                raise SystemExit(
                    f"{file}: its lines have {metric!r} of other rows than these, as another processor makes "
                    "them, or other code; measure what is left with that, or all of it here as a setting of its own"
                )


def _tokens(line: Mapping[str, Any]) -> dict[str, Any]:
    """Of each row or prompt of a line's metrics, how many tokens it counts; of prompts how many they are."""
    return {name: kept["weights"] or len(kept["values"]) for name, kept in line["metrics"].items()}


def _of_other_rows(line: Mapping[str, Any], rows: dict[tuple[str, str], Any]) -> list[str]:
    """Metrics of a line whose rows have other numbers of tokens than those that came first, which ``rows`` keeps."""
    return [name for name, own in _tokens(line).items() if rows.setdefault((line["split"], name), own) != own]


def short(value: float) -> float | int:
    """A value as it is kept: five digits, whole numbers without a point."""
    value = float(value)
    return int(value) if value.is_integer() else round(value, 5)


def _whole_lines(file: Path) -> list[bytes]:
    return file.read_bytes().split(b"\n")[:-1] if file.exists() else []
