"""The block of the pages that takes Docker, by bash as it stands but for URL (`make docker`)."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

import tosslm
from conftest import demo_rows, write_rows
from support.fresh_clone import cloned
from support.page_shell import bash, beginning, marked
from tosslm.runs.verify import verify

WANTED = "TOSSLM_DOCKER"
TORCH_INDEX = "TOSSLM_TORCH_INDEX"
"""Stands for URL: the index of CPU builds of PyTorch. Empty: pip's own index, whose build is gigabytes larger."""
MARKED = marked("docker")
IMAGE = beginning(MARKED, "docs/install.md", "docker build")


def test_all_that_is_marked_so_is_run_here() -> None:
    assert [IMAGE] == MARKED


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """A clone with a config and data in it, which the image's user may write to, whoever runs this."""
    if not os.environ.get(WANTED):
        pytest.skip("gigabytes, and minutes; `make docker` runs it")
    if not shutil.which("docker") or subprocess.run(["docker", "info"], capture_output=True, check=False).returncode:
        pytest.skip("no Docker answers: `docker info` says why")
    folder = cloned(tmp_path / "tosslm")
    for name in ("custom", "harmful", "utility"):
        write_rows(folder / f"{name}.jsonl", demo_rows(name, 10))
    training = {"epochs": 1, "batch_size": 4}
    config = {
        "run_dir": "runs/my-run",
        "model": {"name": "builtin:smollm2-135m-instruct"},
        "data": {name: {"path": f"{name}.jsonl"} for name in ("custom", "harmful", "utility")},
        "references": {**training, "holdout": 0.2},
        "selection": {"evidence": "token", "discard_fraction": 0.1},
        "finetune": training,
    }
    (folder / "toss.yaml").write_text(yaml.safe_dump(config))
    folder.chmod(0o777)
    return folder


def test_an_image_is_built_plans_and_runs(here: Path) -> None:
    assert IMAGE.code.count("URL") == 1
    said = bash(IMAGE.code.replace("URL", os.environ.get(TORCH_INDEX, "")), here)
    assert "tokens read" in said
    run = tosslm.load_run(here / "runs/my-run")
    assert verify(run)[1] == []
    assert len(run.rows) == 10
    assert {"references/utility", "scores/round-0", "selection", "model", "report"} <= run.stages.keys()
    assert (here / "runs").stat().st_uid != 0, "the image's user is not root"
