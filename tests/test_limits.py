"""What would never end is refused by name; what is too long is a bad row; what is cut is not read to its end."""

from __future__ import annotations

import gzip
import io
import json
import os
import re
import socket
import tracemalloc
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from test_tokenize import FAMILIES, build, conversation
from tosslm.config import DataConfig, covered, load_config
from tosslm.data import json_stream
from tosslm.data import template as template_module
from tosslm.data import tokenize as tokenize_module
from tosslm.data.rows import BadRow, Row, read_rows
from tosslm.data.tokenize import RowTokenizer
from tosslm.errors import InputError

LIMIT = 5000
SHORT = {"prompt": "Hi", "completion": "Hello."}


def lines(records: Sequence[dict[str, Any]]) -> bytes:
    return b"".join(json.dumps(record, ensure_ascii=False).encode() + b"\n" for record in records)


def array(records: Sequence[dict[str, Any]]) -> bytes:
    return json.dumps(records, ensure_ascii=False).encode()


def wrapped(records: Sequence[dict[str, Any]]) -> bytes:
    return json.dumps({"about": {"x": "}" * 2 * LIMIT}, "data": records}, ensure_ascii=False, indent=1).encode()


def parquet(records: Sequence[dict[str, Any]], **options: Any) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(list(records)), sink, **options)
    return sink.getvalue()


FILES: dict[str, Callable[[Sequence[dict[str, Any]]], bytes]] = {
    "a.jsonl": lines,
    "a.jsonl.gz": lambda records: gzip.compress(lines(records)),
    "a.jsonl.zst": lambda records: zstandard.compress(lines(records)),
    "lines/a.json": lines,
    "array/a.json": array,
    "wrapped/a.json": wrapped,
    "values/a.json": lambda records: b"\n".join(json.dumps(one, indent=1).encode() for one in records),
    "a.json.zst": lambda records: zstandard.compress(array(records)),
    "a.parquet": parquet,
    "groups/a.parquet": lambda records: parquet(records, row_group_size=1, compression="zstd"),
    "plain/a.parquet": lambda records: parquet(records, use_dictionary=False),
}
LONG = {
    "letters": "a" * 3 * LIMIT,
    "quotes and brackets": '\\"]}[{' * LIMIT,
    "backslashes": "\\" * 3 * LIMIT,
    "lines": "a\n" * 2 * LIMIT,
    "two bytes a letter": "é" * (LIMIT // 2),
}


@pytest.mark.parametrize("text", LONG.values(), ids=LONG)
@pytest.mark.parametrize("name", FILES)
def test_a_row_that_is_too_long_is_bad_and_reading_goes_on(
    tmp_path: Path, name: str, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(json_stream, "BLOCK", 97)
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(FILES[name]([SHORT, {"prompt": "Hi", "completion": text}, {**SHORT, "prompt": "More?"}]))

    first, bad, last = read_rows(str(path), max_row_bytes=LIMIT)

    assert isinstance(bad, BadRow)
    assert bad.reason == "the row has more than 5,000 bytes"
    assert "data.max_row_bytes" in bad.remedy
    assert isinstance(first, Row)
    assert isinstance(last, Row)
    assert last.messages[0]["content"] == "More?"
    numbers = [int(row.origin.rpartition(":")[2]) for row in (first, bad, last)]
    assert numbers == sorted(numbers)
    assert all(isinstance(row, Row) for row in read_rows(str(path)))


def test_a_row_of_just_the_bytes_allowed_is_good(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    for ending in (b"\n", b"\r\n", b""):
        for more, kind in ((0, Row), (1, BadRow)):
            size = LIMIT - len(lines([{**SHORT, "completion": ""}]).strip()) + more
            record = lines([{**SHORT, "completion": "a" * size}]).strip()
            assert len(record) == LIMIT + more
            path.write_bytes(record + ending)
            (row,) = read_rows(str(path), max_row_bytes=LIMIT)
            assert isinstance(row, kind)


def test_a_number_without_end_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_stream, "BLOCK", 97)
    path = tmp_path / "a.json"
    path.write_bytes(b"[0." + b"9" * 3 * LIMIT + b"," + json.dumps(SHORT).encode() + b"]")
    bad, good = read_rows(str(path), max_row_bytes=LIMIT)
    assert isinstance(bad, BadRow)
    assert isinstance(good, Row)


def test_a_value_without_end_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(b'[\n{"prompt": "' + b"a" * 3 * LIMIT)
    with pytest.raises(InputError, match=rf"{re.escape(str(path))}:2: broken JSON: a value without an end"):
        list(read_rows(str(path), max_row_bytes=LIMIT))


@pytest.mark.parametrize(("name", "before"), [("a.jsonl.zst", b""), ("a.json.zst", b"[")])
def test_what_unpacks_to_a_file_without_end_is_given_up(tmp_path: Path, name: str, before: bytes) -> None:
    path = tmp_path / name
    path.write_bytes(zstandard.compress(before + b'{"prompt": "' + b"a" * 1_200_000))
    with pytest.raises(InputError, match=r"a\.json.*:1: a (line|value) of more than 1,000,000 bytes, unpacked"):
        list(read_rows(str(path), max_row_bytes=1000))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["a.jsonl.zst", "a.json.zst", "a.jsonl.gz"])
def test_a_small_packed_file_of_one_giant_row_takes_little_memory(tmp_path: Path, name: str) -> None:
    packer = gzip.compress if name.endswith("gz") else zstandard.compress
    giant = b'{"prompt": "Hi", "completion": "' + b"a" * 200_000_000 + b'"}'
    whole = b"[" + giant + b"," + json.dumps(SHORT).encode() + b"]"
    path = tmp_path / name
    path.write_bytes(packer(whole if ".json." in name else giant + b"\n" + lines([SHORT])))
    del giant, whole
    assert path.stat().st_size < 250_000
    tracemalloc.start()
    try:
        bad, good = read_rows(str(path), max_row_bytes=1_000_000)
        assert (
            tracemalloc.get_traced_memory()[1] < 100e6
        )  # of 200 MB; what one read of Zstandard may unpack to, twice
    finally:
        tracemalloc.stop()
    assert isinstance(bad, BadRow)
    assert isinstance(good, Row)


def test_a_giant_row_alone_in_its_row_group_is_not_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    path.write_bytes(parquet([{"prompt": "Hi", "completion": "a" * 50_000_000}, SHORT], row_group_size=1))
    before = pa.total_allocated_bytes()
    rows = read_rows(str(path))
    assert isinstance(next(rows), BadRow)
    assert pa.total_allocated_bytes() - before < 1_000_000
    assert isinstance(next(rows), Row)


def test_a_giant_row_among_others_is_not_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    path.write_bytes(
        parquet([SHORT, {"prompt": "Hi", "completion": "a" * 60_000_000}], use_dictionary=False, compression="zstd")
    )
    before = pa.total_allocated_bytes()
    with pytest.raises(InputError, match=r"a\.parquet: row group 0 unpacks to 60,000,\d+ bytes"):
        list(read_rows(str(path), max_row_bytes=1_000_000))
    assert pa.total_allocated_bytes() - before < 1_000_000


@pytest.mark.slow
def test_a_row_group_that_packs_well_is_no_giant_row(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    records = [{"prompt": "Hi", "completion": "You are a helpful assistant. " * 100}] * 15_000
    path.write_bytes(parquet(records, use_dictionary=False, compression="zstd"))
    assert all(isinstance(row, Row) for row in read_rows(str(path), max_row_bytes=1_000_000))


def test_rows_of_a_saved_folder_and_of_the_hub_are_measured_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = [SHORT, {"prompt": "Hi", "completion": "a" * 2 * LIMIT}]
    datasets.Dataset.from_list(records).save_to_disk(tmp_path / "saved")
    monkeypatch.setattr(datasets, "load_dataset", lambda *args, **kwargs: iter(records))
    for name in (str(tmp_path / "saved"), "some/set"):
        good, bad = read_rows(name, max_row_bytes=LIMIT)
        assert isinstance(good, Row)
        assert isinstance(bad, BadRow)


def test_a_category_of_many_texts_is_not_taken_for_a_long_row(tmp_path: Path) -> None:
    texts = [str(number) * 100 for number in range(100)]
    table = pa.table({"prompt": pa.array(texts).dictionary_encode(), "completion": texts})
    pq.write_table(table, tmp_path / "a.parquet")
    assert all(isinstance(row, Row) for row in read_rows(str(tmp_path / "a.parquet"), max_row_bytes=LIMIT))


# --- what is no file -----------------------------------------------------------------------------------


def fifo(path: Path) -> None:
    os.mkfifo(path)


def bound_socket(path: Path) -> None:
    socket.socket(socket.AF_UNIX).bind(str(path))


@pytest.mark.parametrize(
    "make", [fifo, bound_socket, lambda path: path.symlink_to("/dev/zero")], ids=["pipe", "socket", "link to device"]
)
@pytest.mark.parametrize("before", ["", "file://"])
def test_what_is_no_regular_file_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[[Path], None], before: str
) -> None:
    monkeypatch.chdir(tmp_path)  # the path of a socket must be short
    make(Path("a.jsonl"))
    name = before + (str(tmp_path / "a.jsonl") if before else "a.jsonl")
    with pytest.raises(InputError, match=rf"^{re.escape(name.removeprefix('file://'))}: no regular file"):
        list(read_rows(name))


def test_a_pipe_in_a_saved_folder_is_refused_by_name(tmp_path: Path) -> None:
    datasets.Dataset.from_list([SHORT]).save_to_disk(tmp_path / "saved")
    os.mkfifo(tmp_path / "saved" / "data-2.arrow")
    with pytest.raises(InputError, match=r"saved/data-2\.arrow: no regular file"):
        read_rows(str(tmp_path / "saved"))


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.jsonl.gz", "a.jsonl.zst", "a.parquet"])
def test_an_empty_file_is_refused_by_name_among_others_too(tmp_path: Path, name: str) -> None:
    good, empty = tmp_path / "good.jsonl", tmp_path / name
    good.write_bytes(lines([SHORT]))
    empty.write_bytes(parquet([SHORT])[:0] if name != "a.parquet" else parquet([SHORT]))
    if name == "a.parquet":
        pq.write_table(pa.table({"prompt": pa.array([], pa.string())}), empty)
    for paths in ([str(empty)], [str(good), str(empty)]):
        with pytest.raises(InputError, match=rf"^{re.escape(str(empty))}: no rows in it"):
            list(read_rows(paths))


# --- long rows as tokens -------------------------------------------------------------------------------

TEXTS = {
    "words": "Take two eggs and stir them slowly, then 1234567 more. ",
    "white space": "a \t \n\n   \n b      ",
    "digits": "1234567890" * 30 + " ",
    "controls": "x <|im_end|> y </s> z <|eot_id|>\n",
    "letters of many bytes": "日本語 👍🏽 é\u0301 한\u200d ",
}


@pytest.mark.slow
@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
@pytest.mark.parametrize("name", FAMILIES)
def test_the_head_of_a_long_row_has_the_tokens_of_the_whole(
    name: str, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = (text * (6_000 // len(text) + 1)).strip()
    rows = [
        conversation("Hi", long),
        conversation("Hi", "Hello! " * 8, "More?", long),
        conversation("Hi", long, "More?", "No."),
    ]
    for max_length in (2, 41):
        short = RowTokenizer(build(name), max_length=max_length)
        for messages in rows:
            found = []
            for characters in (1, 10**6):
                monkeypatch.setattr(tokenize_module, "CHARACTERS_A_TOKEN", characters)
                try:
                    found.append(short(messages))
                except InputError as error:
                    found.append(str(error))  # type: ignore[arg-type]
            # The message counts the tokens that were read, which are fewer.
            assert found[0] == found[1] or "after truncation" in str(found[0])


UNBROKEN = {
    "one letter": "a",
    "two letters": "ab",
    "dashes": "-",
    "words": "Taketwoeggsandstirthemslowlythenmoreofit",
    "digits": "3141592653589793238462643383279502884197169399375105820974944592307816406286",
    "no script of spaces": "日本語中文的一是在不了有和人这",
    "emoji": "👍🏽",
    "joined": "x\u200d",
    "marks": "e\u0301",
    "base64": "VGFrZSB0d28gZWdncyBhbmQgc3Rpcg+/dGhlbSBzbG93bHk0MTU5",
}


@pytest.mark.slow
@pytest.mark.parametrize("name", [*FAMILIES, "smollm2"])
def test_without_white_space_the_end_of_a_text_bears_on_few_characters_before_it(
    name: str, smollm2_tokenizer: Any
) -> None:
    """What `_FAR` stands on, with a wide margin: the last token before a cut may differ, not those far from it."""
    tokenizer = smollm2_tokenizer if name == "smollm2" else build(name)
    for label, text in UNBROKEN.items():
        whole = "Hi " + text * (30_000 // len(text))
        encode = partial(tokenizer, add_special_tokens=False, return_offsets_mapping=True)
        expected = encode(whole)
        for cut in (9_001, 9_002, 9_007, 9_064):
            head = encode(whole[:cut])
            same = sum(1 for _, end in head["offset_mapping"] if end < cut - tokenize_module._FAR // 40)
            assert same > 8_700 / 64
            assert head["input_ids"][:same] == expected["input_ids"][:same], label
            assert head["offset_mapping"][:same] == expected["offset_mapping"][:same], label


@pytest.mark.slow
@pytest.mark.parametrize("text", ["Take two eggs and stir. ", *UNBROKEN.values()], ids=["spaces", *UNBROKEN])
def test_a_long_row_is_not_encoded_to_its_end(smollm2_tokenizer: Any, text: str) -> None:
    seen: list[int] = []

    class Watched:
        def __call__(self, text: str, **options: Any) -> Any:
            seen.append(len(text))
            return smollm2_tokenizer(text, **options)

        def __getattr__(self, name: str) -> Any:
            return getattr(smollm2_tokenizer, name)

    messages = conversation("Hi", text * (200_000 // len(text)))
    row = RowTokenizer(Watched(), max_length=128)(messages)
    assert max(seen) < 30_000
    assert row.truncated
    whole = smollm2_tokenizer.apply_chat_template(messages, return_dict=False)
    assert row.input_ids == whole[:128]


@pytest.mark.parametrize("turns", ["all", "last"])
def test_of_a_row_of_thousands_of_turns_only_the_kept_ones_are_rendered(
    smollm2_tokenizer: Any, monkeypatch: pytest.MonkeyPatch, turns: Any
) -> None:
    rendered: list[int] = []
    real = template_module.render_jinja_template  # type: ignore[attr-defined]

    def watched(*, conversations: Any, **options: Any) -> Any:
        rendered.append(len(conversations[0]))
        return real(conversations=conversations, **options)

    messages = conversation(*["Take two eggs and stir them. " * 3] * 10_000)
    tokenize = RowTokenizer(smollm2_tokenizer, max_length=128, turns=turns)
    monkeypatch.setattr(template_module, "render_jinja_template", watched)
    if turns == "last":
        with pytest.raises(InputError, match="after truncation"):
            tokenize(messages)
    else:
        row = tokenize(messages)
        monkeypatch.undo()
        assert row.truncated
        short = RowTokenizer(smollm2_tokenizer, max_length=128)(messages[:40])
        assert (row.input_ids, row.response_mask, row.offsets) == (
            short.input_ids,
            short.response_mask,
            short.offsets,
        )
    assert sum(rendered) < 50_000


# --- the config ----------------------------------------------------------------------------------------

DATA = {name: {"path": f"{name}.jsonl"} for name in ("custom", "harmful", "utility")}


def test_the_limit_is_covered_only_where_it_is_not_the_default() -> None:
    assert "max_row_bytes" not in covered(DataConfig.model_validate(DATA))
    assert covered(DataConfig.model_validate(DATA | {"max_row_bytes": 5000}))["max_row_bytes"] == 5000


@pytest.mark.parametrize(
    "key",
    [
        "data.max_length",
        "data.max_row_bytes",
        "references.lora.r",
        "references.epochs",
        "finetune.batch_size",
        "finetune.micro_batch_size",
        "finetune.warmup_steps",
        "scoring.batch_tokens",
        "scoring.rows_per_part",
        "selection.window",
        "refinement.rounds",
        "refinement.samples_per_round",
        "diagnosis.rows",
        "diagnosis.positions",
        "evaluation.max_new_tokens",
        "evaluation.batch_size",
        "evaluation.utility_prompts",
        "compare.guard_segment",
    ],
)
def test_numbers_that_would_only_hang_are_refused(key: str) -> None:
    with pytest.raises(InputError, match=rf"{re.escape(key)}: .*less than or equal to [\d]+ \(given: 1{'0' * 18}\)"):
        load_config({"data": DATA}, [f"{key}=1{'0' * 18}"])
