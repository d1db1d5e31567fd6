"""Whatever stands in a file of rows, each record is a row or a bad row, or the file is refused by name."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import random
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
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
SAME = [
    {"prompt": f"Q{number}", "completion": "A" * number, "messages": None, "unsafe_spans": [[0, 1]]}
    for number in range(1, 40)
]
NESTED = [
    {"messages": [{"role": "user", "content": f"Hi {n} 👍"}, {"role": "assistant", "content": "Hello. " * n}]}
    for n in range(1, 40)
]


def parquet(records: list[dict[str, Any]], **options: Any) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(records), buffer, **options)
    return buffer.getvalue()


PARQUET: dict[str, bytes] = {
    "plain.parquet": parquet(SAME),
    "groups.parquet": parquet(SAME, row_group_size=7, compression="none"),
    "nested.parquet": parquet(NESTED, compression="zstd", use_dictionary=False),
    "checksums.parquet": parquet(NESTED, compression="none", write_page_checksum=True),
    "pages.parquet": parquet(NESTED, data_page_version="2.0", compression="gzip"),
}
"""Their own tests, in processes of their own: what damages them may end one, and no Python code can catch that."""
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


def read_or_refused(file: Path, data: bytes) -> None:
    file.write_bytes(data)
    with contextlib.suppress(InputError):
        for row in read_rows(str(file)):
            assert isinstance(row, Row | BadRow)
            assert row.origin.startswith(str(file))


calmly = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
files = given(name=st.sampled_from(sorted(KINDS)), edits=st.lists(edit, min_size=1, max_size=4))


@settings(calmly, max_examples=200)
@files
def test_a_mutated_file_is_read_or_refused(tmp_path: Path, name: str, edits: Edits) -> None:
    whole, packed = KINDS[name]
    read_or_refused(tmp_path / name, packed(mutated(whole, edits)))


@pytest.mark.long
@pytest.mark.slow
@settings(calmly, max_examples=3000)
@files
def test_many_mutated_files(tmp_path: Path, name: str, edits: Edits) -> None:
    whole, packed = KINDS[name]
    read_or_refused(tmp_path / name, packed(mutated(whole, edits)))


def drawn(seed: int) -> tuple[str, bytes]:
    """A Parquet file with edits, half of them in its footer, where everything else is found by."""
    draw = random.Random(seed)
    name = draw.choice(sorted(PARQUET))
    edits: Edits = []
    for _ in range(draw.randint(1, 4)):
        where = draw.choice([draw.random(), max(0.0, 1 - draw.randrange(600) / len(PARQUET[name]))])
        kind = draw.choice(["flip", "flip", "insert", "delete", "copy", "replace"])
        edits.append((kind, where, draw.randint(1, 40), draw.choice(PIECES)))
    return name, mutated(PARQUET[name], edits)


def read_drawn(folder: Path, seeds: range) -> None:
    for seed in seeds:
        (folder / "at").write_text(str(seed))
        name, data = drawn(seed)
        read_or_refused(folder / name, data)


def read_in_a_process(folder: Path, seeds: range) -> None:
    """The failure names the seed at which the process stopped, however it did."""
    reading = get_context("spawn").Process(target=read_drawn, args=(folder, seeds))
    reading.start()
    reading.join()
    assert reading.exitcode == 0, f"drawn({(folder / 'at').read_text()})"


@pytest.mark.parametrize("name", sorted(PARQUET))
def test_what_is_mutated_is_good(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(PARQUET[name])
    assert all(isinstance(row, Row) for row in read_rows(str(tmp_path / name)))


@pytest.mark.slow
def test_mutated_parquet_is_read_or_refused(tmp_path: Path) -> None:
    read_in_a_process(tmp_path, range(200))


@pytest.mark.long
@pytest.mark.slow
def test_many_mutated_parquet_files(tmp_path: Path) -> None:
    read_in_a_process(tmp_path, range(3000, 6000))
