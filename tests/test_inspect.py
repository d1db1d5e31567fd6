"""`toss inspect`: counts against plain loops, each defect planted and found, nothing found in a sound set."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from typer.testing import CliRunner, Result

from conftest import demo_rows, write_rows
from tosslm import InputError
from tosslm.cli import app
from tosslm.data.tokenize import tokenize_rows
from tosslm.inspection.counts import Counts
from tosslm.inspection.findings import found
from tosslm.inspection.inspect import Inspection, inspect
from tosslm.inspection.layouts import layout_of, token_row
from tosslm.inspection.vocabulary import Vocabulary
from tosslm.misplaced import label_defects
from tosslm.model.builtin import SMOLLM2
from tosslm.terminal.inspection import coloured, print_inspection

Record = dict[str, Any]
HEADER, END, NEWLINE = [5, 6, 7], 2, 9
VOCABULARY = Vocabulary(1000, {END: "<end>"}, np.array([0, 1]), {0: "<pad>", 1: "<begin>", END: "<end>"})
WAYS = ["labels", "loss_mask", "completion_mask", "packed"]


def sound(count: int = 30, seed: int = 0) -> list[Record]:
    """Rows as a chat template makes them: prompt, header, answer, end of turn, newline; the answer and its end train.

    ``keep`` has one bool a token.
    """
    rng = np.random.default_rng(seed)
    rows = []
    for _ in range(count):
        prompt, answer = (rng.integers(20, 900, rng.integers(3, 12)).tolist() for _ in range(2))
        ids = [1, *prompt, *HEADER, *answer, END, NEWLINE]
        keep = [False] * (len(prompt) + 4) + [True] * (len(answer) + 1) + [False]
        rows.append({"input_ids": ids, "keep": keep})
    return rows


def written(row: Record, way: str) -> Record:
    """A sound row in one of the layouts."""
    ids, keep = row["input_ids"], row["keep"]
    if way == "labels":
        labels = [token if kept else -100 for token, kept in zip(ids, keep, strict=True)]
        return {"input_ids": ids, "attention_mask": [1] * len(ids), "labels": labels}
    if way == "packed":
        return {"input_ids": ids, "seq_start_id": [0], "loss_mask": [int(kept) for kept in [*keep[1:], False]]}
    return {"input_ids": ids, way: [int(kept) for kept in keep]}


def packed_rows(rows: list[Record], size: int) -> Iterator[Record]:
    """So many rows as one, as Megatron-Bridge has them."""
    for at in range(0, len(rows), size):
        one: Record = {"input_ids": [], "seq_start_id": [], "loss_mask": []}
        for row in rows[at : at + size]:
            one["seq_start_id"].append(len(one["input_ids"]))
            one["input_ids"] += row["input_ids"]
            one["loss_mask"] += written(row, "packed")["loss_mask"]
        yield one


def counted(records: list[Record], vocabulary: Vocabulary | None = None, **settings: Any) -> Counts:
    layout = layout_of(records[0])
    counts = Counts(vocabulary=vocabulary, **settings)
    for number, record in enumerate(records, 1):
        counts.add(token_row(record, layout, number))
    return counts


def names(records: list[Record], vocabulary: Vocabulary | None = VOCABULARY) -> dict[str, Any]:
    return {finding.name: finding for finding in found(counted(records, vocabulary), layout_of(records[0]))}


def looped(records: list[Record], lengths: tuple[int, ...]) -> dict[str, Any]:
    """The same counts token by token, from what each layout means."""
    total: dict[str, Any] = {"tokens": 0, "trained": 0, "nothing": 0, "longest": 0}
    cuts = {length: [0, 0, 0] for length in lengths}
    for record in records:
        trains = []
        starts = record.get("seq_start_id", [0])
        for i in range(len(record["input_ids"])):
            if i in starts:
                trains.append(False)
            elif "labels" in record:
                trains.append(record["labels"][i] != -100)
            elif "seq_start_id" in record:
                trains.append(record["loss_mask"][i - 1] == 1)
            else:
                trains.append(record["loss_mask" if "loss_mask" in record else "completion_mask"][i] == 1)
        total["tokens"] += len(trains)
        total["trained"] += trains.count(True)
        total["nothing"] += True not in trains
        total["longest"] = max(total["longest"], len(trains))
        for length, cut in cuts.items():
            cut[0] += len(trains) > length
            cut[1] += trains[length:].count(True)
            cut[2] += True not in trains[:length]
    return total | {"cuts": cuts}


masked = st.integers(0, 40).flatmap(
    lambda length: st.fixed_dictionaries(
        {
            "input_ids": st.lists(st.integers(0, 30), min_size=length, max_size=length),
            "keep": st.lists(st.booleans(), min_size=length, max_size=length),
        }
    )
)


@settings(max_examples=80, deadline=None)
@given(st.lists(masked, min_size=1, max_size=8), st.sampled_from(WAYS), st.integers(1, 45))
def test_counts_are_those_of_a_loop_over_tokens(rows: list[Record], way: str, length: int) -> None:
    records = [written(row, way) for row in rows]
    counts, expected = counted(records, lengths=(length, 8)), looped(records, (length, 8))
    seen = counts.seen
    assert (counts.rows, counts.tokens, counts.trained) == (len(rows), expected["tokens"], expected["trained"])
    assert counts.longest == expected["longest"]
    empty = seen["empty"].rows if "empty" in seen else 0
    assert seen["nothing"].rows + empty == counts.untrained == expected["nothing"]
    assert {at: [cut.rows, cut.lost, cut.nothing] for at, cut in counts.cuts.items()} == expected["cuts"]


@settings(max_examples=40, deadline=None)
@given(st.lists(masked.filter(lambda row: row["input_ids"]), min_size=1, max_size=8), st.integers(1, 4))
def test_packing_changes_no_count_of_tokens(rows: list[Record], size: int) -> None:
    plain, packed = counted([written(row, "loss_mask") for row in rows]), counted(list(packed_rows(rows, size)))
    assert (packed.tokens, packed.trained, packed.sequences) == (plain.tokens, plain.trained, len(rows))
    # A mask value at a row's first token says nothing: packed, it would stand at the row before.
    assert packed.seen["crossing"].tokens == 0


@settings(max_examples=30, deadline=None)
@given(st.sampled_from([*WAYS, "packs"]), st.integers(0, 1000), st.integers(1, 60))
def test_nothing_is_found_in_a_sound_set(way: str, seed: int, count: int) -> None:
    rows = sound(count, seed)
    records = list(packed_rows(rows, 4)) if way == "packs" else [written(row, way) for row in rows]
    assert names(records) == {}


@settings(max_examples=30, deadline=None)
@given(st.floats(0, 0.6), st.integers(0, 1000))
def test_tokens_left_out_at_random_make_no_mask_look_shifted(share: float, seed: int) -> None:
    rows, rng = sound(40, seed), np.random.default_rng(seed)
    for row in rows:
        row["keep"] = [kept and bool(rng.random() >= share) for kept in row["keep"]]
    assert not {"mask_early", "mask_late", "differ"} & set(names([written(row, "labels") for row in rows]))


def moved(keep: list[bool], by: int) -> list[bool]:
    return [*keep[by:], *[False] * by] if by > 0 else [*[False] * -by, *keep[:by]]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("by", "name"), [(1, "mask_early"), (-1, "mask_late")])
def test_a_mask_that_is_moved_by_one_is_found(way: str, by: int, name: str) -> None:
    rows = sound()
    for row in rows:
        row["keep"] = moved(row["keep"], by)
    finding = names([written(row, way) for row in rows], None)[name]
    assert (finding.rows, finding.first_row) == (len(rows), 1)
    assert "one token" in finding.text


@pytest.mark.parametrize("left_out", [0, 2])
def test_answers_that_all_begin_alike_are_not_shifted(left_out: int) -> None:
    """As those of models that think first do; though some rows leave out their end."""
    rows = sound()
    for number, row in enumerate(rows):
        row["input_ids"][row["keep"].index(True)] = 40
        row["keep"][-2] = number >= left_out
    assert not {"mask_early", "mask_late"} & set(names([written(row, "labels") for row in rows]))


def test_a_packed_mask_that_goes_with_tokens_is_found_shifted_and_crossing() -> None:
    records = [{"input_ids": row["input_ids"], "seq_start_id": [0], "loss_mask": row["keep"]} for row in sound()]
    assert "mask_late" in names(records)
    records[4]["loss_mask"][-1] = 1
    crossing = names(records)["crossing"]
    assert (crossing.rows, crossing.tokens, crossing.first_row) == (1, 1, 5)


def _early(row: Record) -> None:
    row["labels"] = [*row["labels"][1:], -100]


def _late(row: Record) -> None:
    row["labels"] = [-100, *row["labels"][:-1]]


def _differ(row: Record) -> None:
    row["labels"][-2] += 1


def _unknown(row: Record) -> None:
    row["labels"][0] = -1


def _nothing(row: Record) -> None:
    row["labels"] = [-100] * len(row["labels"])


def _everything(row: Record) -> None:
    row["labels"] = list(row["input_ids"])


def _lengths(row: Record) -> None:
    row["labels"].append(-100)


def _hidden(row: Record) -> None:
    row["attention_mask"][-2] = 0


def _negative(row: Record) -> None:
    row["input_ids"][1] = -5


def _beyond(row: Record) -> None:
    row["input_ids"][1] = VOCABULARY.size


def _special(row: Record) -> None:
    row["input_ids"][-3] = row["labels"][-3] = 1


def _empty(row: Record) -> None:
    row.update(input_ids=[], labels=[], attention_mask=[])


PLANTED: dict[str, tuple[Callable[[Record], None], int | None]] = {
    "early": (_early, None),
    "late": (_late, None),
    "differ": (_differ, 1),
    "unknown": (_unknown, 1),
    "nothing": (_nothing, None),
    "everything": (_everything, None),
    "lengths": (_lengths, 1),
    "hidden": (_hidden, 1),
    "negative": (_negative, 1),
    "beyond": (_beyond, 1),
    "special": (_special, 1),
    "empty": (_empty, 0),
}


@pytest.mark.parametrize("name", PLANTED)
@settings(max_examples=10, deadline=None)
@given(st.sets(st.integers(0, 29), min_size=1, max_size=3))
def test_a_planted_defect_is_found_where_it_was_planted(name: str, places: set[int]) -> None:
    plant, tokens = PLANTED[name]
    records = [written(row, "labels") for row in sound()]
    for place in places:
        plant(records[place])
    findings = names(records)
    finding = findings.pop(name)
    assert (finding.rows, finding.first_row) == (len(places), min(places) + 1)
    assert tokens is None or finding.tokens == tokens * len(places)
    assert f"{len(places)} of 30 rows" in finding.text
    assert f"First: row {min(places) + 1}." in finding.text
    assert set(findings) <= {"special"}  # a row that trains on everything trains on its beginning too


def test_no_more_is_found_than_was_planted_but_what_follows_from_it() -> None:
    records = [written(row, "labels") for row in sound()]
    _everything(records[3])
    assert set(names(records)) == {"everything"}


@pytest.mark.parametrize("starts", [[], [1], [0, 3, 3], [0, 10_000]])
def test_beginnings_that_are_none_are_found(starts: list[int]) -> None:
    records = [written(row, "packed") for row in sound()]
    records[2]["seq_start_id"] = starts
    assert names(records)["starts"].first_row == 3


def test_weights_between_0_and_1_are_told_and_count_as_trained() -> None:
    records = [written(row, "loss_mask") for row in sound()]
    plain = counted(records).trained
    records[1]["loss_mask"] = [0.5 * value for value in records[1]["loss_mask"]]
    assert names(records)["weights"].first_row == 2
    assert counted(records).trained == plain


@pytest.mark.parametrize(("plant", "name"), [(_early, "early"), (_late, "late")])
def test_labels_that_are_shifted_in_all_rows_are_one_finding(plant: Callable[[Record], None], name: str) -> None:
    records = [written(row, "labels") for row in sound()]
    for record in records:
        plant(record)
    assert {found_name: finding.rows for found_name, finding in names(records).items()} == {name: 30}


def test_a_mask_of_a_single_neighbour_is_no_shift() -> None:
    """One label that happens to be the next token differs; it does not say that labels are shifted."""
    ids = np.array([10, 11, 12, 13])
    assert label_defects(ids, np.array([-100, 12, -100, -100]))["differ"] == 1
    assert label_defects(ids, np.array([-100, 12, 13, -100]))["early"] == 2
    assert label_defects(np.array([4, 4, 4, 4]), np.array([4, 4, 4, 4]))["early"] == 0


def test_an_end_of_turn_that_never_trains_is_found_and_one_that_does_somewhere_is_not() -> None:
    rows = sound()
    for row in rows:
        row["keep"][-2] = False
    finding = names([written(row, "labels") for row in rows])["end_untrained"]
    assert (finding.tokens, finding.first_row) == (30, 1)
    assert "30 of them right behind a trained token" in finding.text
    rows[7]["keep"][-2] = True
    assert names([written(row, "labels") for row in rows]) == {}


def test_a_set_without_any_end_of_turn_is_found() -> None:
    rows = sound()
    for row in rows:
        row["input_ids"] = [30 if token == END else token for token in row["input_ids"]]
    assert "no_end" in names([written(row, "labels") for row in rows])


@pytest.mark.parametrize("columns", [["input_ids"], ["input_ids", "attention_mask"]])
def test_where_no_column_says_what_trains_all_but_padding_does(columns: list[str]) -> None:
    records = [
        {"input_ids": [0, 0, *row["input_ids"]], "attention_mask": [0, 0] + [1] * len(row["input_ids"])}
        for row in sound()
    ]
    records = [{name: record[name] for name in columns} for record in records]
    findings, lost = names(records, None), 1 if len(columns) == 1 else 0
    total = sum(len(record["input_ids"]) - (1 if lost else 2) for record in records)
    assert findings["unmasked"].tokens == total
    assert set(findings) == {"unmasked"}


def saved(records: list[Record], path: Path, kind: str) -> Path:
    if kind == "folder":
        datasets.Dataset.from_list(records).save_to_disk(path / "folder")
        return path / "folder"
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(records), path / "rows.parquet", row_group_size=7)
        return path / "rows.parquet"
    return write_rows(path / "rows.jsonl", records)


@pytest.mark.parametrize("kind", ["folder", "parquet", "jsonl"])
@pytest.mark.parametrize("way", [*WAYS, "packs"])
def test_every_layout_is_told_from_its_columns_in_every_kind_of_file(way: str, kind: str, tmp_path: Path) -> None:
    rows = sound(80)
    records = list(packed_rows(rows, 3)) if way == "packs" else [written(row, way) for row in rows]
    facts = inspect(str(saved(records, tmp_path, kind))).summary()
    expected = looped(records, (1024,))
    assert facts["layout"] == way.replace("packs", "packed")
    assert (facts["rows"], facts["tokens"], facts["trained_tokens"]) == (
        len(records),
        expected["tokens"],
        expected["trained"],
    )
    assert facts["findings"] == []


def test_columns_that_also_say_what_trains_are_named(tmp_path: Path) -> None:
    records = [written(row, "labels") | {"loss_mask": row["keep"]} for row in sound()]
    found_there = inspect(str(saved(records, tmp_path, "parquet")))
    assert found_there.layout.name == "labels"
    assert found_there.unread == ["loss_mask"]


@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
def test_a_number_a_token_that_is_not_known_is_named_and_not_counted_by(kind: str, tmp_path: Path) -> None:
    """A set of another trainer's may weigh tokens in a column of its own; without a word, all would seem to train."""
    records = [
        {
            "input_ids": row["input_ids"],
            "attention_mask": [1] * len(row["input_ids"]),
            "position_ids": list(range(len(row["input_ids"]))),
            "loss_scale": [float(kept) for kept in row["keep"]],
            "pieces": [[token] for token in row["input_ids"]],
        }
        for row in sound()
    ]
    found_there = inspect(str(saved(records, tmp_path, kind)))
    assert found_there.layout.name == "attention_mask"
    assert found_there.unread == ["loss_scale"]
    assert "Not counted by: loss_scale" in toss(str(saved(records, tmp_path, kind))).stdout


@pytest.mark.parametrize(("way", "column"), [("labels", "loss_mask"), ("chat", "labels")])
def test_a_column_of_a_later_row_is_named_too(way: str, column: str, tmp_path: Path) -> None:
    records = chat_rows() if way == "chat" else [written(row, way) for row in sound()]
    records[-1][column] = [1] * len(records[-1].get("input_ids", [0]))
    assert inspect(str(write_rows(tmp_path / "rows.jsonl", records))).unread == [column]


def test_an_unknown_number_a_token_of_later_rows_is_named_and_a_length_that_fits_by_chance_is_not(
    tmp_path: Path,
) -> None:
    records = [written(row, "labels") for row in sound()]
    for record in records:
        record["embedding"] = [0.5] * len(records[0]["input_ids"])
    lengths = {len(record["input_ids"]) for record in records}
    assert len(lengths) > 2  # so that most rows are of another length
    for record in records[20:]:
        record["loss_scale"] = [0.5] * len(record["input_ids"])
    assert inspect(str(write_rows(tmp_path / "rows.jsonl", records))).unread == ["loss_scale"]


def test_a_path_behind_an_equals_sign_may_begin_at_home(tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", [written(row, "labels") for row in sound(3)])
    command = [sys.executable, "-m", "tosslm", "inspect", str(rows), "--html=~/page.html"]
    subprocess.run(command, check=True, capture_output=True, cwd=tmp_path, env=os.environ | {"HOME": str(tmp_path)})
    assert (tmp_path / "page.html").exists()
    assert not (tmp_path / "~").exists()


def toss(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["inspect", *arguments])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"input_ids": [1, 2], "labels": [1,', "broken JSON"),
        ('{"input_ids": [1, 2]}', "no labels"),
        ('{"input_ids": [1, 2], "labels": null}', "no labels"),
        ('{"input_ids": [[1, 2]], "labels": [1, 2]}', "list of lists"),
        ('{"input_ids": [1, "a"], "labels": [1, 2]}', "no list of whole numbers"),
        ('{"input_ids": [1, null], "labels": [1, 2]}', "no list of whole numbers"),
        ('{"input_ids": [1, 1.5], "labels": [1, 2]}', "no list of whole numbers"),
        ('{"input_ids": [1, 1' + "0" * 30 + '], "labels": [1, 2]}', "no list of whole numbers"),
        ('{"input_ids": "1 2", "labels": [1, 2]}', "no list"),
        ("[1, 2]", "no object"),
        ('{"input_ids": [1, 2], "labels": [1, 2], "seq_start_id": [0], "loss_mask": [1, 0]}', "loss_mask says which"),
    ],
)
def test_a_row_that_cannot_be_read_ends_with_2_and_is_named(line: str, message: str, tmp_path: Path) -> None:
    path = write_rows(tmp_path / "rows.jsonl", [written(row, "labels") for row in sound(3)])
    path.write_text(path.read_text() + line + "\n")
    result = toss(str(path))
    assert result.exit_code == 2
    assert "rows.jsonl:4" in result.stderr
    assert message in result.stderr


def test_what_is_no_set_ends_with_2(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").touch()
    text = write_rows(tmp_path / "text.jsonl", [{"text": "a"}])
    for path, message in [
        (tmp_path / "none.jsonl", "no such file"),
        (tmp_path / "empty.jsonl", "no rows"),
        (text, "neither input_ids nor messages"),
        (tmp_path, "a folder, but not one saved by"),
    ]:
        result = toss(str(path))
        assert result.exit_code == 2, result.output
        assert message in result.stderr
    result = toss(str(text), "--tokenizer", str(tmp_path))
    assert result.exit_code == 2
    assert "--tokenizer" in result.stderr
    result = toss(str(text), "--tokenizer", "builtin:other")
    assert result.exit_code == 2
    assert "--tokenizer: 'builtin:other' is no built-in model" in result.stderr


def test_json_has_the_counts_and_ends_with_0_whatever_is_found(tmp_path: Path) -> None:
    records = [written(row, "labels") for row in sound()]
    _early(records[6])
    path = saved(records, tmp_path, "parquet")
    result = toss(str(path), "--json", "--max-length", "10")
    assert result.exit_code == 0
    facts = json.loads(result.stdout)
    lost = looped(records, (10,))["cuts"][10]
    assert facts["cuts"] == [{"max_length": 10, "rows": lost[0], "lost": lost[1], "nothing": lost[2]}]
    assert [(finding["name"], finding["first_row"]) for finding in facts["findings"]] == [("early", 7)]
    assert toss(str(path), "--json", "--rows", "2").exit_code == 2


def test_a_damaged_file_ends_with_2_and_says_how_far_it_could_be_read(tmp_path: Path) -> None:
    path = saved([written(row, "labels") for row in sound()], tmp_path, "parquet")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    result = toss(str(path))
    assert result.exit_code == 2
    assert "rows.parquet:1: the file cannot be read on from here" in result.stderr


def test_a_folder_of_several_splits_wants_one_named(tmp_path: Path) -> None:
    rows = datasets.Dataset.from_list([written(row, "labels") for row in sound()])
    datasets.DatasetDict({"train": rows, "test": rows.select(range(4))}).save_to_disk(tmp_path / "both")
    result = toss(str(tmp_path / "both"))
    assert result.exit_code == 2
    assert "several splits; set split to one of train, test" in result.stderr
    facts = toss(str(tmp_path / "both"), "--split", "test", "--json")
    assert json.loads(facts.stdout)["rows"] == 4


def test_a_split_of_a_file_is_refused(tmp_path: Path) -> None:
    path = saved([written(row, "labels") for row in sound()], tmp_path, "jsonl")
    result = toss(str(path), "--split", "test")
    assert result.exit_code == 2
    assert "--split: " in result.stderr
    assert "has no splits" in result.stderr


@pytest.mark.slow
@pytest.mark.parametrize("way", ["labels", "completion_mask", "assistant_masks", "attention_mask", "input_ids"])
def test_what_counts_as_trained_is_what_trl_trains(way: str, tmp_path: Path, smollm2_tokenizer: Any) -> None:
    """The trainer makes the labels and its model shifts them: the first one of a row is never asked for."""
    from transformers import LlamaConfig, LlamaForCausalLM
    from trl.trainer.sft_config import SFTConfig
    from trl.trainer.sft_trainer import SFTTrainer

    rows = sound(20)
    layouts = {"attention_mask": ["input_ids", "attention_mask"], "input_ids": ["input_ids"]}
    records = [written(row, "labels" if way in layouts else way) for row in rows]
    records = [{name: record[name] for name in layouts.get(way, record)} for record in records]
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(smollm2_tokenizer), **sizes))
    only = {"completion_only_loss": True} if way == "completion_mask" else {}
    trainer = SFTTrainer(
        model=model,
        args=SFTConfig(output_dir=str(tmp_path), max_length=None, report_to=[], use_cpu=True, **only),
        train_dataset=datasets.Dataset.from_list(records),
        processing_class=smollm2_tokenizer,
    )
    trained = sum(int((batch["labels"][:, 1:] != -100).sum()) for batch in trainer.get_train_dataloader())
    assert counted(records).trained == trained


def chat_rows() -> list[Record]:
    question = {"role": "user", "content": "What is the capital of France?"}
    return [
        {
            "messages": [
                question,
                {"role": "assistant", "content": "Paris, of course.", "weight": first},
                {"role": "user", "content": "And of Spain?"},
                {"role": "assistant", "content": "Madrid."} | ({} if second is None else {"weight": second}),
            ]
        }
        for first, second in [(0, 1), (1, None), (0, 0), (1, 0)]
    ]


def test_a_chat_file_without_a_tokenizer_is_counted_by_answers(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "chat.jsonl", chat_rows())
    facts = inspect(str(path)).summary()
    assert facts["answers"] == {"rows": 4, "answers": 8, "trained": 4, "nothing": 1}
    assert "tokens" not in facts
    assert [(finding["name"], finding["first_row"]) for finding in facts["findings"]] == [("nothing", 3)]
    assert "answers that train" in toss(str(path)).stdout


@pytest.mark.parametrize(
    ("beside", "in_answer", "message"),
    [
        ({"weight": 0}, {}, "weight is 0, which keeps the whole row from being trained"),
        ({"weight": 0.5}, {}, "weight is 0.5, and every row counts the same here"),
        ({"train": False}, {}, "train is false, which keeps the whole row from being trained"),
        ({"masked": True}, {}, "masked is true, which keeps the whole row from being trained"),
        (
            {},
            {"train_detail": [{"begin_offset": 0, "end_offset": 1, "train": True}]},
            "messages[3]: train_detail says",
        ),
    ],
)
def test_a_chat_row_says_the_same_without_a_tokenizer_as_with_one(
    beside: Record, in_answer: Record, message: str, tmp_path: Path
) -> None:
    """What says of a whole row, or of single characters, that they train has no place in counts of answers."""
    records = chat_rows()
    records[1] |= beside
    records[1]["messages"][3] |= in_answer
    path = write_rows(tmp_path / "chat.jsonl", records)
    for tokenizer in (None, SMOLLM2):
        with pytest.raises(InputError) as refused:
            inspect(str(path), tokenizer=tokenizer)
        assert f"chat.jsonl:2: {message}" in str(refused.value)


def test_a_chat_file_without_a_tokenizer_has_no_tokens_to_show_or_cut(tmp_path: Path) -> None:
    path, page = write_rows(tmp_path / "chat.jsonl", chat_rows()), tmp_path / "page.html"
    for options in (["--rows", "5"], ["--max-length", "9"], ["--rows", "5", "--html", str(page)]):
        result = toss(str(path), *options)
        assert result.exit_code == 2
        assert f"{options[0]}: {path} is a chat file" in " ".join(result.stderr.split())
        assert "--tokenizer" in result.stderr
    assert not page.exists()
    assert toss(str(path), "--rows", "0", "--html", str(page)).exit_code == 0
    assert "a chat file has no tokens without a tokenizer; --tokenizer names one" in page.read_text()


def test_a_chat_file_with_a_tokenizer_trains_what_its_weights_leave(tmp_path: Path, smollm2_tokenizer: Any) -> None:
    path = write_rows(tmp_path / "chat.jsonl", chat_rows())
    facts = inspect(str(path), tokenizer=SMOLLM2).summary()
    first, second = (
        len(smollm2_tokenizer(text + "<|im_end|>")["input_ids"]) for text in ("Paris, of course.", "Madrid.")
    )
    assert facts["trained_tokens"] == 2 * first + 2 * second
    assert facts["rows_training_nothing"] == 1
    assert [finding["name"] for finding in facts["findings"]] == ["nothing"]


@pytest.fixture(scope="module")
def demo(smollm2_tokenizer: Any) -> list[Record]:
    """Rows of the demo as any trainer takes them."""
    rows = tokenize_rows(demo_rows("custom", 40), smollm2_tokenizer)
    return [written(row | {"keep": row["response_mask"]}, "labels") for row in rows]


def with_tokenizer(records: list[Record], path: Path) -> Inspection:
    return inspect(str(saved(records, path, "parquet")), tokenizer=SMOLLM2)


def test_nothing_is_found_in_real_rows_with_their_tokenizer(demo: list[Record], tmp_path: Path) -> None:
    assert with_tokenizer(demo, tmp_path).findings == []


@pytest.mark.parametrize(("by", "name"), [(1, "mask_early"), (-1, "mask_late")])
def test_real_rows_with_a_moved_mask_are_found(by: int, name: str, demo: list[Record], tmp_path: Path) -> None:
    records = []
    for row in demo:
        keep = moved([label != -100 for label in row["labels"]], by)
        records.append(written({"input_ids": row["input_ids"], "keep": keep}, "labels"))
    assert name in {finding.name for finding in with_tokenizer(records, tmp_path).findings}


def test_an_end_of_turn_that_is_padding_too_and_so_masked_is_found(
    demo: list[Record], tmp_path: Path, smollm2_tokenizer: Any
) -> None:
    end = smollm2_tokenizer.eos_token_id
    records = [
        {"input_ids": row["input_ids"], "labels": [-100 if token == end else token for token in row["labels"]]}
        for row in demo
    ]
    findings = {finding.name: finding.text for finding in with_tokenizer(records, tmp_path).findings}
    assert set(findings) == {"end_untrained"}
    assert f"<|im_end|> ({end})" in findings["end_untrained"]


def printed(render: Callable[[Console], None], **settings: Any) -> str:
    here = {"TERM": "xterm-256color"}  # not the terminal that the tests happen to run in
    console = Console(file=io.StringIO(), **{"width": 80, "_environ": here, **settings})
    render(console)
    out: str = console.file.getvalue()  # type: ignore[attr-defined]
    return out


def test_rows_show_what_trains_in_colour_and_without_it(smollm2_tokenizer: Any) -> None:
    ids = np.array(smollm2_tokenizer("Say it. Hello there friend")["input_ids"])
    trained = np.arange(len(ids)) >= len(ids) - 3

    def render(console: Console) -> None:
        console.print(coloured(ids, trained, smollm2_tokenizer, console))

    assert printed(render) == "Say it.[+ Hello there friend+]\n"
    colour = printed(render, force_terminal=True, color_system="truecolor")
    assert "\x1b[1;32m Hello there friend" in colour
    assert "\x1b[2mSay it." in colour
    plain = printed(render, force_terminal=True, color_system="truecolor", no_color=True)
    assert "\x1b[1m Hello there friend" in plain
    assert "32" not in plain


def test_text_of_others_steers_no_terminal(smollm2_tokenizer: Any) -> None:
    ids = np.array([*smollm2_tokenizer("a\x1b[31mb\u202ec")["input_ids"], len(smollm2_tokenizer) + 5, -3])

    def render(console: Console) -> None:
        console.print(coloured(ids, np.zeros(len(ids), dtype=bool), smollm2_tokenizer, console))

    out = printed(render)
    assert "\x1b" not in out
    assert "\u202e" not in out
    assert f"\u2039{len(smollm2_tokenizer) + 5}\u203a\u2039-3\u203a" in out


@pytest.mark.parametrize("width", [30, 60, 120])
def test_tables_fit_the_terminal(width: int, tmp_path: Path) -> None:
    records = [written(row, "labels") for row in sound()]
    found_there = inspect(str(saved(records, tmp_path, "parquet")))

    def render(console: Console) -> None:
        print_inspection(found_there.summary(), "", console)

    tables = [line for line in printed(render, width=width).splitlines() if "─" in line or "1,024" in line]
    assert tables
    assert all(len(line.rstrip()) <= width for line in tables)


def test_the_command_shows_three_rows_with_a_tokenizer_and_as_many_as_are_asked_for(
    demo: list[Record], tmp_path: Path
) -> None:
    path = str(saved(demo, tmp_path, "jsonl"))
    shown = toss(path, "--tokenizer", SMOLLM2)
    assert shown.exit_code == 0
    assert shown.stdout.count("tokens train\n") == 3
    assert "<|im_end|>+]" in shown.stdout
    assert toss(path).stdout.count("tokens train\n") == 0
    assert toss(path, "--rows", "2").stdout.count("tokens train\n") == 2


def test_reading_stops_where_it_is_told_to(tmp_path: Path) -> None:
    path = saved([written(row, "labels") for row in sound()], tmp_path, "jsonl")
    asked = iter(range(5))

    def check() -> None:
        if next(asked) == 3:
            raise InputError("stopped")

    with pytest.raises(InputError, match="stopped"):
        inspect(str(path), check=check)
    assert next(asked) == 4
