"""What a row is: the formats it may come in, what makes it bad, and the files it may lie in."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import re
import tempfile
import tracemalloc
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import datasets
import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from tosslm.config import PromptsConfig
from tosslm.data import json_stream
from tosslm.data.rows import BadRow, Row, base_id, content_id, parse_record, raw_files, read_rows
from tosslm.errors import InputError, RowError
from tosslm.evaluation.checks import named_prompts

SYSTEM = {"role": "system", "content": "Be brief."}
HI = {"role": "user", "content": "Hi"}
HELLO = {"role": "assistant", "content": "Hello."}
MORE = {"role": "user", "content": "More?"}
NO = {"role": "assistant", "content": " No.\n"}

Record = dict[str, Any]
Messages = list[dict[str, str]]
Spans = list[list[int]] | None
Contents = list[tuple[str, str, Messages, Spans]]

# Nulls in the first, because Arrow takes the columns of a table from its first row.
RECORDS: list[Record] = [
    {"messages": [SYSTEM, HI, HELLO], "source": "chat", "unsafe_spans": None},
    {"messages": [HI, HELLO, MORE, NO], "unsafe_spans": [[3, 1, 3]]},
    {"messages": [{"role": "user", "content": "Zürich \u2028\u0085 \U0001f600"}, HELLO], "unsafe_spans": []},
    {"messages": [SYSTEM, HI, HELLO], "source": "chat"},
]


def plain_lines(records: Iterable[Record]) -> bytes:
    return b"".join(json.dumps(record, ensure_ascii=False).encode() + b"\n" for record in records)


def write_lines(path: Path, records: Iterable[Record]) -> str:
    path.write_bytes(plain_lines(records))
    return str(path)


def all_good(rows: Iterable[Row | BadRow]) -> list[Row]:
    good: list[Row] = []
    for row in rows:
        assert isinstance(row, Row), row
        good.append(row)
    return good


def contents(rows: Iterable[Row | BadRow]) -> Contents:
    return [(row.row_id, row.source, row.messages, row.unsafe_spans) for row in all_good(rows)]


# --- formats -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("record", "messages"),
    [
        ({"messages": [HI, HELLO]}, [HI, HELLO]),
        ({"messages": [SYSTEM, HI, HELLO, MORE, NO]}, [SYSTEM, HI, HELLO, MORE, NO]),
        ({"messages": [{**HI, "name": "Ann"}, HELLO], "id": 7, "score": float("nan")}, [HI, HELLO]),
        ({"prompt": "Hi", "completion": "Hello."}, [HI, HELLO]),
        ({"prompt": [SYSTEM, HI, HELLO, MORE], "completion": [NO]}, [SYSTEM, HI, HELLO, MORE, NO]),
        ({"instruction": "Hi", "input": "", "output": "Hello."}, [HI, HELLO]),
        ({"instruction": "Hi", "output": "Hello.", "text": "Below is an instruction"}, [HI, HELLO]),
        (
            {"instruction": "Add", "input": "1 2", "output": "3", "system": "Be brief."},
            [SYSTEM, {"role": "user", "content": "Add\n\n1 2"}, {"role": "assistant", "content": "3"}],
        ),
        ({"instruction": "More?", "output": " No.\n", "history": [["Hi", "Hello."]]}, [HI, HELLO, MORE, NO]),
        (
            {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello."}]},
            [HI, HELLO],
        ),
        (
            {
                "conversations": [
                    {"from": "system", "value": "Be brief."},
                    {"from": "user", "value": "Hi"},
                    {"from": "chatgpt", "value": "Hello."},
                    {"from": "human", "value": "More?"},
                    {"from": "bot", "value": " No.\n"},
                ]
            },
            [SYSTEM, HI, HELLO, MORE, NO],
        ),
        (
            {
                "system": "Be brief.",
                "conversations": [{"from": "user", "value": "Hi"}, {"from": "model", "value": "Hello."}],
            },
            [SYSTEM, HI, HELLO],
        ),
        ({"chosen": "\n\nHuman: Hi\n\nAssistant: Hello.", "rejected": "x"}, [HI, HELLO]),
        (
            {"text": "Human: Hi \n\nAssistant: Hello.\n\nHuman: More?\n\nAssistant:  A\n\nB\n"},
            [HI, HELLO, MORE, {"role": "assistant", "content": "A\n\nB"}],
        ),
    ],
)
def test_each_format_is_found_from_its_fields(record: object, messages: Messages) -> None:
    assert parse_record(record) == (messages, None)


def test_a_named_format_settles_what_the_fields_leave_open() -> None:
    record = {"messages": [HI, HELLO], "prompt": "More?", "completion": " No.\n"}
    with pytest.raises(RowError, match="several formats: messages, prompt_completion"):
        parse_record(record)
    assert parse_record(record, "prompt_completion")[0] == [MORE, NO]


def test_a_named_field_means_hh_text() -> None:
    record = {"chosen": "\n\nHuman: Hi\n\nAssistant: Hello.", "rejected": "\n\nHuman: Hi\n\nAssistant: No."}
    assert parse_record(record, field="rejected")[0][1]["content"] == "No."


def test_a_null_field_counts_as_absent() -> None:
    record = {"messages": [HI, HELLO], "prompt": None, "completion": None, "unsafe_spans": None}
    assert parse_record(record) == ([HI, HELLO], None)


@pytest.mark.parametrize(
    ("turns", "spans", "triples"),
    [
        ([SYSTEM, HI, HELLO], [[0, 6]], [[2, 0, 6]]),
        ([HI, HELLO], [[1, 5, 6], [0, 1]], [[1, 5, 6], [1, 0, 1]]),
        ([HI, HELLO, MORE, NO], [[3, 0, 5]], [[3, 0, 5]]),
        (
            [HI, {"role": "assistant", "content": "\U0001f600!"}],
            [[1, 2]],
            [[1, 1, 2]],
        ),  # code points, not bytes
        ([HI, HELLO], [], []),
    ],
)
def test_unsafe_spans_become_triples(turns: Messages, spans: Spans, triples: Spans) -> None:
    assert parse_record({"messages": turns, "unsafe_spans": spans}) == (turns, triples)


# --- bad rows ------------------------------------------------------------------------------------------


def talk(*messages: tuple[str, object]) -> Record:
    return {"messages": [{"role": role, "content": content} for role, content in messages]}


BAD_RECORDS: dict[str, tuple[object, str]] = {
    "not an object": ([1, 2], "a list, not an object"),
    "unknown fields": ({"question": "Hi", "answer": "Hello."}, "no format; fields found: 'question'"),
    "null completion": ({"prompt": "Hi", "completion": None}, "field 'completion' is null; .*'completion' .null"),
    "null messages": ({"messages": None}, "field 'messages' is null; fill it in"),
    "no messages": ({"messages": []}, "no messages"),
    "messages not a list": ({"messages": "Hi"}, "messages is text, not a list"),
    "message not an object": ({"messages": ["Hi"]}, r"messages\[0\] is text"),
    "no content": ({"messages": [{"role": "user"}]}, r"messages\[0\] has no 'content'"),
    "no role": ({"messages": [{"content": "Hi"}]}, r"messages\[0\] has no 'role'"),
    "content of parts": (talk(("user", [{"type": "text"}])), r"messages\[0\] is a list, not text"),
    "content a number": (talk(("user", 3)), "is a number, not text"),
    "content null": (talk(("user", None)), "is null, not text"),
    "empty user": (talk(("user", " \n"), ("assistant", "a")), r"messages\[0\] \(user\) is empty"),
    "empty answer": (talk(("user", "a"), ("assistant", "")), r"messages\[1\] \(assistant\) is empty"),
    "answer first": (talk(("assistant", "a")), "'assistant' where 'user' is due"),
    "two users": (talk(("user", "a"), ("user", "b")), "'user' where 'assistant' is due"),
    "late system": (talk(("user", "a"), ("assistant", "b"), ("system", "c")), "'system' where 'user'"),
    "no answer": (talk(("user", "a")), "the last turn is of 'user'"),
    "tool": (talk(("user", "a"), ("tool", "b")), "the role 'tool'"),
    "developer": (talk(("developer", "a")), "the role 'developer'"),
    "unknown role": (talk(("narrator", "a")), "unknown role 'narrator'"),
    "tool call": ({"messages": [HI, {**HELLO, "tool_calls": [{}]}]}, r"messages\[1\] calls a tool"),
    "text and messages": ({"prompt": "Hi", "completion": [HELLO]}, "prompt is text and completion is a list"),
    "alpaca input": ({"instruction": "a", "input": 3, "output": "b"}, "input is a number"),
    "alpaca history": ({"instruction": "a", "output": "b", "history": [["c"]]}, "is not a pair"),
    "sharegpt tool": ({"conversations": [{"from": "observation", "value": "x"}]}, "the role 'observation'"),
    "hh without answer": ({"text": "\n\nHuman: Hi"}, "the last turn is of 'user'"),
    "lone surrogate": (talk(("user", "a\ud800"), ("assistant", "b")), "lone surrogate at character 1"),
    "lone surrogate in source": ({"messages": [HI, HELLO], "source": "\udfff"}, "source has a lone"),
    "spans not a list": ({"messages": [HI, HELLO], "unsafe_spans": {}}, "unsafe_spans is an object"),
    "span of one": ({"messages": [HI, HELLO], "unsafe_spans": [[1]]}, r"spans\[0\] is not two or three whole"),
    "span of bools": ({"messages": [HI, HELLO], "unsafe_spans": [[False, True]]}, "is not two or three whole"),
    "span of floats": ({"messages": [HI, HELLO], "unsafe_spans": [[0.0, 1.0]]}, r"or \[message index"),
    "span too long": ({"messages": [HI, HELLO], "unsafe_spans": [[0, 7]]}, "0 to 7 in a text of 6"),
    "span empty": ({"messages": [HI, HELLO], "unsafe_spans": [[2, 2]]}, "2 to 2"),
    "span negative": ({"messages": [HI, HELLO], "unsafe_spans": [[-1, 2]]}, "-1 to 2"),
    "span of a question": ({"messages": [HI, HELLO], "unsafe_spans": [[0, 0, 1]]}, "points to message 0"),
    "span past the end": ({"messages": [HI, HELLO], "unsafe_spans": [[9, 0, 1]]}, "points to message 9"),
    "pair, two answers": ({"messages": [HI, HELLO, MORE, NO], "unsafe_spans": [[0, 1]]}, "a pair.*2 answers"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_RECORDS)
def test_a_bad_record_is_named_and_reading_goes_on(tmp_path: Path, name: str) -> None:
    record, reason = BAD_RECORDS[name]
    path = tmp_path / "some.jsonl"
    lines = [json.dumps(line) for line in ({"messages": [HI, HELLO]}, record, {"messages": [HI, NO]})]
    path.write_text("\n".join(lines))

    good, bad, after = read_rows(str(path))

    assert isinstance(good, Row)
    assert isinstance(after, Row)
    assert isinstance(bad, BadRow)
    assert bad.origin == f"{path}:2"
    assert bad.remedy
    assert re.search(reason, bad.reason + "; " + bad.remedy)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"messages": ', "broken JSON: Expecting value at character"),
        (b'{"prompt": "caf\xe9", "completion": "a"}', "not UTF-8"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"prompt": "a", "completion": "b", "n": ' + b"9" * 5000 + b"}", "thousands of digits"),
        (b'{"prompt": "a", "completion": "b", "completion": "c"}', "'completion' stands twice"),
        (b'{"messages": [{"role": "user", "role": "assistant", "content": "a"}]}', "'role' stands twice"),
        (b'"text"', "text, not an object"),
        (b"null", "null, not an object"),
        (b'{"prompt": "\\ud800", "completion": "a"}', "lone surrogate"),
    ],
)
def test_a_broken_line_spoils_only_itself(tmp_path: Path, line: bytes, reason: str) -> None:
    path = tmp_path / "some.jsonl"
    path.write_bytes(b'\n\n{"prompt": "a", "completion": "b"}\n' + line + b'\n{"prompt": "c", "completion": "d"}')
    first, bad, last = read_rows(str(path))
    assert isinstance(bad, BadRow)
    assert reason in bad.reason
    assert [first.origin, bad.origin, last.origin] == [f"{path}:{line}" for line in (3, 4, 5)]


@pytest.mark.parametrize(
    ("format", "record", "lacks"),
    [
        ("messages", {"text": "a"}, "'messages' is missing"),
        ("prompt_completion", {"prompt": "a"}, "'completion' is missing"),
        ("alpaca", {"instruction": "a", "output": None}, "'output' is null"),
        ("sharegpt", {"messages": []}, "'conversations' is missing"),
        ("hh", {"rejected": "a", "chosen": None}, "'chosen' is null"),
    ],
)
def test_a_named_format_says_which_field_it_lacks(format: str, record: object, lacks: str) -> None:
    with pytest.raises(RowError, match=f"field {lacks}.*fields found"):
        parse_record(record, format)


# --- ids -----------------------------------------------------------------------------------------------


def test_the_id_is_the_sha256_of_the_compact_messages() -> None:
    # Spelled out, so that no JSON library can change what an id is.
    text = '[{"content":"Grüezi \\"du\\"\\n","role":"user"},{"content":"Hello.","role":"assistant"}]'
    messages: list[dict[str, Any]] = [
        {"role": "user", "content": 'Grüezi "du"\n'},
        {"role": "assistant", "content": "Hello.", "x": 1},
    ]
    assert content_id(messages) == hashlib.sha256(text.encode("utf-8")).hexdigest()[:16]


def test_copies_are_numbered_across_files_and_formats(tmp_path: Path) -> None:
    one = write_lines(tmp_path / "a.jsonl", [{"messages": [HI, HELLO]}, {"messages": [HI, NO]}, {"prompt": 3}])
    two = write_lines(tmp_path / "b.jsonl", [{"prompt": "Hi", "completion": "Hello."}] * 2)
    ids = [row.row_id for row in read_rows([one, two]) if isinstance(row, Row)]
    greeting = content_id([HI, HELLO])
    assert ids == [greeting, content_id([HI, NO]), f"{greeting}-2", f"{greeting}-3"]
    assert [base_id(row_id) for row_id in ids[2:]] == [greeting, greeting]


# --- files ---------------------------------------------------------------------------------------------


def two_frames(raw: bytes) -> bytes:
    half = len(raw) // 2
    return zstandard.compress(raw[:half]) + zstandard.compress(raw[half:])


def parquet(records: list[Record]) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(records), sink)
    return sink.getvalue()


def as_array(records: object, **layout: Any) -> bytes:
    return json.dumps(records, **layout).encode()


FILES: dict[str, Callable[[list[Record]], bytes]] = {
    "custom.jsonl": plain_lines,
    "custom.ndjson": plain_lines,
    "custom.jsonl.gz": lambda records: gzip.compress(plain_lines(records)),
    "custom.jsonl.zst": lambda records: two_frames(plain_lines(records)),
    "custom.JSONL": lambda records: b"\xef\xbb\xbf" + plain_lines(records).replace(b"\n", b"\r\n\r\n"),
    "custom.json": as_array,
    "custom.json.gz": lambda records: gzip.compress(b"\xef\xbb\xbf" + as_array(records, indent=1)),
    "custom.json.zst": lambda records: two_frames(as_array(records, indent=2, ensure_ascii=False)),
    "lines/custom.json": plain_lines,
    "wrapped/custom.json": lambda records: as_array({"version": 1, "tags": ["a"], "data": records, "n": {}}),
    "values/custom.json": lambda records: b"\n".join(as_array(record, indent=2) for record in records),
    "custom.parquet": parquet,
}


def test_a_source_that_is_a_number_is_a_name_all_the_same(tmp_path: Path) -> None:
    """A column of whole numbers with a gap comes as 1.0, 2.0; what is neither name nor number would be lost."""
    rows = [{"messages": [HI, HELLO], "source": source} for source in (7, 0, 2.0, None, "", "name")]
    found = all_good(read_rows(write_lines(tmp_path / "custom.jsonl", rows)))
    assert [row.source for row in found] == ["7", "0", "2", "custom", "custom", "name"]
    for source in (True, ["a"], {"of": "b"}, 1.5, float("1e300") / 3):
        odd = write_lines(tmp_path / "odd.jsonl", [{"messages": [HI, HELLO], "source": source}])
        (row,) = read_rows(odd)
        assert isinstance(row, BadRow) == (not (isinstance(source, float) and source.is_integer()))
        if isinstance(row, BadRow):
            assert "source is neither text nor a whole number" in row.reason


def test_a_column_that_stands_twice_is_refused(tmp_path: Path) -> None:
    """Which of two answers was trained would be chance."""
    columns = [pa.array(["Hi"]), pa.array(["one"]), pa.array(["two"])]
    pq.write_table(
        pa.Table.from_arrays(columns, names=["prompt", "completion", "completion"]), tmp_path / "a.parquet"
    )
    with pytest.raises(InputError, match="column 'completion' stands twice"):
        list(read_rows(str(tmp_path / "a.parquet")))


@pytest.mark.parametrize(
    ("record", "field"),
    [
        ({"prompt": "Hi", "completion": "Yo", "instruction": "You are a pirate."}, "instruction"),
        ({"prompt": "Hi", "completion": "Yo", "context": "The doc says 5."}, "context"),
        ({"instruction": "Hi", "output": "Yo", "context": "The doc says 5."}, "context"),
    ],
)
def test_a_part_of_the_conversation_beside_it_is_not_left_out(
    tmp_path: Path, record: dict[str, str], field: str
) -> None:
    (row,) = read_rows(write_lines(tmp_path / "custom.jsonl", [record]))
    assert isinstance(row, BadRow)
    assert f"{field} stands beside the turns" in row.reason
    said = record | {"prompt" if "prompt" in record else "instruction": f"Read this: {record[field]} Now?"}
    assert len(all_good(read_rows(write_lines(tmp_path / "said.jsonl", [said])))) == 1  # it is in the prompt too


@pytest.fixture
def as_read(tmp_path: Path) -> Contents:
    return contents(read_rows(write_lines(tmp_path / "custom.jsonl", RECORDS)))


@pytest.mark.parametrize("name", FILES)
def test_a_row_is_the_same_whatever_file_it_lies_in(tmp_path: Path, as_read: Contents, name: str) -> None:
    path = tmp_path / "other" / name
    path.parent.mkdir(parents=True)
    path.write_bytes(FILES[name](RECORDS))
    assert contents(read_rows(str(path))) == as_read
    assert [source for _, source, *_ in as_read] == ["chat", "custom", "custom", "chat"]
    assert [messages for _, _, messages, _ in as_read] == [record["messages"] for record in RECORDS]
    assert [spans for *_, spans in as_read] == [None, [[3, 1, 3]], [], None]
    assert raw_files(str(path)) == [path]


def test_a_saved_datasets_folder_reads_as_its_rows(tmp_path: Path, as_read: Contents) -> None:
    folder = tmp_path / "custom"
    datasets.Dataset.from_list(RECORDS).with_format("numpy").save_to_disk(folder)
    rows = list(read_rows(str(folder)))
    assert contents(rows) == as_read
    assert [row.origin for row in rows] == [f"{folder}:{number}" for number in (1, 2, 3, 4)]
    assert folder / "state.json" in raw_files(str(folder))


def test_a_saved_dict_of_splits_needs_one_named(tmp_path: Path, as_read: Contents) -> None:
    folder = tmp_path / "custom"
    data = datasets.Dataset.from_list(RECORDS)
    datasets.DatasetDict(train=data, test=data.select([1])).save_to_disk(folder)
    assert contents(read_rows(str(folder), split="train")) == as_read
    for split in (None, "dev"):
        with pytest.raises(InputError, match="set split to one of train, test"):
            list(read_rows(str(folder), split=split))


def test_a_split_of_what_has_none_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "saved"
    datasets.Dataset.from_list(RECORDS).save_to_disk(folder)
    files = [tmp_path / name for name in ("custom.jsonl", "custom.json.gz", "custom.parquet")]
    for path in files:
        path.write_bytes(FILES[path.name](RECORDS))
    for path in (folder, *files):
        with pytest.raises(InputError, match=r"data\.custom\.split: .* has no splits, so no 'train'; leave"):
            read_rows(str(path), split="train", key="data.custom")
    with pytest.raises(InputError, match=r"evaluation\.harmful: split: .* has no splits"):
        named_prompts("harmful", PromptsConfig(path=str(folder), split="train"))
    datasets.DatasetDict(train=datasets.Dataset.from_list(RECORDS)).save_to_disk(tmp_path / "dict")
    both = [str(folder), str(tmp_path / "dict")]  # of which the split is one's alone
    assert len(list(read_rows(both, split="train"))) == 2 * len(RECORDS)


def test_a_hub_id_is_streamed(monkeypatch: pytest.MonkeyPatch, as_read: Contents) -> None:
    def load_dataset(name: str, *, split: str, streaming: bool) -> Iterator[Record]:
        assert (name, split, streaming) == ("org/custom", "train", True)
        return iter(RECORDS)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    rows = list(read_rows("org/custom"))
    assert contents(rows) == as_read
    assert rows[3].origin == "org/custom:4"
    assert raw_files("org/custom") == []


def test_a_hub_id_that_cannot_be_fetched_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def load_dataset(name: str, **_: Any) -> Any:
        raise ConnectionError("offline")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(InputError, match=r"org/custom: .*'test'.*offline"):
        list(read_rows("org/custom", split="test"))


def test_a_url_is_read_through_its_file_system(as_read: Contents) -> None:
    with fsspec.open("memory://custom.jsonl.gz", "wb") as file:
        file.write(gzip.compress(plain_lines(RECORDS)))
    assert contents(read_rows("memory://custom.jsonl.gz")) == as_read
    assert raw_files("memory://custom.jsonl.gz") == []


def test_only_a_line_feed_ends_a_line(tmp_path: Path) -> None:
    # str.splitlines would cut at each of these.
    content = "a\u2028b\u2029c\u0085d\x7fe"
    records = [{"prompt": content, "completion": content}] * 2
    rows = all_good(read_rows(write_lines(tmp_path / "some.jsonl", records)))
    assert [message["content"] for row in rows for message in row.messages] == [content] * 4
    assert rows[1].origin.endswith("some.jsonl:2")


def test_elements_of_an_array_bear_the_line_they_begin_on(tmp_path: Path) -> None:
    path = tmp_path / "some.json"
    path.write_text('\n[{"prompt": "a",\n "completion": "b"}, 3\n,\n\n{"prompt": "c", "completion": "d"}]\n')
    rows = list(read_rows(str(path)))
    assert [row.origin for row in rows] == [f"{path}:{line}" for line in (2, 3, 6)]
    assert isinstance(rows[1], BadRow)


def test_a_byte_that_is_not_utf8_spoils_one_element_of_an_array(tmp_path: Path) -> None:
    path = tmp_path / "some.json"
    path.write_bytes(b'[{"prompt": "caf\xe9", "completion": "b"},\n{"prompt": "caf\xc3\xa9", "completion": "b"}]')
    bad, good = read_rows(str(path))
    assert isinstance(bad, BadRow)
    assert isinstance(good, Row)
    assert (bad.origin, bad.reason) == (f"{path}:1", "the row has bytes that are not UTF-8")
    assert good.messages[0]["content"] == "café"


def test_a_field_that_stands_twice_spoils_one_element_of_an_array(tmp_path: Path) -> None:
    path = tmp_path / "some.json"
    good = json.dumps({"prompt": "a", "completion": "b"})
    path.write_text(f'[\n{good},\n{{"prompt": "a", "completion": "b", "prompt": "c"}},\n{good}\n]')
    first, bad, last = read_rows(str(path))
    assert isinstance(bad, BadRow)
    assert (bad.origin, bad.reason) == (f"{path}:3", "the field 'prompt' stands twice in one object")
    assert isinstance(first, Row)
    assert isinstance(last, Row)


def test_a_text_that_is_not_utf8_spoils_one_row_of_parquet(tmp_path: Path) -> None:
    path = tmp_path / "some.parquet"
    prompts = pa.array([b"caf\xe9", "café".encode()]).cast(pa.binary()).view(pa.string())
    pq.write_table(pa.table({"prompt": prompts, "completion": ["a", "b"]}), path)
    bad, good = read_rows(str(path))
    assert isinstance(bad, BadRow)
    assert isinstance(good, Row)
    assert (bad.origin, good.origin) == (f"{path}:1", f"{path}:2")
    assert good.messages[0]["content"] == "café"


def test_in_a_json_file_of_lines_even_the_first_may_be_broken(tmp_path: Path) -> None:
    path = tmp_path / "some.json"
    path.write_bytes(b'{"messages": [\n' + plain_lines(RECORDS))
    bad, *good = read_rows(str(path))
    assert isinstance(bad, BadRow)
    assert [row.origin for row in good] == [f"{path}:{line}" for line in (2, 3, 4, 5)]


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.jsonl.gz", "a.jsonl.zst"])
@pytest.mark.parametrize("raw", [b"", b"\xef\xbb\xbf", b" \r\n\n"])
def test_a_file_without_rows_is_refused_by_name(tmp_path: Path, name: str, raw: bytes) -> None:
    packers: dict[str, Callable[[bytes], bytes]] = {".gz": gzip.compress, ".zst": zstandard.compress}
    (tmp_path / name).write_bytes(packers.get(Path(name).suffix, bytes)(raw))
    with pytest.raises(InputError, match=f"{name}: no rows in it"):
        list(read_rows(str(tmp_path / name)))


LINES = plain_lines([{"prompt": str(number) * 50, "completion": "a"} for number in range(2000)])


@pytest.mark.parametrize(
    ("name", "raw", "message"),
    [
        ("a.jsonl.gz", gzip.compress(LINES)[:-300], r":\d+: .*cannot be read on"),
        ("a.jsonl.gz", b"not gzip at all", ":1: .*cannot be read on"),
        ("a.jsonl.zst", zstandard.compress(LINES)[:-3], r":\d+: .*end in the middle"),
        ("a.jsonl.zst", zstandard.compress(LINES) + b"rest", r":2001: .*cannot be read on"),
        ("a.json.gz", gzip.compress(b"[" + LINES)[:-3], r":\d+: "),
        ("a.parquet", parquet(RECORDS)[:-3], ":1: .*cannot be read on"),
        ("a.json", b'[{"prompt": "a", "completion": "b"},\n{"prompt": "a" "b"}]', ":2: broken JSON"),
        ("a.json", b'[{"prompt": "a", "completion": "b"}', ":1: broken JSON: expected ','"),
        ("a.json", b'[\n{"prompt": "a", "completion": "b"},\n]', ":3: broken JSON"),
        ("a.json", b"[" * 100_000, ":1: broken JSON"),
        ("a.json", b'{"data": [{"prompt": "a", "completion": "b"},\n', ":2: broken JSON"),
        ("a.json", b"[]\n{}", ":2: text after the end"),
        ("a.json", b'{"train": [{"a": 1}], "test": [{"a": 1}]}', r"several lists of objects \(train, test\)"),
        ("a.csv", b"prompt,completion", "unknown extension"),
        ("a.parquet.gz", b"", "unknown extension"),
        ("a.pkl", b"", "unknown extension"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused_by_name(tmp_path: Path, name: str, raw: bytes, message: str) -> None:
    path = tmp_path / name
    path.write_bytes(raw)
    with pytest.raises(InputError, match=message) as refusal:
        list(read_rows(str(path)))
    assert str(refusal.value).startswith(str(path))


@pytest.mark.parametrize("name", ["missing.jsonl", "data/missing.jsonl.gz", "some/long/path", "word"])
def test_a_missing_file_is_refused_before_the_first_row(name: str) -> None:
    with pytest.raises(InputError, match=f"{name}: no such file"):
        read_rows(name)


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not one saved by"):
        read_rows(str(tmp_path))


def test_options_that_do_not_fit_are_refused_at_once() -> None:
    with pytest.raises(InputError, match="unknown row format 'chatml'"):
        read_rows([], format="chatml")
    with pytest.raises(InputError, match="field 'text' with format 'messages'"):
        read_rows([], format="messages", field="text")
    with pytest.raises(InputError, match="no data named"):
        read_rows([])


# --- what holds for every input ------------------------------------------------------------------------

texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(str.strip)


@st.composite
def conversations(draw: st.DrawFn) -> Messages:
    asked = draw(st.lists(st.tuples(texts, texts), min_size=1, max_size=3))
    messages = [{"role": "system", "content": draw(texts)}] if draw(st.booleans()) else []
    for question, answer in asked:
        messages += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return messages


@settings(deadline=None)  # the first example may wait for a busy machine
@given(st.lists(conversations(), min_size=1, max_size=5), st.booleans())
def test_any_conversation_is_read_back_as_it_was_written(written: list[Messages], ascii_only: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "some.jsonl")
        lines = [json.dumps({"messages": messages}, ensure_ascii=ascii_only) for messages in written]
        path.write_bytes("\n".join(lines).encode())
        rows = all_good(read_rows(str(path)))
    assert [row.messages for row in rows] == written
    assert len({row.row_id for row in rows}) == len(rows)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@settings(deadline=None)  # the first example may wait for a busy machine
@given(st.lists(values), st.integers(1, 20), st.sampled_from([None, 0, 2]), st.booleans())
def test_an_array_cut_into_blocks_anywhere_reads_as_a_whole(
    elements: list[Any], block: int, indent: int | None, ascii_only: bool
) -> None:
    # Lone surrogates are left out where they are written as such: UTF-8 has no bytes for them.
    text = json.dumps(elements, indent=indent, ensure_ascii=ascii_only)
    whole = json_stream.BLOCK
    json_stream.BLOCK = block
    try:
        stream = json_stream.JsonStream(io.BytesIO(text.encode("utf-8")), "some.json")
        assert [element for _, element in stream.elements()] == elements
        assert stream.peek() == ""
        assert stream.line == 1 + text.count("\n")
    finally:
        json_stream.BLOCK = whole


def test_one_broken_element_does_not_pull_in_the_rest_of_the_file() -> None:
    stream = io.BytesIO(b'[{"a" 1}' + b" " * 10_000_000 + b"]")
    with pytest.raises(InputError, match="Expecting ':'"):
        list(json_stream.JsonStream(stream, "some.json").elements())
    assert stream.tell() < 1_000_000


def peak_bytes_of_reading(path: Path, count: int) -> int:
    tracemalloc.start()
    try:
        assert sum(isinstance(row, Row) for row in read_rows(str(path))) == count
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.long
@pytest.mark.parametrize("name", ["big.jsonl", "big.json", "wrapped/big.json", "big.jsonl.zst", "big.parquet"])
def test_long_rows_are_read_one_by_one(tmp_path: Path, name: str) -> None:
    path, count = tmp_path / name, 2000
    path.parent.mkdir(exist_ok=True)
    records = [{"prompt": str(number) * 5000, "completion": "a"} for number in range(count)]
    path.write_bytes(FILES[name.replace("big", "custom")](records))
    del records
    # The rows hold 37 MB of text.
    assert peak_bytes_of_reading(path, count) < 9e6


@pytest.mark.long
@pytest.mark.slow
def test_of_short_rows_only_a_number_each_is_kept(tmp_path: Path) -> None:
    path, count = tmp_path / "big.jsonl", 20_000
    with path.open("w") as file:
        file.writelines(f'{{"prompt": "{number}", "completion": "a"}}\n' for number in range(count))
    # A row held as a whole takes some 900 bytes.
    assert peak_bytes_of_reading(path, count) < 300 * count
