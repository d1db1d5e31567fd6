"""Fields that change what a row means: context where they say so plainly, a bad row where they have no place."""

from __future__ import annotations

import itertools
import json
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from tosslm.config import SourceConfig
from tosslm.config.data import FIELDS
from tosslm.data.formats import HH_FIELDS, REQUIRED_FIELDS, parse_conversation
from tosslm.data.rows import BadRow, Row, content_id, read_rows
from tosslm.data.sets import SetCounts, prepared_rows
from tosslm.data.tokenize import RowTokenizer
from tosslm.errors import RowError
from tosslm.evaluation.measurement import last_is_response

Record = dict[str, Any]

HI = {"role": "user", "content": "Hi"}
HELLO = {"role": "assistant", "content": "Hello."}
MORE = {"role": "user", "content": "More?"}
NO = {"role": "assistant", "content": "No."}
RECORDS: dict[str, Record] = {
    "messages": {"messages": [HI, HELLO]},
    "prompt_completion": {"prompt": "Hi", "completion": "Hello."},
    "prompt_completion of messages": {"prompt": [HI], "completion": [HELLO]},
    "alpaca": {"instruction": "Hi", "output": "Hello."},
    "sharegpt": {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello."}]},
    "hh": {"chosen": "\n\nHuman: Hi\n\nAssistant: Hello.", "rejected": "\n\nHuman: Hi\n\nAssistant: No."},
}
OF_RECORDS: list[tuple[str, Any]] = [
    ("tools", {"name": "search"}),
    ("tools", ["search"]),
    ("tools", "search"),
    ("tools", '{"name": "search"}'),
    ("tools", [{"name": "half a pair: \ud83d"}]),
    ("tools", "[" * 100_000),
    ("functions", [{"name": "search"}]),
    ("documents", [{"title": "a", "text": "b"}]),
    ("chat_template_kwargs", {"enable_thinking": False}),
    ("enable_thinking", False),
    ("reasoning_content", "They greet me."),
    ("thinking", "They greet me."),
    ("image", "cat.png"),
    ("images", [{"path": "cat.png"}]),
    ("audio", {"path": "cat.wav", "array": [0.0]}),
    ("videos", ["cat.mp4"]),
    ("weight", 0),
    ("weight", 0.5),
    ("train", False),
    ("loss", False),
    ("mask", True),
    ("label", False),
    ("weight", "0"),
    ("weight", "0.5"),
    ("train", "False"),
    ("train", 0),
    ("training", " false "),
    ("loss", "false"),
    ("loss_mask", 0),
    ("loss_mask", [0, 1]),
    ("masked", "True"),
    ("mask", [True, False]),
]
NEUTRAL: list[Any] = [None, [], {}, "", 1, 1.0, True]


@pytest.mark.parametrize("format", RECORDS)
@pytest.mark.parametrize(("name", "value"), OF_RECORDS)
def test_a_field_of_the_row_that_has_no_place_is_refused_in_every_format(
    tmp_path: Path, format: str, name: str, value: object
) -> None:
    path = tmp_path / "some.jsonl"
    path.write_text(json.dumps({**RECORDS[format], name: value}) + "\n" + json.dumps(RECORDS[format]))
    bad, good = read_rows(str(path))
    assert isinstance(bad, BadRow)
    assert name in bad.reason
    assert "remove" in bad.remedy
    assert isinstance(good, Row)


@pytest.mark.parametrize("format", RECORDS)
@pytest.mark.parametrize("value", NEUTRAL)
def test_neutral_values_and_unknown_fields_stay_good(format: str, value: object) -> None:
    names = [name for name, _ in OF_RECORDS if not name.startswith("mask")]
    record = {**RECORDS[format], **dict.fromkeys(names, value), "id": 7, "score": 0.5, "loss": 1.25, "label": 0}
    assert parse_conversation(record).messages == [HI, HELLO]


@pytest.mark.parametrize(
    "value", [[None], {"bytes": None, "path": None}, [{"name": None}], "[]", "null", {"a": [None]}]
)
def test_what_parquet_fills_in_for_an_absent_field_is_nothing(value: object) -> None:
    assert (
        parse_conversation({"messages": [HI, {**HELLO, "tool_calls": value}], "tools": value}).context == frozenset()
    )


@pytest.mark.parametrize("format", ["messages", "prompt_completion of messages", "sharegpt"])
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("reasoning_content", ["They greet me."]),
        ("thinking", {"content": "They greet me."}),
        ("thinking", False),
        ("tools", [{"name": "search"}]),
        ("tool_calls", [{"function": {"name": "search"}}]),
        ("images", ["cat.png"]),
        ("audio", {"id": "audio_1"}),
        ("train_detail", [{"begin_offset": 0, "end_offset": 1, "train": False}]),
        ("weight", 0.5),
        ("weight", "0"),
        ("train", "no"),
        ("mask", 1),
    ],
)
def test_a_field_of_a_turn_that_has_no_place_is_refused(format: str, name: str, value: object) -> None:
    with pytest.raises(RowError, match=rf"\[\d\].*({name}|calls a tool)"):
        parse_conversation(with_last(RECORDS[format], {name: value}))


def deep(levels: int) -> Any:
    """An object in a list in an object and so on."""
    one: Any = 1
    for _ in range(levels):
        one = {"x": [one]}
    return one


SEARCH: dict[str, Any] = {"type": "function", "function": {"name": "search", "parameters": {"type": "object"}}}


@pytest.mark.parametrize("format", RECORDS)
@pytest.mark.parametrize(
    "value",
    [
        [SEARCH],
        json.dumps([SEARCH]),
        [{**SEARCH, "function": {**SEARCH["function"], "strict": None}, "id": None}],
    ],
    ids=["list", "text", "with nulls"],
)
def test_tools_stand_with_the_first_message_in_every_format(format: str, value: object) -> None:
    parsed = parse_conversation({**RECORDS[format], "tools": value})
    assert parsed.messages == [{**HI, "tools": [SEARCH]}, HELLO]


@pytest.mark.parametrize("format", ["messages", "prompt_completion of messages", "sharegpt"])
@pytest.mark.parametrize("name", ["reasoning_content", "reasoning", "thinking"])
def test_reasoning_stands_with_its_answer(format: str, name: str) -> None:
    parsed = parse_conversation(with_last(RECORDS[format], {name: " They greet me."}))
    assert parsed.messages == [HI, {**HELLO, name: " They greet me."}]
    assert parse_conversation(with_last(RECORDS[format], {name: ""})).messages == [HI, HELLO]


@pytest.mark.parametrize("inside", [datetime(2026, 1, 1), b"bytes", deep(600)], ids=["date", "bytes", "deep"])
def test_tools_that_json_cannot_hold_are_refused(inside: object) -> None:
    with pytest.raises(RowError, match="tools holds what JSON cannot"):
        parse_conversation({"messages": [HI, HELLO], "tools": [{"name": "search", "x": inside}]})


def test_reasoning_of_a_user_is_refused() -> None:
    with pytest.raises(RowError, match=r"messages\[0\] \(user\) has thinking"):
        parse_conversation({"messages": [{**HI, "thinking": "I greet."}, HELLO]})


@pytest.mark.parametrize("name", ["prefix", "partial"])
def test_the_beginning_of_an_answer_is_no_answer(name: str) -> None:
    with pytest.raises(RowError, match=rf"messages\[1\]: {name} is true, so its text begins an answer"):
        parse_conversation({"messages": [HI, {**HELLO, name: True}]})
    assert parse_conversation({"messages": [HI, {**HELLO, name: False}]}).messages == [HI, HELLO]


def test_an_id_is_of_roles_and_contents_alone(tmp_path: Path) -> None:
    path = tmp_path / "some.jsonl"
    records = [{"messages": [HI, HELLO]}, {"messages": [HI, {**HELLO, "thinking": "They greet."}], "tools": [SEARCH]}]
    path.write_text("\n".join(map(json.dumps, records)))
    first, second = read_rows(str(path))
    assert isinstance(first, Row)
    assert isinstance(second, Row)
    assert second.row_id == f"{first.row_id}-2"


def with_last(record: Record, fields: Record) -> Record:
    """The record, its last turn with more fields."""
    name = next(name for name in ("messages", "completion", "conversations") if name in record)
    return {**record, name: [*record[name][:-1], {**record[name][-1], **fields}]}


NOT_TRAINED: list[Record] = [
    {"weight": 0},
    {"weight": 0.0},
    {"train": False},
    {"training": False},
    {"loss": False},
    {"mask": True},
    {"weight": 1, "train": False},
]


@pytest.mark.parametrize("fields", NOT_TRAINED)
def test_a_turn_that_is_not_to_be_trained_is_context(smollm2_tokenizer: Any, tmp_path: Path, fields: Record) -> None:
    path = tmp_path / "some.jsonl"
    path.write_text(json.dumps({"messages": [HI, {**HELLO, **fields}, MORE, NO]}))

    (row,) = prepared_rows(SourceConfig(path=str(path)), RowTokenizer(smollm2_tokenizer), SetCounts())

    assert isinstance(row, dict)
    whole = RowTokenizer(smollm2_tokenizer)([HI, HELLO, MORE, NO])
    assert row["input_ids"] == whole.input_ids
    assert row["row_id"] == content_id([HI, HELLO, MORE, NO])
    assert {message for message, _, _ in row["offsets"]} == {3, -1}
    trained = [token for token, marked in zip(row["input_ids"], row["response_mask"], strict=True) if marked]
    assert smollm2_tokenizer.decode(trained) == "No.<|im_end|>"


@pytest.mark.parametrize("fields", NOT_TRAINED)
def test_a_row_of_which_nothing_is_trained_is_bad(fields: Record) -> None:
    with pytest.raises(RowError, match="no answer of the row is to be trained"):
        parse_conversation({"messages": [HI, {**HELLO, **fields}]})
    # As a prompt it is as good as any.
    assert parse_conversation({"messages": [HI, {**HELLO, **fields}]}, answered=False).messages == [HI, HELLO]


def test_the_weight_of_a_turn_that_is_not_trained_anyway_says_nothing() -> None:
    record = {"conversations": [{"from": "human", "value": "Hi", "weight": 0}, {"from": "gpt", "value": "Hello."}]}
    assert parse_conversation(record).context == frozenset()


def test_where_only_the_last_answer_counts_it_has_to_be_trained(smollm2_tokenizer: Any) -> None:
    tokenize = RowTokenizer(smollm2_tokenizer, turns="last")
    with pytest.raises(RowError, match=r"the last answer is not trained.*data\.turns: all"):
        tokenize([HI, HELLO, MORE, NO], context={3})
    assert tokenize([HI, HELLO, MORE, NO], context={1}) == tokenize([HI, HELLO, MORE, NO])


def test_an_answer_that_is_context_is_no_answer_to_measure(smollm2_tokenizer: Any) -> None:
    messages = [HI, HELLO, MORE, NO]
    for context, measured in (((), True), ((1,), True), ((3,), False)):
        offsets = RowTokenizer(smollm2_tokenizer)(messages, context=context).offsets
        assert last_is_response({"messages": messages, "offsets": offsets}) == measured


def test_answers_in_a_prompt_of_messages_are_context() -> None:
    parsed = parse_conversation({"prompt": [HI, HELLO, MORE], "completion": [NO]})
    assert parsed.context == {1}
    assert parsed.messages == [HI, HELLO, MORE, NO]


@pytest.mark.parametrize("format", [name for name in RECORDS if name != "hh"])
@pytest.mark.parametrize("name", ["chosen", "rejected"])
def test_compared_answers_beside_a_row_are_refused_unless_its_format_is_named(format: str, name: str) -> None:
    record = {**RECORDS[format], name: [HI, NO]}
    named = format.split(" ", maxsplit=1)[0]
    with pytest.raises(RowError, match=f"{name} stands beside a row of format {named}.*set format: {named}"):
        parse_conversation(record)
    assert parse_conversation(record, named).messages == [HI, HELLO]


@pytest.mark.parametrize(
    ("format", "name", "value"),
    [
        ("messages", "system", "Be brief."),
        ("messages", "history", [["Hi", "Hello."]]),
        ("messages", "system_prompt", "Be brief."),
        ("prompt_completion", "history", [["Hi", "Hello."]]),
        ("prompt_completion", "input", "Good morning"),
        ("prompt_completion", "system_prompt", "Be brief."),
        ("alpaca", "system_prompt", "Be brief."),
        ("sharegpt", "history", [["Hi", "Hello."]]),
        ("hh", "system", "Be brief."),
    ],
)
def test_a_part_of_the_conversation_that_a_format_does_not_read_is_refused(
    format: str, name: str, value: object
) -> None:
    record = RECORDS[format]
    with pytest.raises(RowError, match=f"^{name} stands beside the turns"):
        parse_conversation({**record, name: value})
    nothing: list[Any] = [None, "", []]
    for value in nothing:
        assert parse_conversation({**record, name: value}).messages == [HI, HELLO]


@pytest.mark.parametrize("format", ["prompt_completion", "prompt_completion of messages", "alpaca", "sharegpt"])
def test_a_system_text_beside_the_turns_stands_first(format: str) -> None:
    parsed = parse_conversation({**RECORDS[format], "system": "Be brief."})
    assert parsed.messages == [{"role": "system", "content": "Be brief."}, HI, HELLO]


def test_a_text_beside_the_turns_that_they_say_too_is_not_lost() -> None:
    brief = {"role": "system", "content": "Be brief."}
    record = {"messages": [brief, HI, HELLO], "system": "Be brief.", "system_prompt": "Be brief.\n"}
    assert parse_conversation(record).messages == [brief, HI, HELLO]
    assert parse_conversation({**RECORDS["prompt_completion"], "input": "Hi"}).messages == [HI, HELLO]


def test_a_system_text_of_another_name_is_named_in_the_config(tmp_path: Path) -> None:
    path = tmp_path / "orca.jsonl"
    path.write_text(json.dumps({"system_prompt": "Be brief.", "question": "Hi", "response": "Hello."}))
    names = {"prompt": "question", "completion": "response"}
    (bad,) = read_rows(str(path), fields=names)
    assert isinstance(bad, BadRow)
    assert "(system: system_prompt)" in bad.remedy
    (row,) = read_rows(str(path), fields={**names, "system": "system_prompt"})
    assert isinstance(row, Row)
    assert row.messages == [{"role": "system", "content": "Be brief."}, HI, HELLO]


@pytest.mark.parametrize("fields", [{"sytem": "system_prompt"}, {"response": "completion"}])
def test_a_name_that_no_format_has_is_refused(fields: dict[str, str]) -> None:
    with pytest.raises(ValidationError, match=f"no row is read for '{next(iter(fields))}'"):
        SourceConfig.model_validate({"path": "rows.jsonl", "fields": fields})


def test_all_that_formats_read_can_be_named() -> None:
    read = {*itertools.chain(*REQUIRED_FIELDS.values()), *HH_FIELDS, "input", "history", "system", "tools", "source"}
    assert read | {"unsafe_spans"} == set(FIELDS)
