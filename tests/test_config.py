"""The config: defaults, overrides, and what is refused at the door."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tosslm.config import load_config
from tosslm.config.evaluation import ClassifierConfig, JudgeConfig, PromptsConfig
from tosslm.config.idle import idle_keys
from tosslm.errors import InputError
from tosslm.methods import settled
from tosslm.starter import CHANGED, starter_config

SETS = {"data": {name: {"path": f"{name}.jsonl"} for name in ("custom", "harmful", "utility")}}


def test_a_training_is_the_papers_by_default_and_the_selection_with_its_method() -> None:
    config = load_config(SETS)
    for training in (config.references, config.finetune):
        assert (training.learning_rate, training.epochs, training.batch_size) == (1e-5, 2, 64)
        assert (training.lora.r, training.lora.alpha, training.lora.target_modules) == (16, 16, ["q_proj", "v_proj"])
    assert config.data.max_length == 2048
    assert config.refinement.rounds == 0
    paper = settled(load_config(SETS, ["method=toss"]))[0]
    assert (paper.selection.discard_fraction, paper.selection.evidence) == (0.1, "token")
    assert paper.finetune.dropped == "ignore"
    assert not config.model.trust_remote_code


def test_dotted_overrides_are_read_as_yaml_and_later_ones_win() -> None:
    overrides = ["selection.discard_fraction=0.3", "data.custom.path=[a.jsonl, b.jsonl]", "seed=1", "seed=2"]
    config = load_config(SETS, overrides, run_dir="elsewhere")
    assert config.selection.discard_fraction == 0.3
    assert config.data.custom.path == ["a.jsonl", "b.jsonl"]
    assert (config.seed, config.run_dir) == (2, "elsewhere")
    assert load_config(SETS, ["finetune.learning_rate=1e-4"]).finetune.learning_rate == 1e-4
    assert {"data": {name: {"path": f"{name}.jsonl"} for name in ("custom", "harmful", "utility")}} == SETS


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("selection.discard_fraction=1", "selection.discard_fraction: 1 or more would drop every response token"),
        ("selection.discard_fraction=.nan", "selection.discard_fraction"),
        (
            "selection.discard=0.1",
            "selection.discard: unknown key; known here: discard_fraction, false_discard, scope, evidence",
        ),
        ("colour=red", "colour: unknown key; known here: run_dir, seed"),
        ("finetune.epochs=two", "finetune.epochs: .*given: 'two'"),
        ("finetune.epochs=true", "finetune.epochs: true and false are no numbers"),
        ("selection.discard_fraction=false", "selection.discard_fraction: true and false are no numbers"),
        ("evaluation.scales=[true]", "evaluation.scales: true and false are no numbers"),
        ("data.turns=first", "data.turns"),
        ("finetune.micro_batch_size=7", r"batch_size \(64\) is not a multiple of micro_batch_size \(7\)"),
        ("data.custom=null", "data.custom"),
        ("data.custom.path.x=1", "'path' is a value, not a section"),
        ("data.custom.path=null", r"^--set data\.custom\.path: give text or a list of text \(given: null\)$"),
        ("data.custom.path=[]", r"^--set data\.custom\.path: names no file; give a path, a list of paths"),
        ("evaluation.harmful={path: ''}", r"^--set evaluation\.harmful\.path: an empty text names nothing"),
        ("model.adapter=", r"^--set 'model\.adapter=': no value stands there .*; model\.adapter=null is none$"),
        ("model.adapter=''", r"^--set model\.adapter: an empty text names nothing; give one, or leave the key out$"),
        ("finetune.lora.target_modules=[]", r"^--set finetune\.lora\.target_modules: "),
        ("seed=010", r"'010' is not readable as YAML \(010 is 8 to YAML; write the number that you mean"),
        ("data.max_row_bytes=1:30", r"1:30 is 90 to YAML"),
        ("data.custom.where={a: 1, a: 2}", r"the key 'a' stands there twice"),
        ("finetune.max_grad_norm=.inf", r"^--set finetune\.max_grad_norm: Input should be a finite number"),
        ("finetune.anchor_weight=1e999", r"^--set finetune\.anchor_weight: Input should be a finite number"),
        (
            "selection.discard_fraction=20%",
            r"^--set selection\.discard_fraction: give a number or auto \(given: '20%'\)$",
        ),
        ("data.custom=c6.jsonl", r"^--set data\.custom: a section of keys; write \{path: c6\.jsonl\}"),
        ("selection=0.1", r"^--set selection: a section of keys: discard_fraction, "),
        ("finetune.betas=[0.9, x]", r"^--set finetune\.betas\.1: give a number \(given: 'x'\)$"),
        ("selection.evidence=tokens", "give token, window or posterior"),
        ("seed", "expected a.b=value"),
        ("seed=[", "not readable as YAML"),
    ],
)
def test_a_wrong_value_names_its_key_and_the_remedy(override: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_config(SETS, [override])


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["finetune.dropped=ignore", "finetune.anchor_first=3"], ["finetune.anchor_first: 3 has no part"]),
        (["selection.window=9"], ["selection.window: 9 has no part, as selection.evidence is posterior"]),
        (["selection.discard_fraction=0.2", "selection.false_discard=0.1"], ["selection.false_discard: 0.1 has no"]),
        (["refinement.samples_per_round=8"], ["refinement.samples_per_round: 8 has no part"]),
        (["evaluation.scales=[0.5]"], [r"evaluation.scales: \[0.5\] has no part"]),
        (
            ["evaluation.classifier={model: guard}", "evaluation.lm_eval_limit=9"],
            [
                r"evaluation.classifier: \{model: guard, ...\} has no part, as evaluation.harmful",
                "evaluation.lm_eval_",
            ],
        ),
        (
            [
                "evaluation.harmful={path: x}",
                "evaluation.classifier={model: guard}",
                "evaluation.judge={model: m, attack_prompt: '{prompt} {answer}'}",
            ],
            [r"evaluation.classifier: .* has no part, as evaluation.judge.attack_prompt"],
        ),
        (
            ["evaluation.gsm8k_result=last", "evaluation.losses=false", "evaluation.utility_rows={path: x}"],
            ["evaluation.gsm8k_result: last", r"evaluation.utility_rows: \{path: x, ...\} has no part, as .*losses"],
        ),
        (["evaluation.harmful={path: x}", "evaluation.classifier={model: guard}"], []),
        (["finetune.anchor_first=3", "selection.false_discard=0.1"], []),
        (["refinement.rounds=1", "refinement.samples_per_round=8"], []),
        ([], []),
    ],
)
def test_what_is_set_in_vain_is_told(overrides: list[str], told: list[str]) -> None:
    found = idle_keys(load_config(SETS, overrides))
    assert len(found) == len(told)
    assert all(re.match(expected, sentence) for expected, sentence in zip(told, found, strict=True))


def test_what_the_command_line_says_is_not_blamed_on_the_file(tmp_path: Path) -> None:
    path = tmp_path / "toss.yaml"
    path.write_text(yaml.safe_dump(SETS | {"seeds": 1}))
    with pytest.raises(InputError) as refused:
        load_config(path, ["data.custom.pth=x", "data.utility={format: hh}", "model.device=cpu"])
    for said in (f"{path}: seeds: unknown", "; --set data.custom.pth: unknown", "; --set data.utility: no rows"):
        assert said in str(refused.value)
    path.write_text(yaml.safe_dump(SETS))
    with pytest.raises(InputError, match=r"^--set model\.name: a URL with a password"):
        load_config(path, ["model.name=https://user:word@host/x"])


def test_a_missing_set_is_named() -> None:
    with pytest.raises(InputError, match=r"data\.utility: missing; add it"):
        load_config({"data": {name: SETS["data"][name] for name in ("custom", "harmful")}})


def test_broken_yaml_names_file_and_line(tmp_path: Path) -> None:
    path = tmp_path / "toss.yaml"
    path.write_text("seed: 0\ndata: [\n")
    with pytest.raises(InputError, match=r"toss\.yaml:3: not readable as YAML"):
        load_config(path)
    with pytest.raises(InputError, match="no such config file; `toss init`"):
        load_config(tmp_path / "none.yaml")


def test_a_number_that_yaml_reads_otherwise_than_it_stands_there_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "octal.yaml"
    path.write_text("run_dir: x\nseed: 010\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"octal\.yaml:2: not readable as YAML \(010 is 8 to YAML"):
        load_config(path)


@pytest.mark.parametrize(("text", "seed"), [("0", 0), ("0x10", 16), ("1_000", 1000), ("08", 8), ("'010'", 10)])
def test_numbers_that_mean_what_they_seem_to_are_read(text: str, seed: int) -> None:
    assert load_config(SETS, [f"seed={text}"]).seed == seed


def test_the_starter_config_is_complete_and_equals_the_defaults() -> None:
    tree: dict[str, Any] = yaml.safe_load(starter_config(full=True))
    expected = load_config(SETS).model_dump()
    config = load_config(tree)
    assert tree.keys() == expected.keys()
    assert config.model_dump(exclude={"run_dir", "data"}) == {
        key: value for key, value in expected.items() if key not in ("run_dir", "data")
    }
    comments = [line for line in starter_config(full=True).splitlines() if line.strip().startswith("#")]
    assert len(comments) > 50


def test_the_starter_config_tells_the_keys_of_what_is_null_and_its_comments_can_be_taken_as_they_stand() -> None:
    text = starter_config(full=True)
    begin = text.index("  # judge:\n")
    block = text[begin : text.index("\n\n", begin)].splitlines()
    given = yaml.safe_load("\n".join(line.replace("# ", "", 1) for line in block))
    assert given["judge"].keys() == JudgeConfig.model_fields.keys()
    assert load_config(SETS | {"evaluation": given}).evaluation.judge == JudgeConfig(model="...")
    for section in (PromptsConfig, ClassifierConfig):
        assert all(f"#   {key}: " in text for key in section.model_fields)


def test_the_starter_config_has_the_keys_that_people_change_and_their_comments() -> None:
    text = starter_config()
    tree: dict[str, Any] = yaml.safe_load(text)
    found = []
    waiting = [("", tree)]
    while waiting:
        prefix, branch = waiting.pop(0)
        for key, value in branch.items():
            if isinstance(value, dict):
                waiting.append((f"{prefix}{key}.", value))
            else:
                found.append(f"{prefix}{key}")
    assert sorted(found) == sorted(CHANGED)
    assert len(found) == 10
    full = yaml.safe_load(starter_config(full=True))
    assert load_config(tree) == load_config(full)  # what is left out has its default
    assert "toss init --full" in text.splitlines()[1]
