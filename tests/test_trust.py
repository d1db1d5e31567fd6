"""A run folder is data: its own word has no code run that came with it, and no key sent anywhere."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

import tosslm
from tosslm.cli import app
from tosslm.errors import InputError
from tosslm.merge import merge

CODE = """
from pathlib import Path
from transformers import LlamaConfig
Path({marker!r}).write_text("ran")
class Sent(LlamaConfig):
    model_type = "sent"
"""


def toss(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


@pytest.fixture
def sent(tiny_config: dict[str, Any], tmp_path: Path) -> tuple[Path, Path]:
    """A run folder whose config trusts a model that brings code, and the file that the code would write."""
    model, marker = tmp_path / "sent-model", tmp_path / "ran"
    shutil.copytree(tiny_config["model"]["name"], model)
    tiny_config["model"]["name"] = str(model)
    tosslm.run(tiny_config, until="data")
    settings = json.loads((model / "config.json").read_text())
    settings |= {"model_type": "sent", "auto_map": {"AutoConfig": "sent.Sent"}}
    (model / "config.json").write_text(json.dumps(settings))
    (model / "sent.py").write_text(CODE.format(marker=str(marker)))
    manifest = tmp_path / "run/manifest.json"
    stored = json.loads(manifest.read_text())
    stored["config"]["model"]["trust_remote_code"] = True
    manifest.write_text(json.dumps(stored))
    return tmp_path / "run", marker


@pytest.mark.parametrize(
    "command", ["report", "run", "select", "plan", "evaluate", "compare", "merge", "set", "evaluate-other"]
)
def test_a_run_folder_cannot_have_its_own_code_run(sent: tuple[Path, Path], tmp_path: Path, command: str) -> None:
    run, marker = sent
    arguments = {
        "merge": ["merge", str(run), str(tmp_path / "out")],
        "set": ["run", str(run), "--set", "seed=3"],
        "evaluate-other": ["evaluate", str(run), "--model", "x", "--out", str(tmp_path / "other")],
    }.get(command, [command, str(run)])
    result = toss(*arguments)
    assert result.exit_code == 2, result.output
    assert "trust_remote_code" in result.stderr
    assert "say so yourself" in result.stderr
    assert not marker.exists()


def test_reading_needs_no_trust_and_gives_none(sent: tuple[Path, Path]) -> None:
    run, marker = sent
    assert toss("verify", str(run)).exit_code == 0
    assert not tosslm.load_run(run).config.model.trust_remote_code
    assert tosslm.load_run(run, trust_remote_code=True).config.model.trust_remote_code
    with pytest.raises(InputError, match="trust_remote_code"):
        merge(tosslm.load_run(run), run.parent / "out")
    assert not marker.exists()


def test_the_user_may_trust_it(sent: tuple[Path, Path]) -> None:
    run, marker = sent
    toss("run", str(run), "--until", "data", "--set", "model.trust_remote_code=true")
    assert marker.exists()
    out = run.parent / "out"
    for said_by in ("reader", "merge"):
        opened = tosslm.load_run(run, trust_remote_code=said_by == "reader")
        with pytest.raises(InputError, match="no fine-tuned model yet"):  # past the question of trust
            merge(opened, out, trust_remote_code=said_by == "merge")
    assert "no fine-tuned model yet" in toss("merge", str(run), str(out), "--trust-remote-code").stderr


JUDGE = {"model": "m", "base_url": "http://sender.example/v1", "key_variable": "AWS_SECRET_ACCESS_KEY"}
ADDRESS = f"evaluation.judge.base_url={JUDGE['base_url']}"
VARIABLE = f"evaluation.judge.key_variable={JUDGE['key_variable']}"


def with_judge(tiny_config: dict[str, Any], judge: dict[str, Any]) -> Path:
    """A run folder whose config names a judge, as a sender may have written it."""
    tosslm.run(tiny_config, until="data")
    manifest = Path(tiny_config["run_dir"]) / "manifest.json"
    stored = json.loads(manifest.read_text())
    stored["config"]["evaluation"]["judge"] = judge
    manifest.write_text(json.dumps(stored))
    return manifest.parent


@pytest.mark.parametrize("command", ["run", "evaluate", "report", "compare", "plan"])
def test_a_run_folder_cannot_name_where_a_key_is_sent(tiny_config: dict[str, Any], command: str) -> None:
    run = with_judge(tiny_config, JUDGE)
    result = toss(command, str(run))
    assert result.exit_code == 2, result.output
    said = " ".join(result.stderr.split())
    assert "say so yourself" in said
    assert f"--set {ADDRESS} --set {VARIABLE}" in said
    assert "evaluation.judge.base_url" not in toss("run", str(run), "--until", "data", "--set", ADDRESS).stderr
    assert "evaluation.judge.key_variable" in toss("run", str(run), "--until", "data", "--set", ADDRESS).stderr


@pytest.mark.parametrize("said", [[ADDRESS, VARIABLE], ["evaluation.judge=null"], ["evaluation={}"]])
def test_the_user_may_name_the_judge_or_none(tiny_config: dict[str, Any], said: list[str]) -> None:
    run = with_judge(tiny_config, JUDGE)
    result = toss("run", str(run), "--until", "data", *(word for one in said for word in ("--set", one)))
    assert result.exit_code == 0, result.output


def test_a_judge_of_the_default_address_needs_no_word(tiny_config: dict[str, Any]) -> None:
    run = with_judge(tiny_config, {"model": "gpt-4o", "base_url": None})
    assert toss("run", str(run), "--until", "data").exit_code == 0
    judge = tosslm.load_run(run).config.evaluation.judge
    assert judge is not None
    assert judge.model == "gpt-4o"


def test_the_config_for_reading_names_no_judge_of_the_folders_own(tiny_config: dict[str, Any]) -> None:
    """So that `tosslm.run(tosslm.load_run(FOLDER).config)` asks none either."""
    config = tosslm.load_run(with_judge(tiny_config, JUDGE)).config
    assert config.evaluation.judge is None


def test_what_asks_no_judge_needs_no_word(tiny_config: dict[str, Any], tmp_path: Path) -> None:
    run = with_judge(tiny_config, JUDGE)
    assert toss("verify", str(run)).exit_code == 0
    assert "no fine-tuned model yet" in toss("merge", str(run), str(tmp_path / "out")).stderr
