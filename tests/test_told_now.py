"""What is told of a run, or handed over, is of the run as it is now: cases in which it was of an earlier one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import tosslm
from conftest import demo_rows, write_rows
from support.benches import select_in
from support.made_run import answers, made_run
from tosslm.cli import app
from tosslm.compare import compare
from tosslm.config import ModelConfig, load_config
from tosslm.errors import InputError
from tosslm.export.handing import export_run
from tosslm.export.openai import has_unread_text
from tosslm.export.rows import masked_rows
from tosslm.files import write_json
from tosslm.findings.found import found_told
from tosslm.findings.measured import read_measured
from tosslm.findings.summary import summarize
from tosslm.findings.warnings import run_warnings
from tosslm.model.base import open_base
from tosslm.report.figures import training_curves
from tosslm.report.sections import read_page
from tosslm.runs.layout import Layout
from tosslm.runs.store import Store
from tosslm.runs.verify import verify
from tosslm.stages.data import data_print
from tosslm.stages.evaluate import _rival


@pytest.fixture
def until_select(tiny_config: dict[str, Any]) -> dict[str, Any]:
    """Nothing is trained for it."""
    return tiny_config | {"method": "random", "refinement": {}}


def asking(config: dict[str, Any], folder: Path, prompts: int, **settings: Any) -> dict[str, Any]:
    file = write_rows(folder / "prompts.jsonl", [{"prompt": f"How are you, {n}?"} for n in range(8)])
    asked = {"harmful": {"path": str(file), "limit": prompts}, "max_new_tokens": 1, "losses": False}
    return config | {"evaluation": asked} | settings


# --- people's decisions


def test_a_mask_that_people_have_decided_otherwise_since_is_not_handed_over(
    until_select: dict[str, Any], tmp_path: Path
) -> None:
    run = tosslm.run(until_select, until="select")
    first, second = (row["row_id"] for row in list(run.rows)[:2])
    file = tmp_path / "overrides.jsonl"
    file.write_text(json.dumps({"row_id": first, "decision": "keep"}) + "\n")
    decided = until_select | {"selection": until_select["selection"] | {"overrides": str(file)}}
    run = tosslm.run(decided, until="select")
    assert not run.decided_since()
    assert verify(run)[1] == []
    with file.open("a") as more:
        more.write(json.dumps({"row_id": second, "decision": "drop"}) + "\n")
    assert run.decided_since()
    with pytest.raises(InputError, match="has other decisions than the selection went by"):
        export_run(run, "parquet", tmp_path / "out")
    with pytest.raises(InputError, match="has other decisions than the selection went by"):
        tosslm.masked_dataset(run)
    assert [(one.step, one.problem) for one in verify(run)[1]] == [("selection", "out of date")]
    again = tosslm.run(decided, until="select")
    row = tosslm.masked_dataset(again)[1]
    assert set(row["labels"]) == {-100}
    file.unlink()  # a folder that is handed on without it is as good as it was
    assert not again.decided_since()


# --- evaluations and comparisons


@pytest.mark.slow
def test_figures_of_an_earlier_comparison_do_not_pass_for_the_runs(
    tiny_config: dict[str, Any], tmp_path: Path
) -> None:
    config = asking(tiny_config | {"refinement": {}}, tmp_path, 3)
    compare(load_config(config), ["base", "sft", "toss"])
    run = tosslm.run(config)
    told = read_measured(run)
    assert told.own == "toss"
    assert told.plain == "sft"
    assert {record["method"] for record in told.records} == {"base", "sft", "toss"}
    # Other prompts: the run's own evaluation is of them, the comparison is not.
    more = tosslm.run(asking(tiny_config | {"refinement": {}}, tmp_path, 8))
    told = read_measured(more)
    assert (told.own, told.plain) == ("model", None)
    assert {record["metrics"]["refusal_rate"]["n"] for record in told.records} == {8}
    # As before, but plain fine-tuning was trained otherwise than the run is now.
    slower = {"finetune": tiny_config["finetune"] | {"learning_rate": 1e-6}}
    other = read_measured(tosslm.run(config | slower))
    assert (other.own, other.plain) == ("model", None)
    # A comparison that was broken off: the folder of a method has another model than its records are of.
    run = tosslm.run(config)
    assert read_measured(run).own == "toss"
    manifest = run.layout.method("toss", 7) / "manifest.json"
    tree = json.loads(manifest.read_text())
    tree["stages"]["evaluation/model"]["files"] = {}
    write_json(manifest, tree)
    told = read_measured(run)
    assert told.own == "model"
    assert "toss" not in {record["method"] for record in told.records}


@pytest.mark.slow
def test_an_evaluation_of_another_config_is_no_result_of_this_one(
    tiny_config: dict[str, Any], tmp_path: Path
) -> None:
    plain = tiny_config | {"refinement": {}, "method": "random"}
    first = asking(plain, tmp_path, 3)
    first["evaluation"]["scales"] = [0.5]
    run = tosslm.run(first, until="evaluate")
    shown = [(record["method"], record.get("scale")) for record in summarize(run)["evaluation"]]
    assert shown == [("base", None), ("model", None), ("model", 0.5)]
    other = asking(plain, tmp_path, 8)
    other["evaluation"]["scales"] = [0.5]
    early = tosslm.run(other, until="finetune")
    assert summarize(early).get("evaluation", []) == []
    assert any("Of another config: evaluation/base" in warning for warning in early.manifest["warnings"])
    later = tosslm.run(other, until="evaluation/model")
    told = summarize(later)["evaluation"]
    assert [(record.get("scale"), record["metrics"]["refusal_rate"]["n"]) for record in told] == 2 * [(None, 8)]


def test_a_judge_compares_with_standard_sft_of_these_settings_or_with_nobody(tmp_path: Path) -> None:
    standard = tmp_path / "compare/sft/seed-3"
    config = SimpleNamespace(
        compare=SimpleNamespace(part_of="../.."), method="toss", evaluation=SimpleNamespace(judge=True), seed=3
    )
    bench: Any = SimpleNamespace(config=config, layout=Layout(tmp_path / "compare/toss/seed-3"))
    bench.layout.root.mkdir(parents=True)
    assert _rival(bench) is None
    entry = {"fingerprint": "f", "inputs": {}, "files": {}, "seconds": 1.0}
    manifest = {"format": 1, "stages": {"evaluation/model": entry}, "config": {}}
    standard.mkdir(parents=True)
    write_json(standard / "manifest.json", manifest)
    found = _rival(bench)
    assert found is not None
    assert found.resolve() == (standard / "evaluation/model").resolve()
    write_json(standard / "manifest.json", manifest | {"unsettled": ["evaluation/model"]})
    assert _rival(bench) is None


# --- what a base is


def test_where_answers_end_and_whose_code_runs_are_known_of_a_base(tiny_model_folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_model_folder, tmp_path / "model"))
    base = open_base(ModelConfig(name=str(folder)))
    identity, answering = base.identity, base.answering
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": 7}))
    again = open_base(ModelConfig(name=str(folder)))
    assert again.answering != answering
    assert again.identity == identity  # losses and trainings do not depend on it
    assert open_base(ModelConfig(name=str(folder), trust_remote_code=True)).identity == identity
    config = json.loads((folder / "config.json").read_text())
    write_json(folder / "config.json", config | {"auto_map": {"AutoModelForCausalLM": "own.Own"}})
    named = open_base(ModelConfig(name=str(folder))).identity
    assert open_base(ModelConfig(name=str(folder), trust_remote_code=True)).identity != named


# --- what is said of a choice


def test_a_choice_inside_rows_has_no_common_threshold(tiny_config: dict[str, Any]) -> None:
    selection = tiny_config["selection"] | {"scope": "row"}
    run = tosslm.run(tiny_config | {"refinement": {}, "selection": selection}, until="select")
    said = CliRunner().invoke(app, ["select", str(run.path)]).output
    assert "Threshold: tokens that" not in said
    assert "there is no common threshold" in " ".join(said.split())
    row_id = run.rows[0]["row_id"]
    assert "; dropped from" not in CliRunner().invoke(app, ["show", str(run.path), row_id]).output


def test_a_method_that_chose_by_itself_ranked_nothing(until_select: dict[str, Any]) -> None:
    run = tosslm.run(until_select, until="select")
    with pytest.raises(InputError, match=r"random chose tokens by itself, so selection ranked nothing"):
        run.evidence()


def test_a_first_token_that_nothing_predicts_is_no_response(tiny_model_folder: Path) -> None:
    model = open_base(ModelConfig(name=str(tiny_model_folder), device="cpu", dtype="float32")).model
    row = {"input_ids": [5, 6, 7], "response_mask": [False, True, True]}
    assert [len(losses) for losses in tosslm.response_losses(model, [row])] == [2]
    with pytest.raises(InputError, match="row 1: its first token is of the response, and nothing predicts it"):
        tosslm.response_losses(model, [row, row | {"response_mask": [True] * 3}])


def test_text_that_was_never_scored_is_not_handed_over_as_trained(
    until_select: dict[str, Any], tmp_path: Path
) -> None:
    """The end of a long answer lies behind data.max_length: a chat file would have all of it trained."""
    answer = "This is harmless. " * 4 + "And this was never read. " * 40
    turns = [{"role": "user", "content": "Say it"}, {"role": "assistant", "content": answer}]
    file = write_rows(tmp_path / "long.jsonl", [{"messages": turns}, *demo_rows("custom", 8)])
    data = until_select["data"] | {"custom": {"path": str(file)}, "max_length": 120}
    settings = {"data": data, "selection": {"discard_fraction": 0.02, "evidence": "token"}}
    run = tosslm.run(until_select | settings, until="select")
    rows = {row.messages[-1]["content"]: row for row in masked_rows(run.layout, None)}
    assert has_unread_text(rows[answer], 1)
    assert np.mean(rows[answer].trained[rows[answer].response_mask]) > 0.5
    facts = export_run(run, "openai", tmp_path / "out")
    answers = [(row, i) for row in rows.values() for i, m in enumerate(row.messages) if m["role"] == "assistant"]
    assert facts["written"]["answers_cut"] == sum(has_unread_text(row, i) for row, i in answers) >= 1
    lines = [json.loads(line) for line in (tmp_path / "out/data.jsonl").read_text().splitlines()]
    turns = [turn for line in lines for turn in line["messages"]]
    assert [turn["content"] for turn in turns if turn.get("weight")].count(answer) == 0
    assert any("never scored" in sentence for sentence in facts["lost"])


# --- before a run, and at a URL


def test_data_are_known_by_their_contents_before_a_run_too(until_select: dict[str, Any]) -> None:
    config = load_config(until_select)
    run = tosslm.run(config, until="data")
    base = open_base(config.model)
    assert data_print(config, base) == run.stages["data"]["fingerprint"]
    write_rows(Path(until_select["data"]["custom"]["path"]), demo_rows("custom", 23))
    assert data_print(config, base) != run.stages["data"]["fingerprint"]


def test_what_is_damaged_at_a_url_is_found_and_written_again_by_who_has_it(
    until_select: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOSSLM_CACHE", str(tmp_path / "cache"))
    url = f"memory://told-{tmp_path.name}/run"
    config = until_select | {"run_dir": url}
    tosslm.run(config, until="select")
    assert verify(tosslm.load_run(url))[1] == []
    store = Store(url)
    mask = store.read("selection/keep.parquet")
    assert mask is not None
    store.write("selection/keep.parquet", mask[::-1])  # as long as it was
    store.remove("data/harmful.parquet")
    found = {(one.file, one.problem) for one in verify(tosslm.load_run(url))[1]}
    assert found == {("selection/keep.parquet", "altered there"), ("data/harmful.parquet", "missing there")}
    tosslm.run(config, until="select")
    assert store.read("selection/keep.parquet") == mask
    assert verify(tosslm.load_run(url))[1] == []
    store.remove("data/utility.parquet")
    tosslm.run(config, until="select")  # nobody has verified it
    assert store.read("data/utility.parquet") is not None


def test_what_is_dropped_by_hand_counts_beside_what_the_posterior_finds(tmp_path: Path) -> None:
    """Not the share that the config asks for: people may have dropped the most."""
    run = made_run(tmp_path / "run", answers(24))
    lines = [{"row_id": row_id, "decision": "drop"} for row_id in run.rows["row_id"][:16]]
    path = tmp_path / "decided.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    facts = select_in(run.path, fingerprint="made", overrides=str(path), discard_fraction=0.1)
    share = facts["discarded"] / facts["tokens"]
    assert share > 0.5
    told = found_told({"share": 0.2, "chain_share": 0.2}, share)
    assert f"{share:.1%} are dropped" in str(told)
    manifest = json.loads((run.path / "manifest.json").read_text(encoding="utf-8"))
    manifest["stages"]["selection"] |= {key: facts[key] for key in ("discarded", "tokens", "sources", "overrides")}
    write_json(run.path / "manifest.json", manifest)
    page = read_page(tosslm.load_run(run.path))
    assert page.dropped == share
    assert page.discard_fraction == 0.1


def test_rounds_that_the_config_asks_for_no_more_are_no_part_of_the_run(tmp_path: Path) -> None:
    run = made_run(tmp_path / "run", answers(24))
    path = run.path / "manifest.json"
    manifest = json.loads(path.read_text(encoding="utf-8"))
    losses = {"losses": [[1, 3.0], [2, 2.5], [3, 2.0]], "files": {}, "fingerprint": "x", "seconds": 1.0}
    losses |= {"steps": 3, "first_loss": 3.0, "last_loss": 2.0, "tokens_per_second": 1.0}
    steps = [f"references/degraded/round-{number}" for number in (0, 1)]
    manifest["stages"] |= dict.fromkeys(steps, manifest["stages"]["scores/round-0"] | losses)
    write_json(path, manifest)
    run = tosslm.load_run(run.path)
    assert run.config.refinement.rounds == 0
    assert [name for name in steps if run.has(name)] == steps
    assert set(run.own_stages) & set(steps) == {steps[0]}
    assert [figure.title for figure in training_curves(run)] == [steps[0]]


def test_decisions_that_the_config_does_not_name_are_told(tmp_path: Path) -> None:
    """As where they were named by --set once, and the file is run again."""
    run = made_run(tmp_path / "run", answers(24))
    assert not any("not heeded" in one for one in run_warnings(run))
    run.layout.overrides.write_text(json.dumps({"row_id": run.rows["row_id"][0], "decision": "drop"}) + "\n")
    (told,) = [one for one in run_warnings(run) if "not heeded" in one]
    assert "overrides.jsonl has decisions that selection.overrides does not name" in told
