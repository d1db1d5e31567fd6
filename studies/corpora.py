"""The public data that studies and benchmarks use, read from a folder of ``.jsonl.gz`` files.

The folder is ``../shared/data``, or the one that ``TOSSLM_DATA`` names. Its files hold the fields of the public sets
they are named after: ``Anthropic/hh-rlhf`` (harmless-base), ``tatsu-lab/alpaca_eval``, ``openai/gsm8k``, SemEval-2021
Task 5 (``text``, and ``spans`` as [start, end) pairs of characters), and so on. What benchmarks read is on the hub
too, where there is no such file.
"""

from __future__ import annotations

import gzip
import json
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

from tosslm.data.places import locate
from tosslm.data.records import records as records_of
from tosslm.errors import InputError, RowError

_ON_HUB = {
    "gsm8k_train": "hf://datasets/openai/gsm8k/main/train-00000-of-00001.parquet",
    "gsm8k_test": "hf://datasets/openai/gsm8k/main/test-00000-of-00001.parquet",
    "hh_harmless_test": "hf://datasets/Anthropic/hh-rlhf/harmless-base/test.jsonl.gz",
}
"""What is read from the hub where the folder has it not."""
_SENTENCE_END = re.compile(r"[.!?]+[\"')\]]*\s+|\n+")


def corpus_file(name: str) -> Path:
    """Where a file lies, if it is there."""
    return Path(os.environ.get("TOSSLM_DATA", "../shared/data")) / f"{name}.jsonl.gz"


def records(name: str) -> list[dict[str, Any]]:
    """All records of one file, such as ``toxic_spans_test``."""
    path = corpus_file(name)
    if not path.is_file():
        raise SystemExit(f"{path}: not there; set TOSSLM_DATA to the folder that holds {path.name}")
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def public_records(name: str) -> Iterator[dict[str, Any]]:
    """The records of one of the sets that benchmarks read, of the folder's file, else of the hub, one by one.

    Which is said on standard error, for the rows of the two may differ.

    Raises:
        SystemExit: neither can be read.
    """
    path = corpus_file(name)
    if path.is_file():
        yield from records(name)
        return
    print(f"{path}: not there; reading {_ON_HUB[name]}", file=sys.stderr, flush=True)
    try:
        for number, record in records_of(locate(_ON_HUB[name])):
            if isinstance(record, RowError):
                raise InputError(f"{_ON_HUB[name]}:{number}: {record}")
            yield cast("dict[str, Any]", record)
    except InputError as error:
        raise SystemExit(f"{error}\nOr set TOSSLM_DATA to the folder that holds {path.name}.") from error


def sentence_bounds(text: str) -> list[tuple[int, int]]:
    """``[start, end)`` of each sentence; white space after one belongs to it, so they cover the text."""
    bounds, start = [], 0
    for end in _SENTENCE_END.finditer(text):
        bounds.append((start, end.end()))
        start = end.end()
    return bounds + ([(start, len(text))] if start < len(text) else [])


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """What ``write_jsonl`` wrote."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> None:
    """One JSON object a line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
