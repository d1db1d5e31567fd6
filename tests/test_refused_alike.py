"""What a run would stumble over is refused before anything is trained, and by its plan as well."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import tosslm
from conftest import demo_rows, write_rows
from tosslm.cli import app
from tosslm.config import Config, load_config
from tosslm.config.idle import idle_keys
from tosslm.errors import InputError
from tosslm.methods import settled
from tosslm.plan import make_plan
from tosslm.progress import SilentReporter
from tosslm.runs.layout import Layout


def planned(config: Config) -> dict[str, Any]:
    return make_plan(settled(config)[0], measure=False, reporter=SilentReporter())


def trained(config: Config) -> list[str]:
    path = Layout(Path(config.run_dir)).manifest
    done = json.loads(path.read_text(encoding="utf-8"))["stages"] if path.exists() else {}
    return [name for name in done if name.startswith(("references/", "model"))]


PROMPTS = {"path": "prompts.jsonl"}
BAD_EVALUATIONS = {
    "a classifier that is not there": (
        {"harmful": PROMPTS, "classifier": {"model": "no/where", "prompt": "{prompt} {answer}", "unsafe": "u"}},
        r"evaluation\.classifier",
    ),
    "a template without the answer": (
        {"harmful": PROMPTS, "classifier": {"model": "TINY", "prompt": "{prompt}", "unsafe": "u"}},
        r"\{answer\}",
    ),
    "questions without answers": ({"gsm8k": PROMPTS}, r"evaluation\.gsm8k: a record has no answer"),
    "prompts that are not there": ({"safe": {"path": "nowhere.jsonl"}}, r"evaluation\.safe"),
}


@pytest.mark.parametrize("name", BAD_EVALUATIONS)
def test_an_evaluation_that_cannot_be_done(
    tiny_config: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    write_rows(tmp_path / "prompts.jsonl", [{"prompt": "How?"}])
    section, says = BAD_EVALUATIONS[name]
    text = json.dumps(section).replace("TINY", tiny_config["model"]["name"])
    config = load_config(tiny_config | {"evaluation": json.loads(text)})
    with pytest.raises(InputError, match=says) as by_plan:
        planned(config)
    with pytest.raises(InputError, match=says) as by_run:
        tosslm.run(config)
    assert str(by_plan.value) == str(by_run.value)
    assert trained(config) == []


def test_decisions_of_another_set_are_refused_before_references_are_trained(
    tiny_config: dict[str, Any], tmp_path: Path
) -> None:
    path = tmp_path / "decided.jsonl"
    path.write_text('{"row_id": "0123456789abcdef", "decision": "drop"}\n', encoding="utf-8")
    config = load_config(tiny_config, [f"selection.overrides={path}"])
    for refused in (planned, tosslm.run):
        with pytest.raises(InputError, match=r"decided\.jsonl:1: no row 0123456789abcdef in the custom set"):
            refused(config)
    assert trained(config) == []


def test_a_guard_that_is_not_there_is_refused_before_the_utility_reference_is_trained(
    tiny_config: dict[str, Any],
) -> None:
    guard = {"model": "no/where", "prompt": "{prompt} {answer}", "unsafe": "u", "safe": "s"}
    tree = tiny_config | {"compare": {"guard": guard}}
    config = load_config(tree, ["references.harmful_tokens=guard"])
    for refused in (planned, tosslm.run):
        with pytest.raises(InputError, match=r"compare\.guard\.model"):
            refused(config)
    assert trained(config) == []


@pytest.mark.parametrize("name", ["custom", "harmful", "utility"])
def test_a_set_of_bad_rows_alone_is_refused_by_the_plan_too(
    tiny_config: dict[str, Any], tmp_path: Path, name: str
) -> None:
    write_rows(tmp_path / f"{name}.jsonl", [{"prompt": "Hi", "completion": ""}] * 3)
    config = load_config(tiny_config, ["data.on_bad_row=skip"])
    with pytest.raises(InputError, match=rf"data\.{name}: .* has no usable row"):
        planned(config)


def test_rows_that_are_skipped_are_not_counted_as_if_mended(tiny_config: dict[str, Any], tmp_path: Path) -> None:
    good, bad = demo_rows("harmful", 3), [{"prompt": "Hi", "completion": ""}] * 30
    write_rows(tmp_path / "harmful.jsonl", [*good, *bad])
    config = load_config(
        tiny_config, ["data.on_bad_row=skip", "selection.evidence=posterior", "references.holdout=0.5"]
    )
    messages = []
    for refused in (planned, tosslm.run):
        with pytest.raises(InputError) as error:
            refused(config)
        messages.append(str(error.value))
    assert messages[0] == messages[1]
    assert "held out" in messages[0]


@pytest.mark.parametrize(
    ("method", "says"),
    [
        ("oracle", "no custom row has the source 'elsewhere'"),
        ("oracle-tokens", "no token of the custom set is marked"),
    ],
)
def test_an_oracle_that_knows_nothing_is_refused_by_the_plan_too(
    tiny_config: dict[str, Any], tmp_path: Path, method: str, says: str
) -> None:
    write_rows(tmp_path / "custom.jsonl", plain_rows())
    tree = tiny_config | {"method": method, "compare": {"harmful_sources": ["elsewhere"]}}
    for key in ("refinement", "selection"):
        tree.pop(key)
    tree["finetune"] = {key: value for key, value in tree["finetune"].items() if key != "dropped"}
    config = load_config(tree)
    for refused in (planned, tosslm.run):
        with pytest.raises(InputError, match=says):
            refused(config)


def plain_rows() -> list[dict[str, Any]]:
    return [{"prompt": f"Say {number}.", "completion": f"It is {number}."} for number in range(8)]


def of_sft(tiny_config: dict[str, Any], *settings: str) -> Config:
    tree = {key: value for key, value in tiny_config.items() if key not in ("refinement", "selection")}
    return load_config(tree | {"method": "sft"}, list(settings))


def test_what_a_method_has_no_use_for_is_no_matter_of_its_plan(tiny_config: dict[str, Any]) -> None:
    config = of_sft(tiny_config, f"references.model={tiny_config['model']['name']}", "scoring.engine=ray")
    assert "proxy" not in planned(config)
    (told,) = idle_keys(config, scored=False)
    assert told.startswith("references.model: ")
    assert "method sft scores nothing" in told
    assert idle_keys(config) == []


def test_of_the_base_alone_one_model_is_evaluated(tiny_config: dict[str, Any], tmp_path: Path) -> None:
    write_rows(tmp_path / "prompts.jsonl", [{"prompt": "How?"}] * 4)
    tree = of_sft(tiny_config).model_dump(mode="json", exclude_unset=True)
    tree["evaluation"] = {"harmful": {"path": str(tmp_path / "prompts.jsonl")}, "max_new_tokens": 8}

    def read(method: str) -> float:
        stages = planned(load_config(tree | {"method": method}))["stages"]
        return float(next(stage["tokens_read"] for stage in stages if stage["stage"] == "evaluate"))

    assert read("sft") == 2 * read("base")


def test_a_plan_says_what_the_run_folder_holds_already(tiny_config: dict[str, Any]) -> None:
    config = of_sft(tiny_config)
    assert not any("holds steps" in told for told in planned(config)["warnings"])
    tosslm.run(config, until="select")
    (told,) = [told for told in planned(config)["warnings"] if "holds steps" in told]
    assert "(data, selection)" in told


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_run_folder_that_is_somebody_elses(tiny_config: dict[str, Any], tmp_path: Path, kind: str) -> None:
    run_dir = Path(tiny_config["run_dir"])
    if kind == "file":
        run_dir.write_text("mine", encoding="utf-8")
    else:
        (run_dir / "scores").mkdir(parents=True)
    path = tmp_path / "toss.yaml"
    path.write_text(json.dumps(tiny_config), encoding="utf-8")
    for command in ("plan", "run"):
        result = CliRunner().invoke(app, [command, str(path)])
        assert result.exit_code == 2
        assert ("is a file" if kind == "file" else "is no run folder") in " ".join(result.stderr.split())


def test_a_window_without_a_middle_says_what_is_taken(tiny_config: dict[str, Any]) -> None:
    def told(window: int) -> list[str]:
        return idle_keys(load_config(tiny_config, ["selection.evidence=window", f"selection.window={window}"]))

    assert told(4) == ["selection.window: 4 has no middle token; 5 is taken."]
    assert told(5) == []


def test_dropping_everything_says_what_chose_it(tiny_config: dict[str, Any], tmp_path: Path) -> None:
    rows = [row | {"source": "all"} for row in plain_rows()]
    write_rows(tmp_path / "custom.jsonl", rows)
    tree = of_sft(tiny_config).model_dump(mode="json", exclude_unset=True)
    config = load_config(tree | {"method": "oracle", "compare": {"harmful_sources": ["all"]}})
    with pytest.raises(InputError, match=r"selection: all \d+ tokens are dropped.*compare\.harmful_sources"):
        tosslm.run(config)


@pytest.mark.parametrize(("d", "says"), [(1e-6, "Nothing is dropped"), (0.9999, "Hardly anything trains")])
def test_a_share_that_drops_nothing_or_leaves_nothing_is_said(
    tiny_config: dict[str, Any], d: float, says: str
) -> None:
    tree = {key: value for key, value in tiny_config.items() if key != "refinement"} | {"method": "random"}
    tree["selection"] = {"discard_fraction": d}
    run = tosslm.run(load_config(tree), until="select")
    assert any(says in warning for warning in run.manifest["warnings"]) == (says != "Nothing is dropped")
