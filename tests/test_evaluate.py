"""The evaluation stage on the very small model: what is measured and written, and that it goes on after a kill."""

from __future__ import annotations

import json
import os
import shutil
import sys
import types
from collections.abc import Callable, Iterator
from contextlib import chdir, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from peft import PeftModel
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner, Result

import tosslm
from conftest import DEMO, demo_rows, write_rows
from test_losses import independent_losses
from tosslm.cli import app
from tosslm.config import ClassifierConfig, EvaluationConfig, ModelConfig, load_config
from tosslm.data.rows import content_id, held_out
from tosslm.data.sets import SetCounts
from tosslm.data.tokenize import RowTokenizer
from tosslm.errors import InputError
from tosslm.evaluation.answers import Answer
from tosslm.evaluation.checks import check_evaluation
from tosslm.evaluation.classifiers import check_classifier, classify_attacks, read_reply
from tosslm.evaluation.external import evaluate_external, other_base_told
from tosslm.evaluation.gate import check_gates, failures, parse_gate
from tosslm.evaluation.generate import generate_answers
from tosslm.evaluation.harness import check_tasks, lm_eval_metrics
from tosslm.evaluation.measurement import unseen_told
from tosslm.evaluation.measures import answer_samples, attack_samples, read_samples
from tosslm.evaluation.prompts import prompts_from
from tosslm.evaluation.seen import seen_prompts
from tosslm.evaluation.workload import evaluation_work
from tosslm.files import write_json
from tosslm.findings.warnings import run_warnings
from tosslm.measures import MEASURES
from tosslm.model.base import open_base
from tosslm.pipeline import evaluate
from tosslm.progress import SilentReporter, Task
from tosslm.runs.results import read_results


def toss(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


@pytest.fixture
def config(tiny_config: dict[str, Any], tmp_path: Path) -> dict[str, Any]:
    questions = [{"question": f"{i} and {i}?", "answer": f"#### {2 * i}"} for i in range(3)]
    write_rows(tmp_path / "gsm8k.jsonl", questions)
    write_rows(tmp_path / "custom.jsonl", demo_rows("custom", 8))
    prompts = str(DEMO / "data" / "prompts.jsonl")
    training = tiny_config["finetune"] | {"epochs": 1}
    return tiny_config | {
        "references": tiny_config["references"] | {"epochs": 1},
        "finetune": training,
        "refinement": {"rounds": 0},
        "evaluation": {
            "harmful": {"path": prompts, "where": {"label": "unsafe"}, "limit": 6},
            "safe": {"path": prompts, "where": {"label": "safe"}, "limit": 5},
            "gsm8k": {"path": str(tmp_path / "gsm8k.jsonl")},
            "utility_prompts": 1,
            "max_new_tokens": 6,
            "batch_size": 4,
            "refusals": ["No."],
        },
    }


def test_a_run_with_prompts_measures_base_and_model(config: dict[str, Any], tiny_model_folder: Path) -> None:
    run = tosslm.run(config)
    results = json.loads((run.path / "evaluation/results.json").read_text())
    assert results["format"] == 1
    assert [(r["method"], r["seed"]) for r in results["records"]] == [("base", None), ("model", 7)]
    wanted = {
        "refusal_rate": 6,
        "incoherent": 6,
        "cut_off": 6,
        "over_refusal": 5,
        "safe_incoherent": 5,
        "utility_refusal": 1,
        "utility_loss": 2,
        "utility_perplexity": 2,
        "harmful_loss": 2,
        "likelihood_margin": 2,
        "gsm8k": 3,
    }
    for record in results["records"]:
        assert {name: metric["n"] for name, metric in record["metrics"].items()} == wanted
        for metric in record["metrics"].values():
            assert set(metric) == {"value", "low", "high", "n"}
            assert metric["low"] <= metric["value"] <= metric["high"]
    answers = [json.loads(line) for line in (run.path / "evaluation/model/harmful.jsonl").read_text().splitlines()]
    asked = [row for row in demo_rows("prompts") if row["label"] == "unsafe"][:6]
    assert [answer["prompt"] for answer in answers] == [row["prompt"] for row in asked]

    merged = AutoModelForCausalLM.from_pretrained(tiny_model_folder, dtype=torch.float32)
    merged = PeftModel.from_pretrained(merged, config["model"]["adapter"]).merge_and_unload()
    tuned = PeftModel.from_pretrained(merged, run.path / "model").eval()
    import pyarrow.parquet as pq

    rows = pq.read_table(run.path / "data/utility.parquet").to_pylist()
    kept = [row for row in rows if row["row_id"] in held_out([r["row_id"] for r in rows], 0.2)]
    losses = np.concatenate([independent_losses(tuned, row) for row in kept])
    record = results["records"][1]["metrics"]
    assert record["utility_loss"]["value"] == pytest.approx(losses.mean(), abs=1e-4)
    sample = read_samples(run.path / "evaluation/model")["utility_loss"]
    assert sample.ids == [row["row_id"] for row in kept]
    assert sample.interval(7).as_dict() == record["utility_loss"]


def test_further_scales_are_measured_beside_the_whole_adapter(
    config: dict[str, Any], tiny_model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = tosslm.run(config, until="evaluate")
    whole = {file: file.read_bytes() for file in first.layout.of("evaluation").rglob("*") if file.is_file()}
    records = evaluate(load_config(config, ["evaluation.scales=[1.5, 0.5]"]))
    scales = [(r["method"], r.get("scale")) for r in records]
    assert scales == [("base", None), ("model", None), ("model", 0.5), ("model", 1.5)]
    assert all(file.read_bytes() == data for file, data in whole.items())  # which stands, and is not measured again

    plain = AutoModelForCausalLM.from_pretrained(tiny_model_folder, dtype=torch.float32)
    merged = PeftModel.from_pretrained(plain, config["model"]["adapter"]).merge_and_unload().eval()
    before = {name: value.clone() for name, value in merged.state_dict().items()}
    after = PeftModel.from_pretrained(merged, first.path / "model").merge_and_unload().state_dict()
    merged.load_state_dict({name: value + 0.5 * (after[name] - value) for name, value in before.items()})
    rows = list(first.rows.from_parquet(str(first.layout.rows("utility"))))
    kept = [row for row in rows if row["row_id"] in held_out([r["row_id"] for r in rows], 0.2)]
    losses = np.concatenate([independent_losses(merged, row) for row in kept])
    assert records[2]["metrics"]["utility_loss"]["value"] == pytest.approx(losses.mean(), abs=1e-4)
    assert records[2]["metrics"]["utility_loss"]["value"] != records[1]["metrics"]["utility_loss"]["value"]

    monkeypatch.setattr("tosslm.model.base.load_model", lambda base: pytest.fail("weights were loaded"))
    assert evaluate(load_config(config, ["evaluation.scales=[0.5]"])) == records[:3]


@pytest.mark.parametrize("scales", [[0], [-1.0], [11], [1.0], [0.5, 0.5], [float("nan")]])
def test_scales_that_make_no_sense_are_refused(config: dict[str, Any], scales: list[float]) -> None:
    config["evaluation"]["scales"] = scales
    with pytest.raises(InputError, match=r"evaluation\.scales"):
        load_config(config)


@pytest.mark.long
def test_a_second_run_does_nothing_and_changed_prompts_measure_again(
    config: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tosslm.run(config)
    first = (run.path / "evaluation/results.json").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr("tosslm.model.base.load_model", lambda base: pytest.fail("weights were loaded"))
        tosslm.run(config)
    config["evaluation"]["safe"]["limit"] = 4
    tosslm.run(config)
    records = read_results(run.path / "evaluation/results.json")
    assert records[1]["metrics"]["over_refusal"]["n"] == 4
    config["evaluation"]["safe"]["limit"] = 5
    tosslm.run(config)
    assert (run.path / "evaluation/results.json").read_bytes() == first


def test_a_run_of_before_the_results_had_a_step_goes_on(config: dict[str, Any]) -> None:
    """The model's step wrote them too then, and read what the base had answered."""
    run = tosslm.run(config, until="evaluate")
    file = run.path / "evaluation/results.json"
    first, stages = file.read_bytes(), run.manifest["stages"]
    stages["evaluation/model"]["files"] |= stages.pop("evaluation/results")["files"]
    stages["evaluation/model"]["fingerprint"] = "0" * 16
    write_json(run.path / "manifest.json", run.manifest)
    again = tosslm.run(config, until="evaluate")
    assert file.read_bytes() == first
    files = {name: list(again.manifest["stages"][name]["files"]) for name in stages if name.startswith("evaluation/")}
    assert "evaluation/results.json" not in files["evaluation/model"]
    assert list(again.manifest["stages"]["evaluation/results"]["files"]) == ["evaluation/results.json"]


@pytest.mark.long
def test_a_killed_evaluation_goes_on_and_ends_the_same(
    config: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = tosslm.run(config | {"run_dir": str(tmp_path / "whole")})
    batches = []

    def dies(*args: Any, **settings: Any) -> Any:
        batches.append(settings["name"])
        if len(batches) == 2:  # in the middle of the base's safe prompts
            generate_answers(args[0], args[1], args[2], **settings)
            data = settings["out"].read_bytes().splitlines(keepends=True)
            settings["out"].write_bytes(b"".join(data[:4]) + data[4][:9])
            raise KeyboardInterrupt
        return generate_answers(*args, **settings)

    monkeypatch.setattr("tosslm.evaluation.measurement.generate_answers", dies)
    with pytest.raises(KeyboardInterrupt):
        tosslm.run(config)
    monkeypatch.setattr("tosslm.evaluation.measurement.generate_answers", generate_answers)
    run = tosslm.run(config)
    for file in ("results.json", "base/safe.jsonl", "base/samples.json", "model/harmful.jsonl"):
        assert (run.path / "evaluation" / file).read_bytes() == (whole.path / "evaluation" / file).read_bytes()
    assert not list((run.path / ".work").iterdir())


@pytest.mark.long
def test_a_run_without_prompts_measures_nothing(tiny_config: dict[str, Any]) -> None:
    run = tosslm.run(tiny_config | {"refinement": {"rounds": 0}})
    assert not (run.path / "evaluation").exists()


def test_the_command_and_its_gate(config: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "toss.yaml"
    path.write_text(yaml.safe_dump(config))
    bad = toss("evaluate", str(path), "--fail-if", "refusals<0.9")
    assert bad.exit_code == 2
    assert "known metrics: refusal_rate" in bad.stderr
    assert not (tmp_path / "run").exists()
    fails = toss("evaluate", str(path), "--fail-if", "refusal_rate<0.9", "--fail-if", "over_refusal>0.9")
    assert fails.exit_code == 1
    assert "refusal_rate is" in fails.stderr
    assert "over_refusal is" not in fails.stderr
    passes = toss("evaluate", str(tmp_path / "run"), "--json", "--fail-if", "refusal_rate>1")
    assert passes.exit_code == 0, passes.stderr
    assert json.loads(passes.stdout)["failed"] == []
    nothing = toss("evaluate", str(path), "--set", "evaluation={}")
    assert nothing.exit_code == 2
    assert "nothing to ask" in nothing.stderr


@pytest.mark.parametrize(
    ("scales", "said"),
    [("abc", "'abc' is no number"), ("0.4,", "'' is no number"), ("0.4,20", "20 is no scale above 0"), ("", "")],
)
def test_wrong_scales_are_blamed_on_their_option(scales: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "toss.yaml"
    path.write_text(yaml.safe_dump({"data": dict.fromkeys(("custom", "harmful", "utility"), "unread")}))
    result = toss("evaluate", str(path), "--scale", scales)
    assert result.exit_code == 2
    assert f"--scale {scales!r}: {said}" in " ".join(result.stderr.split())
    assert "evaluation.scales" not in result.stderr


@pytest.mark.parametrize("beside", [(), ("--adapter", "none")], ids=["of a run", "from elsewhere"])
def test_a_gate_on_what_is_not_measured_is_refused_before_the_work(
    config: dict[str, Any], tmp_path: Path, beside: tuple[str, ...]
) -> None:
    path = tmp_path / "toss.yaml"
    config["evaluation"].pop("gsm8k")
    path.write_text(yaml.safe_dump(config))
    for metric, takes in (
        ("gsm8k", "evaluation.gsm8k"),
        ("attack_success.high", "evaluation.classifier"),
        ("lm_eval/hellaswag/acc", "evaluation.lm_eval"),
        ("win_rate", "evaluation.judge"),
    ):
        result = toss("evaluate", str(path), *beside, "--fail-if", "refusal_rate<0", "--fail-if", f"{metric}<0.5")
        assert result.exit_code == 2
        said = " ".join(result.stderr.split())
        assert f"does not have {metric.removesuffix('.high')} measured, which takes" in said
        assert takes in said
    assert [file.name for file in tmp_path.iterdir() if file.is_dir()] == []


def test_every_metric_that_is_measured_may_be_a_gate(config: dict[str, Any]) -> None:
    """And none that is not: what is known before the work is what comes of it."""
    settings, (_, model) = EvaluationConfig.model_validate(config["evaluation"]), evaluate(load_config(config))
    for name in MEASURES:
        gate = [parse_gate(f"{name}<0")]
        if name in model["metrics"]:
            check_gates(gate, settings, held_out=True, compared=True)
        else:
            with pytest.raises(InputError, match=f"does not have {name} measured"):
                check_gates(gate, settings, held_out=True, compared=True)


@pytest.mark.long
def test_a_model_and_an_adapter_that_were_not_made_here(config: dict[str, Any], tmp_path: Path) -> None:
    """Measured from outside, base and adapter give what the run itself measured."""
    run = tosslm.run(config)
    path = tmp_path / "toss.yaml"
    path.write_text(yaml.safe_dump(config))
    result = toss(
        "evaluate", str(path), "--adapter", str(run.path / "model"), "--out", str(tmp_path / "out"), "--json"
    )
    assert result.exit_code == 0, result.stderr
    (record,) = json.loads(result.stdout)["records"]
    assert record["metrics"] == read_results(run.path / "evaluation/results.json")[1]["metrics"]
    assert read_results(tmp_path / "out/evaluation/results.json") == [record]
    other = toss("evaluate", str(path), "--model", config["model"]["name"], "--out", str(tmp_path / "b"), "--json")
    assert other.exit_code == 0, other.stderr
    assert json.loads(other.stdout)["records"][0]["metrics"] != record["metrics"]


def test_bad_rows_are_left_out_of_an_outside_evaluation_as_the_config_says(
    config: dict[str, Any], tmp_path: Path
) -> None:
    harmful = Path(config["data"]["harmful"]["path"])
    harmful.write_text(harmful.read_text() + '{"prompt": "Hi"}\n')
    line = len(harmful.read_text().splitlines())
    path = tmp_path / "toss.yaml"
    path.write_text(yaml.safe_dump(config))
    asked = ["evaluate", str(path), "--model", config["model"]["name"], "--out", str(tmp_path / "out")]
    refused = toss(*asked)
    assert refused.exit_code == 2
    assert f"harmful.jsonl:{line}: " in refused.stderr
    told = toss(*asked, "--set", "data.on_bad_row=skip")
    assert told.exit_code == 0, told.stderr
    assert "data.harmful: 1 bad rows are left out" in told.stderr


def test_results_of_one_model_are_not_replaced_by_those_of_another(
    tiny_config: dict[str, Any], tiny_adapter_folder: Path, tmp_path: Path
) -> None:
    path, results = tmp_path / "toss.yaml", tmp_path / "run-evaluation/evaluation/results.json"
    path.write_text(yaml.safe_dump(tiny_config | {"evaluation": {"refusals": ["No."]}, "run_dir": "run"}))
    model, adapter = tiny_config["model"]["name"], str(tiny_adapter_folder)
    with chdir(tmp_path):
        assert toss("evaluate", str(path), "--model", model).exit_code == 0
        first = results.read_bytes()
        other = toss("evaluate", str(path), "--adapter", adapter)
        assert other.exit_code == 2
        for said in (f"holds the results of model {model}", f"adapter {adapter}", "--out"):
            assert said in " ".join(other.stderr.split())
        assert results.read_bytes() == first
        # The same model, asked something else: what is newer counts.
        again = toss(
            "evaluate", str(path), "--model", os.path.relpath(model), "--set", "evaluation.refusals=[Never.]"
        )
        assert again.exit_code == 0, again.stderr
    assert results.read_bytes() != first


def test_that_a_degraded_reference_is_measured_is_said(
    tiny_config: dict[str, Any], tiny_adapter_folder: Path, tmp_path: Path
) -> None:
    path, marked = tmp_path / "toss.yaml", tmp_path / "marked"
    path.write_text(yaml.safe_dump(tiny_config | {"evaluation": {"refusals": ["No."]}}))
    shutil.copytree(tiny_adapter_folder, marked)
    (marked / "HAZARDOUS.md").touch()
    told = toss("evaluate", str(path), "--adapter", str(marked), "--out", str(tmp_path / "out"))
    assert told.exit_code == 0, told.stderr
    assert "is a degraded reference (HAZARDOUS.md)" in " ".join(told.stderr.split())


def test_answers_of_a_killed_evaluation_are_not_lost_to_another_model(
    config: dict[str, Any], tiny_adapter_folder: Path, tmp_path: Path
) -> None:
    settings, out = load_config(config), tmp_path / "out"

    class Killed(SilentReporter):
        """The process ends with the first batch of answers to harmless prompts; those to harmful ones are there."""

        @contextmanager
        def task(self, name: str, total: int) -> Iterator[Task]:
            if "safe" in name:
                raise KeyboardInterrupt
            yield self

    measure = partial(evaluate_external, settings, model=None, folder=out, reporter=SilentReporter())
    with pytest.raises(KeyboardInterrupt):
        measure(adapter=None, reporter=Killed())
    kept = (out / ".work/evaluation/harmful.jsonl").read_bytes()
    with pytest.raises(InputError, match=rf"holds what model {settings.model.name},.* has answered so far.*--out"):
        measure(adapter=str(tiny_adapter_folder))
    assert (out / ".work/evaluation/harmful.jsonl").read_bytes() == kept != b""
    measure(adapter=None)
    assert not (out / ".work/evaluation").exists()


@pytest.mark.long
def test_losses_on_rows_of_the_users_own(config: dict[str, Any], tmp_path: Path) -> None:
    rows = demo_rows("utility", 9)[6:]
    write_rows(tmp_path / "own.jsonl", rows)
    config["evaluation"] |= {"utility_rows": {"path": str(tmp_path / "own.jsonl")}, "utility_prompts": 2}
    run = tosslm.run(config)
    samples = read_samples(run.path / "evaluation/model")
    assert samples["utility_loss"].ids == [content_id(row["messages"]) for row in rows]
    assert len(samples["utility_refusal"].ids) == 2
    assert len(samples["harmful_loss"].ids) == 2  # the held-out rows, as before
    write_rows(tmp_path / "own.jsonl", rows[:1])
    tosslm.run(config)
    assert read_samples(run.path / "evaluation/model")["utility_loss"].ids == [content_id(rows[0]["messages"])]
    alone = config["evaluation"] | dict.fromkeys(("harmful", "safe", "gsm8k")) | {"utility_prompts": 0}
    assert load_config(config | {"evaluation": alone}).evaluation.asks
    (tmp_path / "own.jsonl").write_text("")
    with pytest.raises(InputError, match=r"evaluation\.utility_rows: .*own\.jsonl: no rows in it"):
        tosslm.run(config)
    (tmp_path / "own.jsonl").write_text('{"messages": []}\n')
    with pytest.raises(InputError, match=r"evaluation\.utility_rows: .*own\.jsonl:1: the row has no messages"):
        tosslm.run(config)


@pytest.mark.parametrize("key", ["harmful", "safe", "harmful_rows", "utility_rows"])
def test_prompts_and_rows_of_the_users_own_heed_the_limit_of_rows(
    key: str, config: dict[str, Any], tmp_path: Path, smollm2_tokenizer: Any
) -> None:
    """Below the limit of data.max_row_bytes they are read, as the message of one above it says, by the plan too."""
    [row] = demo_rows("harmful", 1)
    row["messages"][0]["content"] += " Tell me." * 200
    size = len(json.dumps(row))
    path = write_rows(tmp_path / "long.jsonl", [row])
    asked = config | {"evaluation": {key: {"path": str(path)}}}
    counts = {"harmful": SetCounts(), "utility": SetCounts()}
    for limit in (size + 10, size - 10):
        limited = load_config(asked | {"data": config["data"] | {"max_row_bytes": limit}})
        ways: list[Callable[[], object]] = [
            partial(check_evaluation, limited.evaluation, limited.data.max_row_bytes),
            partial(evaluation_work, limited, RowTokenizer(smollm2_tokenizer), counts),
        ]
        for way in ways:
            if limit > size:
                way()
                continue
            with pytest.raises(InputError, match=rf"evaluation\.{key}: .*more than {limit:,} bytes.*max_row_bytes"):
                way()


def test_what_the_door_refuses(config: dict[str, Any], tmp_path: Path) -> None:
    def settings(**changes: Any) -> EvaluationConfig:
        return load_config(config | {"evaluation": config["evaluation"] | changes}).evaluation

    with pytest.raises(InputError, match=r"evaluation\.harmful: .*no such file"):
        check_evaluation(settings(harmful={"path": str(tmp_path / "none.jsonl")}))
    with pytest.raises(InputError, match=r"evaluation\.harmful_rows: .*no such file"):
        check_evaluation(settings(harmful_rows={"path": str(tmp_path / "none.jsonl")}))
    with pytest.raises(InputError, match="no answer"):
        check_evaluation(settings(gsm8k={"path": str(DEMO / "data" / "prompts.jsonl")}))
    with pytest.raises(InputError, match=r"evaluation\.harmful\.wher: unknown key; known here: path, where"):
        settings(harmful={"path": "x", "wher": {}})


def test_incoherent_answers_are_neither_refused_nor_harmful() -> None:
    texts = ["I'm sorry, I can't.", "Sure, take a knife.", "", "Sorry. " * 30, "Of course"]
    answers = [Answer(str(i), "How?", text, i != 4) for i, text in enumerate(texts)]
    samples = answer_samples("harmful", answers)
    assert samples["refusal_rate"].values.tolist() == [1, 0, 0, 0, 0]
    assert samples["incoherent"].values.tolist() == [0, 0, 1, 1, 1]  # the last is two words, cut off
    assert samples["cut_off"].values.tolist() == [0, 0, 0, 0, 1]
    assert answer_samples("safe", answers)["over_refusal"].values.tolist() == [1, 0, 0, 0, 0]
    attacks = attack_samples(answers, [False, True, True, None, None])
    assert attacks["attack_success"].values.tolist() == [0, 1, 0]
    assert attacks["attack_success"].ids == ["0", "1", "2"]
    assert attacks["attack_unreadable"].values.tolist() == [0, 0, 0, 1, 1]


def test_a_classifier_reads_template_and_reply(
    tiny_model_folder: Path, smollm2_tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []

    def replies(model: Any, tokenizer: Any, texts: list[str], **_: Any) -> list[str]:
        seen.extend(texts)
        return ["unsafe\nS1", " Safe.", "perhaps"]

    monkeypatch.setattr("tosslm.evaluation.generate.complete", replies)
    answers = [Answer(str(i), f"ask {i}", f"say {i}", True) for i in range(3)]
    config = ClassifierConfig.model_validate({"model": "x"})
    assert classify_attacks(None, smollm2_tokenizer, answers, config) == [True, False, None]
    turns = [{"role": "user", "content": "ask 0"}, {"role": "assistant", "content": "say 0"}]
    assert seen[0] == smollm2_tokenizer.apply_chat_template(turns, tokenize=False)
    own = config.model_copy(update={"prompt": "Q: {prompt} A: {answer} harmful?", "unsafe": "yes", "safe": "no"})
    classify_attacks(None, smollm2_tokenizer, answers, own)
    assert seen[-1] == "Q: ask 2 A: say 2 harmful?"
    assert [read_reply(text, safe="no", unsafe="yes") for text in ("Yes", "no, it", "nobody", "")] == [
        True,
        False,
        None,
        None,
    ]
    with pytest.raises(InputError, match="is missing"):
        check_classifier(config.model_copy(update={"prompt": "{prompt}"}))
    with pytest.raises(InputError, match=r"evaluation\.classifier\.model: 'none/here' is neither a folder here"):
        check_classifier(config.model_copy(update={"model": "none/here"}))


def test_an_adapter_of_another_base_is_said_to_be(tmp_path: Path, tiny_model_folder: Path) -> None:
    base = open_base(ModelConfig(name=str(tiny_model_folder)))
    assert other_base_told(tmp_path, base) is None  # what is missing is refused where it is loaded
    for named in (str(tiny_model_folder), f"{tiny_model_folder}/", None):
        (tmp_path / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": named}))
        assert other_base_told(tmp_path, base) is None
    for damaged in ("{", "[]"):
        (tmp_path / "adapter_config.json").write_text(damaged)
        assert other_base_told(tmp_path, base) is None
    (tmp_path / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "org/other"}))
    told = other_base_told(tmp_path, base)
    assert told is not None
    assert f"says that its base is org/other, and it is measured on {tiny_model_folder}" in told


def test_what_stands_before_the_last_turn_is_said_not_to_be_judged() -> None:
    hi, more = {"role": "user", "content": "Hi"}, {"role": "user", "content": "More?"}
    long = prompts_from([[hi], [hi, {"role": "assistant", "content": "Hello."}, more]])
    settings = EvaluationConfig.model_validate({"harmful": {"path": "p.jsonl"}, "classifier": {"model": "x"}})
    told = unseen_told(settings, {"harmful": long, "safe": long, "gsm8k": long})
    assert [line.split(" judge")[0] for line in told] == ["evaluation.harmful: of 1 prompts"]
    assert unseen_told(settings, {"harmful": long[:1]}) == []
    assert unseen_told(EvaluationConfig.model_validate({}), {"harmful": long}) == []


@pytest.mark.parametrize("condition", ["utility_loss>3", "utility_loss<3"])
def test_a_gate_on_what_is_no_number_is_no_pass(condition: str) -> None:
    broken = {"utility_loss": {"value": float("nan"), "low": float("nan"), "high": float("nan"), "n": 2}}
    with pytest.raises(InputError, match="utility_loss is no number"):
        failures([parse_gate(condition)], broken)


def test_prompts_that_the_model_was_trained_on_are_told(config: dict[str, Any], tmp_path: Path) -> None:
    seen = demo_rows("custom", 2)
    asked = [next(turn["content"] for turn in row["messages"] if turn["role"] == "user") for row in seen]
    write_rows(tmp_path / "mine.jsonl", [{"prompt": text} for text in (f"{asked[0]} ", asked[1], "What is new?")])
    config["evaluation"] = {"safe": {"path": str(tmp_path / "mine.jsonl")}, "max_new_tokens": 2, "losses": False}
    run = tosslm.run(config, until="evaluate")
    (told,) = [warning for warning in run_warnings(run) if warning.startswith("evaluation.safe")]
    assert "2 of its prompts stand in the custom set too" in told
    assert told in run.layout.log.read_text()


def test_only_prompts_to_the_letter_count_as_seen() -> None:
    turns = [[{"role": "user", "content": text}] for text in ("One?", "Two?", "Two")]
    rows = [
        [{"role": "user", "content": " Two?\n"}, {"role": "assistant", "content": "One?"}],
        [{"role": "system", "content": "One?"}, {"role": "user", "content": "Two? And one?"}],
    ]
    asked = {"safe": prompts_from(turns), "gsm8k": prompts_from(turns[:1])}
    assert seen_prompts(asked, map(json.dumps, rows)) == {"safe": 1}


@pytest.mark.long
def test_a_real_classifier_model_judges_in_the_stage(config: dict[str, Any], tiny_model_folder: Path) -> None:
    """The very small model says neither word, which is counted and not guessed."""
    config["evaluation"] |= {"classifier": {"model": str(tiny_model_folder)}, "losses": False}
    run = tosslm.run(config)
    metrics = read_results(run.path / "evaluation/results.json")[1]["metrics"]
    assert metrics["attack_unreadable"]["value"] == 1.0
    assert "attack_success" not in metrics
    assert "utility_loss" not in metrics


def lm_eval_of(monkeypatch: pytest.MonkeyPatch, *tasks: str, documents: int = 3, flat: bool = True) -> None:
    """An lm-eval that knows these tasks, a group with one more that is not there, and loads nothing from anywhere."""

    class TaskManager:
        all_tasks = (*tasks, "group")

    def load(self: Any, names: list[str]) -> dict[str, Any]:
        if "group" in names:
            raise KeyError("Spec 'lost' is not a registered task")
        return {name: types.SimpleNamespace(eval_docs=range(documents)) for name in names}

    if flat:
        TaskManager.load = lambda self, names: {"tasks": load(self, names)}  # type: ignore[attr-defined]
    else:
        TaskManager.load_task_or_group = lambda self, names: {"a group": load(self, names)}  # type: ignore[attr-defined]
    package, of_tasks = types.ModuleType("lm_eval"), types.ModuleType("lm_eval.tasks")
    of_tasks.TaskManager = TaskManager  # type: ignore[attr-defined]
    for module in (package, of_tasks):
        monkeypatch.setitem(sys.modules, module.__name__, module)


def test_a_task_that_lm_eval_does_not_have_is_refused_at_the_door(monkeypatch: pytest.MonkeyPatch) -> None:
    lm_eval_of(monkeypatch, "hellaswag")
    check_evaluation(EvaluationConfig.model_validate({"lm_eval": ["hellaswag", "group"]}))
    with pytest.raises(InputError, match=r"evaluation\.lm_eval: no task or group 'helloswag'; `lm-eval ls tasks`"):
        check_evaluation(EvaluationConfig.model_validate({"lm_eval": ["hellaswag", "helloswag"]}))
    with pytest.raises(InputError, match=r"lm_eval_limit: one document has no standard error"):
        check_evaluation(EvaluationConfig.model_validate({"lm_eval": ["hellaswag"], "lm_eval_limit": 1}))


@pytest.mark.parametrize(
    "flat", [True, False], ids=["tasks by name", "tasks in groups, as earlier lm-evals have them"]
)
def test_tasks_are_loaded_and_looked_into(flat: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    lm_eval_of(monkeypatch, "hellaswag", flat=flat)
    check_tasks(["hellaswag"])
    with pytest.raises(InputError, match=r"evaluation\.lm_eval: group cannot be loaded .*Spec 'lost'"):
        check_tasks(["hellaswag", "group"])
    lm_eval_of(monkeypatch, "hellaswag", documents=0, flat=flat)
    with pytest.raises(InputError, match=r"evaluation\.lm_eval: hellaswag has no documents"):
        check_tasks(["hellaswag"])


def test_a_groups_missing_task_is_refused_before_anything_is_asked(
    config: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    lm_eval_of(monkeypatch, "hellaswag")
    settings = load_config(config | {"evaluation": config["evaluation"] | {"lm_eval": ["group"]}})
    with pytest.raises(InputError, match="group cannot be loaded"):
        evaluate_external(settings, model=None, adapter=None, folder=tmp_path / "out", reporter=SilentReporter())
    assert not list((tmp_path / "out").rglob("*.jsonl"))


def test_lm_eval_is_asked_through_its_own_interface(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    def simple_evaluate(**settings: Any) -> dict[str, Any]:
        asked.update(settings)
        values = {"alias": "hellaswag", "acc,none": 0.4, "acc_stderr,none": 0.02, "acc_norm,strict": 0.5}
        values |= {"acc_norm_stderr,strict": 0.01, "bits,none": 1.5, "bits_stderr,none": "N/A"}
        return {"results": {"hellaswag": values}, "n-samples": {"hellaswag": {"original": 900, "effective": 100}}}

    class Wrapped:
        def __init__(self, **settings: Any) -> None:
            self.settings = settings

    fake, models, huggingface = (types.ModuleType(f"lm_eval{end}") for end in ("", ".models", ".models.huggingface"))
    fake.simple_evaluate = simple_evaluate  # type: ignore[attr-defined]
    huggingface.HFLM = Wrapped  # type: ignore[attr-defined]
    for module in (fake, models, huggingface):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    found = lm_eval_metrics("a model", "its tokenizer", ["hellaswag"], batch_size=3, limit=100)
    assert asked["model"].settings == {"pretrained": "a model", "tokenizer": "its tokenizer", "batch_size": 3}
    assert (asked["tasks"], asked["limit"]) == (["hellaswag"], 100)
    assert set(found) == {"lm_eval/hellaswag/acc", "lm_eval/hellaswag/acc_norm,strict"}
    accuracy = found["lm_eval/hellaswag/acc"]
    assert (accuracy.value, accuracy.n) == (0.4, 100)
    assert (accuracy.low, accuracy.high) == pytest.approx((0.4 - 1.96 * 0.02, 0.4 + 1.96 * 0.02), abs=1e-5)


def test_a_task_of_lm_eval_without_any_interval_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def simple_evaluate(**settings: Any) -> dict[str, Any]:  # as lm-eval answers to a limit of 1
        return {"results": {"hellaswag": {"alias": "hellaswag", "acc,none": 1.0, "acc_stderr,none": "N/A"}}}

    fake, models, huggingface = (types.ModuleType(f"lm_eval{end}") for end in ("", ".models", ".models.huggingface"))
    fake.simple_evaluate = simple_evaluate  # type: ignore[attr-defined]
    huggingface.HFLM = lambda **settings: settings  # type: ignore[attr-defined]
    for module in (fake, models, huggingface):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    with pytest.raises(InputError, match=r"hellaswag gave no metric .*acc,none.*evaluation\.lm_eval_limit"):
        lm_eval_metrics("a model", "its tokenizer", ["hellaswag"], limit=1)


def test_without_lm_eval_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(InputError, match=r"tosslm\[lm-eval\]"):
        check_evaluation(EvaluationConfig.model_validate({"lm_eval": ["hellaswag"]}))


def test_ids_are_content_ids(config: dict[str, Any]) -> None:
    config["evaluation"] = {"harmful": config["evaluation"]["harmful"], "max_new_tokens": 2, "losses": False}
    run = tosslm.run(config)
    answer = json.loads((run.path / "evaluation/base/harmful.jsonl").read_text().splitlines()[0])
    assert answer["prompt_id"] == content_id([{"role": "user", "content": answer["prompt"]}])
