"""The method end to end: on the very small model what lies where, on the real model that the numbers are right."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

import tosslm
from conftest import demo_rows, write_rows
from support.benches import select_in
from support.made_run import answers, made_run
from test_losses import MULTI_TURN, independent_losses
from tosslm.data.rows import base_id, content_id, held_out
from tosslm.errors import InputError, TosslmError
from tosslm.files import sha256, write_json, write_parquet
from tosslm.findings.rows import row_record
from tosslm.merge import merge
from tosslm.model.builtin import SMOLLM2
from tosslm.runs.tables import KEEP_SCHEMA, SCORE_SCHEMA
from tosslm.runs.tables import write_rows as write_stored_rows
from tosslm.runs.verify import strangers, verify


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, tiny_model_folder: Path) -> tosslm.Run:
    """Two rounds of TOSS-Pro on the very small model."""
    folder = tmp_path_factory.mktemp("pipeline")
    for name, count in (("custom", 20), ("harmful", 10), ("utility", 10)):
        write_rows(folder / f"{name}.jsonl", demo_rows(name, count))
    write_rows(
        folder / "custom.jsonl", [*demo_rows("custom", 20), demo_rows("custom", 1)[0], demo_rows("harmful", 1)[0]]
    )
    training = {"learning_rate": 0.01, "epochs": 1, "batch_size": 4, "micro_batch_size": 4}
    return tosslm.run(
        {
            "run_dir": str(folder / "run"),
            "model": {"name": str(tiny_model_folder), "dtype": "float32", "device": "cpu"},
            "data": {name: {"path": str(folder / f"{name}.jsonl")} for name in ("custom", "harmful", "utility")},
            "references": {**training, "holdout": 0.25},
            "scoring": {"rows_per_part": 8},
            "selection": {"discard_fraction": 0.15, "evidence": "token"},
            "refinement": {"rounds": 2, "samples_per_round": 4},
            "finetune": training,
        }
    )


def test_what_lies_in_a_run_folder(run: tosslm.Run) -> None:
    files = {str(path.relative_to(run.path)) for path in run.path.rglob("*") if path.is_file()}
    rounds = [f"round-{i}" for i in range(3)]
    assert {f"data/{name}.parquet" for name in ("custom", "harmful", "utility")} <= files
    assert {f"references/degraded/{r}/HAZARDOUS.md" for r in rounds} <= files
    assert {f"scores/{r}/part-0000{i}.parquet" for r in rounds for i in range(3)} <= files
    assert {f"scores/{r}/heldout.parquet" for r in rounds} <= files
    assert {
        "refinement/round-1.json",
        "refinement/round-2.json",
        "selection/selection.json",
        "model/README.md",
    } <= files
    assert not {file for file in files if file.endswith((".bin", ".pt", ".pth", ".pkl"))}
    assert not (run.path / ".work").exists() or not list((run.path / ".work").iterdir())


def test_the_manifest_names_every_file_with_its_checksum(run: tosslm.Run) -> None:
    recorded = {file for entry in run.manifest["stages"].values() for file in entry["files"]}
    kinds = ("*.parquet", "*.safetensors", "*.md")
    written = {str(path.relative_to(run.path)) for kind in kinds for path in run.path.rglob(kind)}
    assert written <= recorded
    model = run.manifest["stages"]["model"]
    assert model["steps"] == len(model["losses"])
    assert model["tokens_per_second"] > 0


def test_positions_scores_and_mask_belong_together(run: tosslm.Run) -> None:
    rows, scores, keep = run.rows, run.scores(), run.keep()
    parts = [
        row for i in range(3) for row in pq.read_table(run.path / f"scores/round-2/part-0000{i}.parquet").to_pylist()
    ]
    assert [row["row_id"] for row in parts] == rows["row_id"]
    for row, part, row_scores, row_keep in zip(rows, parts, scores, keep, strict=True):
        assert part["position"] == [i for i, responds in enumerate(row["response_mask"]) if responds]
        assert len(row_scores) == len(row_keep) == len(part["position"]) == len(row["offsets"])
    flat_scores, flat_keep = np.concatenate(scores), np.concatenate(keep)
    order = sorted(range(len(flat_scores)), key=lambda i: (-flat_scores[i], i))
    dropped = set(order[: int(0.15 * len(order))])
    assert {i for i, kept in enumerate(flat_keep) if not kept} == dropped


def test_repeated_rows_are_kept_and_told_apart(run: tosslm.Run) -> None:
    ids = run.rows["row_id"]
    first = content_id(demo_rows("custom", 1)[0]["messages"])
    assert [id_ for id_ in ids if base_id(id_) == first] == [first, f"{first}-2"]


def test_selection_json_counts_each_source(run: tosslm.Run) -> None:
    told = json.loads((run.path / "selection/selection.json").read_text())
    keep = run.keep()
    assert told["tokens"] == sum(map(len, keep))
    assert told["discarded"] == int(0.15 * told["tokens"]) == sum(int((~row).sum()) for row in keep)
    for source, counts in told["sources"].items():
        own = [row for row, name in zip(keep, run.rows["source"], strict=True) if name == source]
        assert counts == {
            "rows": len(own),
            "tokens": sum(map(len, own)),
            "discarded": sum(int((~row).sum()) for row in own),
        }
    dropped = [score for scores, row in zip(run.scores(), keep, strict=True) for score in scores[~row]]
    assert told["threshold"] == min(dropped)


def test_toss_pro_walks_tokens_and_takes_their_rows(run: tosslm.Run) -> None:
    """Each round against a literal walk over the tokens of the scores before it."""
    harmful = {content_id(row["messages"]) for row in demo_rows("harmful", 10)}
    joined: list[str] = []
    ids = run.rows["row_id"]
    for round_ in (1, 2):
        tokens = [(-s, i, t) for i, scores in enumerate(run.scores(round_ - 1)) for t, s in enumerate(scores)]
        expected: list[str] = []
        for _, i, _ in sorted(tokens):
            if len(expected) == 4:
                break
            if base_id(ids[i]) not in harmful | {base_id(id_) for id_ in joined + expected}:
                expected.append(ids[i])
        told = json.loads((run.path / f"refinement/round-{round_}.json").read_text())
        assert told["row_ids"] == expected
        joined += expected
    assert run.manifest["stages"]["references/degraded/round-2"]["rows"] == 10 - 3 + 8


def test_utility_losses_are_computed_once(run: tosslm.Run) -> None:
    for part in ("part-00000", "heldout"):
        columns = [pq.read_table(run.path / f"scores/round-{r}/{part}.parquet")["loss_utility"] for r in range(3)]
        assert columns[0] == columns[1] == columns[2]
    tokens = [run.manifest["stages"][f"scores/round-{r}"]["tokens"] for r in range(3)]
    assert tokens[0] == 2 * tokens[1] == 2 * tokens[2]


def test_held_out_rows_are_chosen_by_content(run: tosslm.Run) -> None:
    rows = pq.read_table(run.path / "scores/round-0/heldout.parquet").to_pylist()
    for name in ("harmful", "utility"):
        ids = [content_id(row["messages"]) for row in demo_rows(name, 10)]
        assert (
            {row["row_id"] for row in rows if row["set"] == name} == held_out(ids, 0.25) == held_out(ids[::-1], 0.25)
        )
    assert len(rows) == 6
    copies = ["aa", "aa-2", "bb", "cc"]
    assert held_out(copies, 0.0) == set()
    assert len(held_out(copies, 0.99)) == 2  # one content stays for training


def test_the_masked_dataset_has_labels_at_kept_tokens_only(run: tosslm.Run) -> None:
    masked = tosslm.masked_dataset(run)
    assert set(masked.column_names) == {"input_ids", "attention_mask", "labels"}
    for row, keep, masked_row in zip(run.rows, run.keep(), masked, strict=True):
        kept = iter(keep)
        wanted = [
            token if responds and next(kept) else -100
            for token, responds in zip(row["input_ids"], row["response_mask"], strict=True)
        ]
        assert masked_row["labels"] == wanted
        assert masked_row["input_ids"] == row["input_ids"]


def test_verify_finds_what_is_damaged(run: tosslm.Run, tmp_path: Path) -> None:
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(run.path, copy)
    checked, findings = verify(tosslm.load_run(copy))
    assert checked > 20
    assert findings == []
    assert strangers(tosslm.load_run(copy)) == []
    (copy / "scores/round-0/part-00009.parquet").write_bytes(b"x")
    (copy / "references/degraded/round-7").mkdir(parents=True)
    (copy / "references/degraded/round-7/adapter_model.safetensors").write_bytes(b"x")
    (copy / "notes.txt").write_text("mine")
    assert strangers(tosslm.load_run(copy)) == [
        "references/degraded/round-7/adapter_model.safetensors",
        "scores/round-0/part-00009.parquet",
    ]
    (copy / "model/adapter_model.safetensors").write_bytes(b"x")
    (copy / "data/utility.parquet").unlink()
    _, findings = verify(tosslm.load_run(copy))
    assert {(f.file, f.problem) for f in findings} == {
        ("model/adapter_model.safetensors", "altered"),
        ("data/utility.parquet", "missing"),
    }


def test_verify_finds_a_table_that_another_step_wrote(tmp_path: Path) -> None:
    run = made_run(tmp_path / "run", answers(6))
    write_parquet(run.layout.keep, {"row_id": run.rows["row_id"], "keep": run.keep()}, KEEP_SCHEMA, "another")
    run.stages["selection"]["files"]["selection/keep.parquet"] = sha256(run.layout.keep)
    write_json(run.layout.manifest, run.manifest)
    _, findings = verify(tosslm.load_run(run.path))
    assert ("selection/keep.parquet", "of another step") in {(one.file, one.problem) for one in findings}


def test_data_that_somebody_writes_to_while_they_are_read_are_refused(
    tiny_config: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = Path(tiny_config["data"]["harmful"]["path"])

    def meanwhile(*arguments: Any) -> None:
        write_stored_rows(*arguments)
        file.write_text(file.read_text(encoding="utf-8") + "\n", encoding="utf-8")

    monkeypatch.setattr("tosslm.stages.data.write_rows", meanwhile)
    with pytest.raises(TosslmError, match="a file changed while it was read"):
        tosslm.run(tiny_config, until="data")


def test_merge_gives_one_model_that_computes_the_same(
    run: tosslm.Run, tiny_model_folder: Path, tmp_path: Path
) -> None:
    merge(run, tmp_path / "merged")
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32).eval()
    plain = AutoModelForCausalLM.from_pretrained(tiny_model_folder, dtype=torch.float32)
    tuned = PeftModel.from_pretrained(plain, run.path / "model").eval()
    ids = torch.tensor([run.rows[0]["input_ids"]])
    with torch.no_grad():
        torch.testing.assert_close(merged(ids).logits, tuned(ids).logits, atol=1e-5, rtol=1e-5)
    with pytest.raises(InputError, match="exists already"):
        merge(run, tmp_path / "merged")


@pytest.mark.parametrize("place", ["merged", "model/merged", "references/degraded/round-0/merged"])
def test_nothing_is_merged_into_the_run_folder(run: tosslm.Run, place: str) -> None:
    """A later step would refuse to go on, for files that are not its own."""
    with pytest.raises(InputError, match="lies in the run folder, where only its own steps write"):
        merge(run, run.path / place)
    assert not (run.path / place).exists()


def test_a_degraded_reference_is_never_merged_into_a_base(run: tosslm.Run) -> None:
    config = run.manifest["config"]
    config = config | {"model": config["model"] | {"adapter": str(run.path / "references/degraded/round-0")}}
    config["run_dir"] = str(run.path.parent / "another")
    with pytest.raises(InputError, match=r"HAZARDOUS\.md"):
        tosslm.run(config)


def test_a_score_that_is_no_number_names_row_and_token(run: tosslm.Run, tmp_path: Path) -> None:
    path = run.path / "scores/round-2/part-00001.parquet"
    shutil.copytree(run.path / "data", tmp_path / "data")
    columns = pq.read_table(path).to_pydict()
    columns["loss_utility"][3][5] = float("nan")
    write_parquet(tmp_path / "scores/round-0/part-00000.parquet", columns, SCORE_SCHEMA, "x")
    with pytest.raises(TosslmError, match=f"row {columns['row_id'][3]}, response token 5: the score is nan"):
        select_in(tmp_path)


def test_a_shown_row_has_every_token_with_its_text(run: tosslm.Run) -> None:
    row_id = run.rows["row_id"][0]
    record = row_record(run, row_id[:8])
    answer = next(m["content"] for m in record["messages"] if m["role"] == "assistant")
    assert "".join(token["text"] for token in record["tokens"]) == answer
    for token in record["tokens"]:
        assert token["score"] == pytest.approx(token["loss_utility"] - token["loss_degraded"], abs=1e-6)
    with pytest.raises(InputError, match="no such row"):
        row_record(run, "zzzz")


@pytest.mark.slow
def test_the_real_model_end_to_end(tmp_path: Path, smollm2_folder: Path) -> None:
    """TOSS-Pro on a slice of the demo: the losses written by scoring against an independent computation."""
    write_rows(tmp_path / "custom.jsonl", [MULTI_TURN, *demo_rows("custom", 7)])
    for name in ("harmful", "utility"):
        write_rows(tmp_path / f"{name}.jsonl", demo_rows(name, 6))
    training = {"learning_rate": 1e-3, "epochs": 1, "batch_size": 4, "micro_batch_size": 2}
    run = tosslm.run(
        {
            "run_dir": str(tmp_path / "run"),
            "model": {"name": SMOLLM2, "dtype": "float32", "device": "cpu"},
            "data": {name: {"path": str(tmp_path / f"{name}.jsonl")} for name in ("custom", "harmful", "utility")},
            "references": {**training, "holdout": 0.2},
            "scoring": {"batch_tokens": 400, "rows_per_part": 5},
            "selection": {"evidence": "token", "discard_fraction": 0.1},
            "refinement": {"rounds": 1, "samples_per_round": 2},
            "finetune": training,
        }
    )
    rows = run.rows
    parts = [row for part in sorted(run.scores_folder().glob("part-*")) for row in pq.read_table(part).to_pylist()]
    for column, folder in (("loss_utility", "references/utility"), ("loss_degraded", "references/degraded/round-1")):
        plain = AutoModelForCausalLM.from_pretrained(smollm2_folder, dtype=torch.float32)
        reference = PeftModel.from_pretrained(plain, run.path / folder).eval()
        for row, part in zip(rows, parts, strict=True):
            np.testing.assert_allclose(part[column], independent_losses(reference, row), atol=1e-4)
    assert run.manifest["stages"]["selection"]["discarded"] == int(
        0.1 * run.manifest["stages"]["selection"]["tokens"]
    )
