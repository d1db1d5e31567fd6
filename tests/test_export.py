"""Masked rows for other trainers: read back by a reader of the test's own, token by token to the last."""

from __future__ import annotations

import ast
import csv
import gzip
import io
import json
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from transformers import AutoTokenizer
from typer.testing import CliRunner

import tosslm
from conftest import demo_rows, write_rows
from tosslm import InputError, TosslmError
from tosslm.cli import app
from tosslm.export import KINDS, described, megatron, named, openai
from tosslm.export.axolotl_text import marked
from tosslm.export.counts import count_rows
from tosslm.export.handing import export_run
from tosslm.export.kind import UNMERGED, Job, Snippet
from tosslm.export.megatron import packed
from tosslm.export.olmo import write_arrays
from tosslm.export.rows import MaskedRow, masked_rows
from tosslm.files import read_tables, sha256, write_json, write_parquet
from tosslm.runs.tables import KEEP_SCHEMA, WEIGHTS_SCHEMA

OWN = [
    [
        ("system", "Be kind."),
        ("user", "Hi"),
        ("assistant", "Hello 👍🏽, friend!"),
        ("user", "More"),
        ("assistant", "Ok."),
    ],
    [("user", "Trailing?"), ("assistant", "Yes, white space follows.\n\n ")],
    [("user", "Name them"), ("assistant", "ünï çødé 漢字 — and so on")],
]


def config_of(folder: Path, model: Path, **sections: Any) -> dict[str, Any]:
    own = [{"messages": [{"role": role, "content": text} for role, text in row]} for row in OWN]
    write_rows(folder / "custom.jsonl", [*demo_rows("custom", 12), *own])
    for name in ("harmful", "utility"):
        write_rows(folder / f"{name}.jsonl", demo_rows(name, 4))
    return {
        "run_dir": str(folder / "run"),
        "method": "random",
        "model": {"name": str(model), "dtype": "float32", "device": "cpu"},
        "data": {name: {"path": str(folder / f"{name}.jsonl")} for name in ("custom", "harmful", "utility")},
        "selection": {"discard_fraction": 0.3, "evidence": "token"},
    } | sections


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, tiny_model_folder: Path) -> tosslm.Run:
    """Three tokens of ten are dropped at random; nothing is trained."""
    return tosslm.run(config_of(tmp_path_factory.mktemp("export"), tiny_model_folder), until="select")


Row = tuple[list[int], list[bool]]


def expected(run: tosslm.Run) -> list[Row]:
    """Ids, and whether each is trained, from the tables of the run themselves."""
    rows = []
    data = [row for table in read_tables(run.layout.rows("custom")) for row in table.to_pylist()]
    for row, keep in zip(data, run.keep(), strict=True):
        kept = iter(keep.tolist())
        rows.append((row["input_ids"], [bool(responds and next(kept)) for responds in row["response_mask"]]))
    return rows


def exported(run: tosslm.Run, to: str, folder: Path) -> dict[str, Any]:
    facts = export_run(run, to, folder / "out")
    assert json.loads((folder / "out/export.json").read_text(encoding="utf-8")) == facts
    return facts


def test_parquet_has_every_label_and_no_key_of_a_library(run: tosslm.Run, tmp_path: Path) -> None:
    exported(run, "parquet", tmp_path)
    table = pq.read_table(tmp_path / "out/data.parquet")
    assert not table.schema.metadata
    assert [str(field.type.value_type) for field in table.schema] == ["int32", "int8", "int32"]
    for row, (ids, trained) in zip(table.to_pylist(), expected(run), strict=True):
        assert row["input_ids"] == ids
        assert row["attention_mask"] == [1] * len(ids)
        assert row["labels"] == [token if learnt else -100 for token, learnt in zip(ids, trained, strict=True)]


def test_megatron_by_hand() -> None:
    """Tokens 10 to 14, of which 11, 13 and 14 are trained: the mask stands one place before each, the last is 0."""
    row = masked(ids=[10, 11, 12, 13, 14], trained=[False, True, False, True, True])
    record = megatron._record([row, row])
    assert record["input_ids"].tolist() == [10, 11, 12, 13, 14] * 2
    assert record["loss_mask"].tolist() == [1, 0, 1, 1, 0] * 2
    assert record["seq_start_id"].tolist() == [0, 5]


def test_megatron_trains_the_same_tokens(run: tosslm.Run, tmp_path: Path) -> None:
    """Read as its collator reads: parts lose their last input, labels are the tokens after, the mask lies beside."""
    facts = exported(run, "megatron", tmp_path)
    found: Counter[tuple[Any, ...]] = Counter()
    packs = pq.read_table(tmp_path / "out" / facts["written"]["file"]).to_pylist()
    for pack in packs:
        bounds = [*pack["seq_start_id"], len(pack["input_ids"])]
        assert bounds[0] == 0
        assert len(pack["input_ids"]) - len(pack["seq_start_id"]) <= facts["written"]["pack_length"]
        for start, end in pairwise(bounds):
            labels, mask = pack["input_ids"][start + 1 : end], pack["loss_mask"][start : end - 1]
            assert pack["loss_mask"][end - 1] == 0
            found[pack["input_ids"][start], tuple(labels), tuple(map(bool, mask))] += 1
    assert found == Counter((ids[0], tuple(ids[1:]), tuple(trained[1:])) for ids, trained in expected(run))
    assert not any(trained[0] for _, trained in expected(run))  # so the shift loses none
    assert len(packs) == facts["written"]["packs"]


def test_megatron_says_what_its_collator_takes_out(tmp_path: Path) -> None:
    """Token 2 ends a sequence; 11 and 12 are trained, and 11 stands right behind it."""
    row = masked(ids=[10, 2, 11, 12], trained=[False, False, True, True])
    job = Job(count_rows([row]), "base", "", 20, 2, "here")
    [sentence] = megatron.KIND.write(iter([row]), tmp_path, job).lost
    assert "1 trained tokens stand right behind one" in sentence
    assert not megatron.KIND.write(iter([row]), tmp_path, replace(job, eos=13)).lost


def test_packs_hold_every_row_once_within_their_room() -> None:
    rng = np.random.default_rng(0)
    rows = [masked(ids=[i] * n, trained=[False] * n) for i, n in enumerate(rng.integers(2, 60, 500).tolist())]
    packs = list(packed(rows, 64))
    assert sorted(int(row.input_ids[0]) for pack in packs for row in pack) == list(range(500))
    assert all(sum(len(row.input_ids) - 1 for row in pack) <= 64 for pack in packs)
    assert len(packs) < 300


def masked(ids: list[int], trained: list[bool], **fields: Any) -> MaskedRow:
    mask = np.array(trained)
    values = {
        "row_id": "r",
        "messages": [],
        "input_ids": np.array(ids, dtype=np.int32),
        "labels": np.where(mask, ids, -100).astype(np.int32),
        "response_mask": mask,
        "offsets": np.zeros((int(mask.sum()), 3), dtype=np.int32),
        "keep": np.ones(int(mask.sum()), dtype=bool),
        "weights": mask.astype(np.float32),
        "trained": mask,
    }
    return MaskedRow(**(values | fields))


def test_openai_weighs_whole_answers_and_counts_what_that_costs(run: tosslm.Run, tmp_path: Path) -> None:
    facts = exported(run, "openai", tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "out/data.jsonl").read_text(encoding="utf-8").splitlines()]
    lost = let_in = kept_rows = 0
    data = [row for table in read_tables(run.layout.rows("custom")) for row in table.to_pylist()]
    written = iter(lines)
    for row, keep in zip(data, run.keep(), strict=True):
        messages = json.loads(row["messages"])
        answers = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
        # An answer's tokens are a run of the response mask, in order.
        starts = [i for i, on in enumerate(row["response_mask"]) if on and not row["response_mask"][i - 1]]
        flags, at = [], 0
        for start in starts:
            length = next(i for i, on in enumerate([*row["response_mask"][start:], False]) if not on)
            own = keep[at : at + length]
            at += length
            flags.append(int(2 * own.sum() > length))
            lost += int(own.sum()) * (1 - flags[-1])
            let_in += int((~own).sum()) * flags[-1]
        if any(flags):
            kept_rows += 1
            line = next(written)
            assert [(m["role"], m["content"]) for m in line["messages"]] == [
                (m["role"], m["content"]) for m in messages
            ]
            assert [line["messages"][i]["weight"] for i in answers] == flags
            assert sum("weight" in message for message in line["messages"]) == len(answers)
    assert next(written, None) is None
    assert facts["written"]["tokens_lost"] == lost
    assert facts["written"]["tokens_let_in"] == let_in > 0
    assert facts["written"]["rows_written"] == kept_rows
    assert any(f"{let_in:,} tokens that the run does not train" in sentence for sentence in facts["lost"])


def test_openai_leaves_out_an_answer_of_which_exactly_half_is_trained() -> None:
    row = masked(
        [1, 2, 3],
        [False, True, False],
        messages=[{"role": "user", "content": "?"}, {"role": "assistant", "content": "ab"}],
        offsets=np.array([[1, 0, 1], [1, 1, 2]], dtype=np.int32),
        response_mask=np.array([False, True, True]),
    )
    assert openai.answer_weights(row) == ({1: 0}, 1, 0)


def test_reasoning_has_no_place_in_a_chat_file() -> None:
    messages = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "!", "reasoning_content": "hm"}]
    with pytest.raises(InputError, match="row r: message 1 has reasoning_content"):
        openai._record(masked([1, 2], [False, True], messages=messages), {1: 1})


def with_weights(run: tosslm.Run, folder: Path) -> tuple[tosslm.Run, list[np.ndarray]]:
    shutil.copytree(run.path, folder / "weighed")
    weighed = tosslm.load_run(folder / "weighed")
    rng = np.random.default_rng(1)
    weights = [rng.choice([0.0, 0.25, 1.0], len(keep)).astype(np.float32) for keep in run.keep()]
    ids = run.rows["row_id"]
    write_parquet(weighed.layout.weights, {"row_id": list(ids), "weight": weights}, WEIGHTS_SCHEMA, "x")
    return weighed, weights


def test_tinker_carries_a_runs_weights_and_a_plain_mask_says_that_it_does_not(
    run: tosslm.Run, tmp_path: Path
) -> None:
    weighed, weights = with_weights(run, tmp_path)
    facts = exported(weighed, "tinker", tmp_path)
    rows = pq.read_table(tmp_path / "out/data.parquet").to_pylist()
    mask = [row["response_mask"] for row in run.rows]
    for row, (ids, _), keep, own, responds in zip(rows, expected(run), run.keep(), weights, mask, strict=True):
        full = np.zeros(len(ids))
        full[np.array(responds)] = own * keep
        assert row["tokens"] == ids
        assert row["weights"] == full.tolist()
    assert not any("weighs tokens" in sentence for sentence in facts["lost"])
    plain = export_run(weighed, "parquet", tmp_path / "plain")
    odd = sum(int((own[keep] == 0.25).sum()) for own, keep in zip(weights, run.keep(), strict=True))
    assert any(f"weighs tokens: {odd:,} of" in sentence for sentence in plain["lost"])
    labels = pq.read_table(tmp_path / "plain/data.parquet")["labels"].to_pylist()
    kept = sum(int((own[keep] > 0).sum()) for own, keep in zip(weights, run.keep(), strict=True))
    assert sum(label != -100 for row in labels for label in row) == kept == plain["trained_tokens"]


def test_a_masked_dataset_has_no_label_where_a_weight_is_0_and_is_refused_where_it_is_a_fraction(
    run: tosslm.Run, tmp_path: Path
) -> None:
    weighed, weights = with_weights(run, tmp_path)
    with pytest.raises(InputError, match=r"weighs tokens, which labels do not say.*--to swift"):
        tosslm.masked_dataset(weighed)
    whole = [(own > 0.5).astype(np.float32) for own in weights]
    columns = {"row_id": list(run.rows["row_id"]), "weight": whole}
    write_parquet(weighed.layout.weights, columns, WEIGHTS_SCHEMA, "x")
    trained = [sum(label != -100 for label in row["labels"]) for row in tosslm.masked_dataset(weighed)]
    assert trained == [int((own * keep).sum()) for own, keep in zip(whole, run.keep(), strict=True)]


def test_tinker_without_weights_has_the_mask(run: tosslm.Run, tmp_path: Path) -> None:
    exported(run, "tinker", tmp_path)
    for row, (ids, trained) in zip(
        pq.read_table(tmp_path / "out/data.parquet").to_pylist(), expected(run), strict=True
    ):
        assert (row["tokens"], row["weights"]) == (ids, [float(one) for one in trained])


def test_swift_answers_are_the_tokens_of_the_run(run: tosslm.Run, tmp_path: Path, tiny_model_folder: Path) -> None:
    """Put back into the rendered conversation, with the end of turn that its template writes, they give the row."""
    facts = exported(run, "ms-swift", tmp_path)
    end = AutoTokenizer.from_pretrained(tiny_model_folder).convert_tokens_to_ids("<|im_end|>")
    lines = [json.loads(line) for line in (tmp_path / "out/data.jsonl").read_text(encoding="utf-8").splitlines()]
    let_in = 0
    for line, (ids, trained), row in zip(lines, expected(run), run.rows, strict=True):
        messages = json.loads(line["messages"])
        assert ast.literal_eval(line["messages"]) == messages  # as ms-swift reads such a text
        answers = [message["content"] for message in messages if message["role"] == "assistant"]
        found = [token for answer in answers for token in [*answer["token_ids"], end]]
        responds = np.array(row["response_mask"])
        assert found == np.array(ids)[responds].tolist()
        scales = [scale for answer in answers for scale in [*answer["loss_scale"], None]]
        own = np.array(trained)[responds].tolist()
        assert [a for a in scales if a is not None] == [
            float(b) for a, b in zip(scales, own, strict=True) if a is not None
        ]
        let_in += sum(not b for a, b in zip(scales, own, strict=True) if a is None)
    assert facts["written"] == {
        "ends_of_turn_let_in": let_in,
        "answers_without_end": 0,
        "reasoning_left_out": 0,
        "tokens_lost": 0,
        "max_length": facts["longest_row"] + 32,
    }


def test_olmo_arrays(run: tosslm.Run, tmp_path: Path) -> None:
    facts = exported(run, "olmo", tmp_path)
    check_arrays(tmp_path / "out", facts["written"]["dtype"], 1, expected(run))


def test_olmo_parts_hold_whole_rows(run: tosslm.Run, tmp_path: Path) -> None:
    parts = write_arrays(masked_rows(run.layout), tmp_path, 100_000, part_bytes=1000)
    assert parts > 2
    check_arrays(tmp_path, "uint32", parts, expected(run))


def check_arrays(folder: Path, dtype: str, parts: int, rows: list[Row]) -> None:
    found = []
    for part in range(parts):
        ids = np.fromfile(folder / f"token_ids_part_{part:04d}.npy", dtype=dtype)
        mask = np.fromfile(folder / f"labels_mask_part_{part:04d}.npy", dtype=np.bool_)
        assert len(ids) == len(mask)
        text = gzip.decompress((folder / f"token_ids_part_{part:04d}.csv.gz").read_bytes()).decode()
        bounds = [(int(start), int(end)) for start, end in csv.reader(io.StringIO(text))]
        assert [start for start, _ in bounds] == [0, *(end for _, end in bounds[:-1])]
        assert bounds[-1][1] == len(ids)
        found += [(ids[start:end].tolist(), mask[start:end].tolist()) for start, end in bounds]
    assert found == rows


def axolotl_labels(text: str, details: list[dict[str, Any]], tokenizer: Any) -> list[tuple[int, bool]]:
    """What Axolotl trains of an answer, by its rule.

    A token ends before the next one starts; a piece grows to the tokens that it touches; a token is trained that lies
    in a trained piece.
    """
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    starts = [start for start, _ in encoded["offset_mapping"]]
    ends = [*(start - 1 for start in starts[1:]), len(text) - 1]
    learnt = [False] * len(starts)
    for piece in details:
        low, high = piece["begin_offset"], piece["end_offset"]
        first = next((i for i, start in enumerate(starts) if start >= low), len(starts))
        first -= first > 0 and ends[first - 1] > low
        last = max((i for i, end in enumerate(ends) if end <= high), default=-1)
        last += last + 1 < len(starts) and starts[last + 1] < high
        if first <= last and piece["train"]:
            for i in range(len(starts)):
                learnt[i] |= starts[first] <= starts[i] and ends[i] <= ends[last]
    return list(zip(encoded["input_ids"], learnt, strict=True))


@pytest.mark.parametrize("seed", range(3))
def test_axolotl_text_trains_kept_tokens_and_no_dropped_one(
    run: tosslm.Run, tmp_path: Path, tiny_model_folder: Path, seed: int
) -> None:
    """With other masks too: what the pieces say is read by Axolotl's rule."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_folder)
    shutil.copytree(run.path, tmp_path / "run")
    run = tosslm.load_run(tmp_path / "run")
    if seed:
        rng = np.random.default_rng(seed)
        keep = [rng.random(len(row)) < 0.6 for row in run.keep()]
        write_parquet(run.layout.keep, {"row_id": list(run.rows["row_id"]), "keep": keep}, KEEP_SCHEMA, "x")
        run.stages["selection"]["files"]["selection/keep.parquet"] = sha256(run.layout.keep)
        write_json(run.layout.manifest, run.manifest)
    facts = exported(run, "axolotl-text", tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "out/data.jsonl").read_text(encoding="utf-8").splitlines()]
    missing = let_in = 0
    for line, (ids, trained), row in zip(lines, expected(run), run.rows, strict=True):
        found: list[tuple[int, bool]] = []
        for message in line["messages"]:
            details = message["train_detail"]
            if message["role"] != "assistant":
                assert details == []
                continue
            text = message["content"]
            if details:  # they cover it, end inclusive
                assert details[0]["begin_offset"] == 0
                assert details[-1]["end_offset"] == len(text) - 1
                assert all(one["end_offset"] + 1 == after["begin_offset"] for one, after in pairwise(details))
            found += axolotl_labels(text, details, tokenizer)
            found.append((tokenizer.eos_token_id, bool(details)))  # train_on_eos: turn
        responds = np.array(row["response_mask"])
        assert [token for token, _ in found] == np.array(ids)[responds].tolist()
        for (token, learnt), own in zip(found, np.array(trained)[responds].tolist(), strict=True):
            assert own or not learnt or token == tokenizer.eos_token_id
            let_in += learnt and not own
            missing += own and not learnt
    assert facts["written"] == {
        "answers_left_out": 0,
        "tokens_lost": missing,
        "ends_of_turn_let_in": let_in,
        "reasoning_field": "reasoning_content",
    }


def test_axolotl_trains_a_token_whose_last_character_is_dropped_with_the_next() -> None:
    """Two tokens share the ç, and the second is dropped: to Axolotl the first ends before it."""
    offsets = np.array([[0, 0, 2], [0, 1, 2], [0, 2, 3]], dtype=np.int32)
    messages = [{"role": "assistant", "content": "aç!"}]
    parts = {"offsets": offsets, "messages": messages, "response_mask": np.ones(3, dtype=bool)}
    row = masked([1, 2, 3], [True, False, True], **parts)
    record, _, lost, let_in = marked(row)
    assert [one["train"] for one in record["messages"][0]["train_detail"]] == [True, False, True]
    assert (lost, let_in) == (0, 0)


def test_llamafactory_folder_loads(run: tosslm.Run, tmp_path: Path) -> None:
    exported(run, "llamafactory", tmp_path)
    loaded = datasets.load_from_disk(str(tmp_path / "out/tokenized"))["train"]
    assert "List" not in (tmp_path / "out/tokenized/train/dataset_info.json").read_text()
    for row, (ids, trained) in zip(loaded, expected(run), strict=True):
        assert row["input_ids"] == ids
        assert row["attention_mask"] == [1] * len(ids)
        assert row["labels"] == [token if learnt else -100 for token, learnt in zip(ids, trained, strict=True)]


def test_counts_are_those_of_the_tables(run: tosslm.Run, tmp_path: Path, tiny_model_folder: Path) -> None:
    facts = exported(run, "trl", tmp_path)
    rows = expected(run)
    assert facts["rows"] == len(rows)
    assert facts["tokens"] == sum(len(ids) for ids, _ in rows)
    assert facts["trained_tokens"] == sum(sum(trained) for _, trained in rows)
    assert facts["dropped_tokens"] == run.stages["selection"]["discarded"]
    assert facts["longest_row"] == max(len(ids) for ids, _ in rows)
    assert facts["configs"] == {"trl": "train_trl.py"}
    assert set(facts["files"]) == {"data.parquet", "train_trl.py", "README.md"}
    assert facts["base"]["name"] == str(tiny_model_folder)
    assert "tokenizer.json" in facts["tokenizer"]["files"]


def test_the_first_tokens_of_each_answer_are_anchored_not_of_the_row(run: tosslm.Run) -> None:
    for row, (ids, trained) in zip(masked_rows(run.layout, 2), expected(run), strict=True):
        responds = row.response_mask.tolist()
        # Behind two response tokens of the same answer no token is one of its first two.
        learnt = [own and all(responds[t - 2 : t]) for t, own in enumerate(trained)]
        assert row.labels.tolist() == [token if own else -100 for token, own in zip(ids, learnt, strict=True)]


def test_rows_that_a_cut_leaves_without_labels() -> None:
    early = masked(list(range(3000)), [False] + [True] * 2999)
    late = masked(list(range(3000)), [False] * 2048 + [True] * 952)
    never = masked([1, 2], [False, False])
    counts = count_rows([early, late, never])
    assert counts.cut == {1024: 2, 2048: 2, 4096: 0, 8192: 0}
    assert counts.cut_to_nothing == {1024: 2, 2048: 2, 4096: 1, 8192: 1}
    assert counts.train_on_nothing == 1


def test_an_anchored_run_says_what_is_lost(tmp_path: Path, tiny_model_folder: Path) -> None:
    config = config_of(tmp_path, tiny_model_folder, method="random-anchor", finetune={"anchor_first": 2})
    run = tosslm.run(config, until="select")
    facts = exported(run, "parquet", tmp_path)
    [sentence] = [sentence for sentence in facts["lost"] if "anchor" in sentence]
    firsts = 0
    for (_, trained), labels in zip(
        expected(run), pq.read_table(tmp_path / "out/data.parquet")["labels"].to_pylist(), strict=True
    ):
        kept, labelled = np.array(trained), np.array(labels) != -100
        assert not (labelled & ~kept).any()
        firsts += int((kept & ~labelled).sum())
    assert firsts > 0
    assert f"{firsts:,} kept ones among them" in sentence
    result = CliRunner().invoke(app, ["export", str(run.path), "--to", "tinker", str(tmp_path / "cli")])
    assert result.exit_code == 0, result.output
    assert "Lost: finetune.dropped: anchor" in result.output


TRAINED: dict[str, Any] = {"steps": 1, "first_loss": 1.0, "last_loss": 1.0, "tokens_per_second": None, "losses": []}
Spoil = Callable[[tosslm.Run], None]


def stale(run: tosslm.Run) -> None:
    run.manifest["stages"]["data"]["fingerprint"] = "0" * 16
    write_json(run.layout.manifest, run.manifest)


def cut_short(run: tosslm.Run) -> None:
    run.layout.keep.write_bytes(run.layout.keep.read_bytes()[:-1])


def unselected(run: tosslm.Run) -> None:
    del run.manifest["stages"]["selection"]
    write_json(run.layout.manifest, run.manifest)


def other_tokens(run: tosslm.Run) -> None:
    run.manifest["config"]["data"]["max_length"] = 3
    write_json(run.layout.manifest, run.manifest)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (stale, "no selection yet, or one of earlier data"),
        (unselected, "no selection yet"),
        (cut_short, r"keep\.parquet: damaged"),
        (other_tokens, "other tokens of row"),
    ],
)
def test_a_run_that_is_not_whole_is_refused(run: tosslm.Run, tmp_path: Path, spoil: Spoil, message: str) -> None:
    shutil.copytree(run.path, tmp_path / "run")
    spoil(tosslm.load_run(tmp_path / "run"))
    with pytest.raises(TosslmError, match=message):
        export_run(tosslm.load_run(tmp_path / "run"), "parquet", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_degraded_reference_is_never_exported_for(
    run: tosslm.Run, tmp_path: Path, tiny_adapter_folder: Path
) -> None:
    """Known by its weights, under another name and without its mark."""
    shutil.copytree(run.path, tmp_path / "run")
    copied = tosslm.load_run(tmp_path / "run")
    weights = tiny_adapter_folder / "adapter_model.safetensors"
    step = {"fingerprint": "1" * 16, "inputs": {}, "seconds": 1.0} | TRAINED
    files = {"references/degraded/round-0/adapter_model.safetensors": sha256(weights)}
    copied.manifest["stages"]["references/degraded/round-0"] = step | {"files": files}
    copied.manifest["config"]["model"]["adapter"] = str(tiny_adapter_folder)
    write_json(copied.layout.manifest, copied.manifest)
    with pytest.raises(InputError, match="is a degraded reference of this run"):
        export_run(tosslm.load_run(tmp_path / "run"), "parquet", tmp_path / "out")


def test_a_base_with_an_adapter_is_not_named_without_it(
    run: tosslm.Run, tmp_path: Path, tiny_adapter_folder: Path
) -> None:
    shutil.copytree(run.path, tmp_path / "run")
    copied = tosslm.load_run(tmp_path / "run")
    copied.manifest["config"]["model"]["adapter"] = str(tiny_adapter_folder)
    write_json(copied.layout.manifest, copied.manifest)
    facts = export_run(tosslm.load_run(tmp_path / "run"), "parquet", tmp_path / "out")
    assert UNMERGED in (tmp_path / "out/axolotl.yaml").read_text()
    assert str(tiny_adapter_folder) in (tmp_path / "out/train_trl.py").read_text()
    assert any("merged into it" in sentence for sentence in facts["lost"])


def test_places_that_are_refused(run: tosslm.Run, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    with pytest.raises(InputError, match="exists already"):
        export_run(run, "parquet", tmp_path / "mine")
    with pytest.raises(InputError, match="lies in the run folder"):
        export_run(run, "parquet", run.path / "references/degraded/out")


def test_what_a_run_folder_names_is_a_literal_in_a_config(run: tosslm.Run) -> None:
    bad = 'x"; import os; os.system("$(true)'
    job = Job(count_rows([]), bad, "", 10, None, "here")
    assert ast.literal_eval(Snippet("a", "a.py", "@BASE@").filled(job, {})) == bad
    assert Snippet("a", "a.sh", "@BASE@").filled(job, {}) == f"'{bad}'"


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.key)
def test_configs_are_whole(run: tosslm.Run, tmp_path: Path, kind: Any) -> None:
    facts = exported(run, kind.key, tmp_path)
    assert set(facts["configs"]) == set(kind.serves)
    for file in facts["configs"].values():
        text = (tmp_path / "out" / file).read_text(encoding="utf-8")
        assert not any(f"@{name}@" in text for name in ("BASE", "MERGED", "LONGEST", "FOLDER", "FILE", "DTYPE"))
        if file.endswith(".py"):
            ast.parse(text)
        elif file.endswith(".yaml"):
            assert yaml.safe_load(text)


def test_names_and_help() -> None:
    names = [name for kind in KINDS for name in (kind.key, *kind.serves)]
    assert len(set(names)) == len(names)
    for kind in KINDS:
        assert named(kind.key) == (kind, None)
        assert all(named(name) == (kind, name) for name in kind.serves)
    listed = CliRunner().invoke(app, ["export", "--to", "help"]).output
    assert all(f"{kind.key} (" in listed for kind in KINDS)
    assert json.loads(CliRunner().invoke(app, ["export", "--to", "help", "--json"]).stdout) == described()
    with pytest.raises(InputError, match="megatron"):
        named("nemo")
