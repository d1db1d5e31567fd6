"""Harmful text and weights lie in a run folder: it is its owner's alone. What goes elsewhere keeps his umask."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import tosslm
from conftest import DEMO
from tosslm.compare import compare
from tosslm.config import load_config
from tosslm.evaluation.external import evaluate_external
from tosslm.merge import merge
from tosslm.progress import SilentReporter


@pytest.fixture(autouse=True)
def open_umask() -> Iterator[None]:
    before = os.umask(0o022)
    yield
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def open_to_others(folder: Path) -> dict[str, str]:
    return {str(path): oct(mode(path)) for path in [folder, *folder.rglob("*")] if mode(path) & 0o077}


@pytest.mark.long
def test_a_run_and_its_comparison_are_private(tiny_config: dict[str, Any], tmp_path: Path) -> None:
    prompts = {"path": str(DEMO / "data/prompts.jsonl"), "limit": 2}
    tiny_config |= {"evaluation": {"safe": prompts, "max_new_tokens": 2}, "report_to": ["tensorboard"]}
    tiny_config["run_dir"] = str(tmp_path / "runs" / "mine")
    run = tosslm.run(tiny_config)
    assert not open_to_others(run.path)
    assert mode(tmp_path / "runs") == 0o755
    compare(load_config(tiny_config), ["base", "first-k"], seeds=[7, 8])
    assert (run.path / "compare/results.json").exists()
    assert not open_to_others(run.path)
    merged = merge(run, tmp_path / "merged")
    assert mode(merged) == 0o755
    assert {mode(file) for file in merged.iterdir()} == {0o644}
    assert os.umask(0o022) == 0o022


def test_a_folder_of_another_models_results_is_private(tiny_config: dict[str, Any], tmp_path: Path) -> None:
    prompts = {"path": str(DEMO / "data/prompts.jsonl"), "limit": 2}
    config = load_config(tiny_config | {"evaluation": {"safe": prompts, "max_new_tokens": 2, "losses": False}})
    evaluate_external(
        config, model=config.model.name, adapter=None, folder=tmp_path / "out", reporter=SilentReporter()
    )
    assert not open_to_others(tmp_path / "out")


def test_a_folder_that_its_owner_has_opened_stays_open(tiny_config: dict[str, Any]) -> None:
    folder = Path(tiny_config["run_dir"])
    folder.mkdir(mode=0o755)
    tosslm.run(tiny_config, until="data")
    assert mode(folder) == 0o755
    assert set(open_to_others(folder)) == {str(folder)}
