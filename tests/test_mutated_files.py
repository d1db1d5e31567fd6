"""Whatever stands in a file of rows, each record is a row or a bad row, or the file is refused by name.

The bytes of Parquet files are not mutated: on one of several thousand such files Arrow's C++ ended the process, which
no Python code can catch.
"""

from __future__ import annotations

import contextlib
import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tosslm.data.rows import BadRow, Row, read_rows
from tosslm.errors import InputError

RECORDS: list[dict[str, Any]] = [
    {"messages": [{"role": "user", "content": "Hi 👍"}, {"role": "assistant", "content": "Hello."}], "source": "a"},
    {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "No.", "weight": 0}]},
    {"prompt": "Q", "completion": "A", "unsafe_spans": [[0, 1]]},
    {"instruction": "Do", "input": "", "output": "Done"},
    {"conversations": [{"from": "human", "value": "x"}, {"from": "gpt", "value": "y", "train": False}]},
    {"chosen": "\n\nHuman: a\n\nAssistant: b"},
]
PIECES = (
    *(b"\0", b"\n", b"\r", b"{", b"}", b"[", b"]", b'"', b"\\", b"\\ud83d", b"\xff", b"\xed\xa0\xbd"),
    *(b"null", b"true", b"1e999", b"NaN", b"-", b"[" * 200, b'{"a":' * 100, b"9" * 5000, b"\xe2\x80\xa8", b"0"),
    *(b"\xef\xbb\xbf", b'"role"', b'"messages":null,', b'"weight":-1,', b'"tools":[{}],'),
    b'"content":[{"type":"image"}],',
)


def lines() -> bytes:
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in RECORDS).encode()


KINDS: dict[str, tuple[bytes, Callable[[bytes], bytes]]] = {
    "x.jsonl": (lines(), bytes),
    "x.json": (json.dumps({"data": RECORDS}, ensure_ascii=False).encode(), bytes),
    "y.json": (json.dumps(RECORDS, indent=1).encode(), bytes),
    "x.jsonl.gz": (lines(), gzip.compress),
    "y.jsonl.gz": (gzip.compress(lines(), mtime=0), bytes),  # the packed bytes themselves are mutated
    "x.jsonl.zst": (lines(), zstandard.compress),
    "y.json.zst": (zstandard.compress(json.dumps(RECORDS).encode()), bytes),
}
edit = st.tuples(
    st.sampled_from(["insert", "delete", "copy", "replace", "flip"]),
    st.floats(0, 1),
    st.integers(1, 40),
    st.one_of(st.sampled_from(PIECES), st.binary(max_size=8)),
)
Edits = list[tuple[str, float, int, bytes]]


def mutated(data: bytes, edits: Edits) -> bytes:
    for kind, where, length, piece in edits:
        place = min(int(where * len(data)), max(len(data) - 1, 0))
        end = place + length
        middle = {"insert": piece + data[place:end], "delete": b"", "copy": data[place:end] * 2, "replace": piece}
        middle["flip"] = bytes(byte ^ (1 << length % 8) for byte in data[place : place + 1]) + data[place + 1 : end]
        data = data[:place] + middle[kind] + data[end:]
    return data


def read_or_refused(folder: Path, name: str, edits: Edits) -> None:
    whole, packed = KINDS[name]
    file = folder / name
    file.write_bytes(packed(mutated(whole, edits)))
    with contextlib.suppress(InputError):
        for row in read_rows(str(file)):
            assert isinstance(row, Row | BadRow)
            assert row.origin.startswith(str(file))


calmly = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
files = given(name=st.sampled_from(sorted(KINDS)), edits=st.lists(edit, min_size=1, max_size=4))


@settings(calmly, max_examples=200)
@files
def test_a_mutated_file_is_read_or_refused(tmp_path: Path, name: str, edits: Edits) -> None:
    read_or_refused(tmp_path, name, edits)


@pytest.mark.slow
@settings(calmly, max_examples=3000)
@files
def test_many_mutated_files(tmp_path: Path, name: str, edits: Edits) -> None:
    read_or_refused(tmp_path, name, edits)
