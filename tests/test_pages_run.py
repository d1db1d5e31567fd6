"""Commands and Python of the pages run, in the order of the page, where everything they name is there."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from support.page_scene import lay_out
from support.pages import Block, blocks, pages
from tosslm.cli import app
from tosslm.config import load_config

pytestmark = pytest.mark.slow
RUNS = ("runs/my-run", "runs/mine", "runs/demo")


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory, tiny_model_folder: Path, tiny_adapter_folder: Path) -> Path:
    """A folder in which what the pages name exists: a config, data, finished runs, models, adapters."""
    folder = lay_out(tmp_path_factory.mktemp("scene") / "here", tiny_model_folder, tiny_adapter_folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        toss(["run", "toss.yaml"])
        for name in RUNS[1:]:
            shutil.copytree(folder / RUNS[0], folder / name)
        toss(["export", RUNS[0], "train"])
        shutil.move("train/data.parquet", "train.parquet")
        toss(["export", RUNS[0], "saved", "--to", "llamafactory"])
        shutil.move("saved/tokenized", "saved-dataset")
    return folder


def toss(arguments: list[str]) -> None:
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    gate = "--fail-if" in arguments and "the model fails" in result.output
    assert result.exit_code == (1 if gate else 0), f"toss {' '.join(arguments)}\n{result.output}"


def as_edited(config: str) -> None:
    """What `toss init` wrote is a config; then it is edited, as the pages tell the reader to do."""
    load_config("toss.yaml")
    Path("toss.yaml").write_text(config)


def run_bash(block: Block) -> None:
    for program, *arguments in block.to_run:
        if program == "toss":
            config = Path("toss.yaml").read_text()
            if arguments[0] == "init":
                Path("toss.yaml").unlink()
            toss(arguments)
            if arguments[0] == "init":
                as_edited(config)
        elif program == "python":
            done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr


def loaded_pair(folder: Path) -> dict[str, Any]:
    """What the README's second snippet is given: a model with both references, its tokenizer, a conversation."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    base, run = folder / "models/mine", folder / "runs/my-run"
    model = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(base), str(run / "references/utility"), adapter_name="utility"
    )
    model.load_adapter(str(run / "references/degraded/round-0"), adapter_name="degraded")
    messages = json.loads((folder / "data/custom.jsonl").read_text().splitlines()[0])["messages"]
    return {"model": model, "tokenizer": AutoTokenizer.from_pretrained(base), "messages": messages}


@pytest.mark.long
@pytest.mark.parametrize(
    "page", [page for page in pages() if {"bash", "python"} & {block.language for block in blocks(page)}]
)
def test_a_page_runs(page: str, scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(scene.parent, tmp_path / "scene", symlinks=True)
    monkeypatch.chdir(tmp_path / "scene/here")
    names: dict[str, Any] = {"__name__": "page"}
    for block in blocks(page):
        if block.language == "bash":
            run_bash(block)
        elif block.language == "python" and block.mark is None:
            if block.code.startswith("import numpy") and page == "README.md":
                names |= loaded_pair(Path.cwd())
            exec(compile(block.code, f"{page}:{block.line}", "exec"), names)
