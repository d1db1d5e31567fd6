"""Real launchers of several processes, on gloo, and what they are compared with."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

ROOT = Path(__file__).parents[2]
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]
CLOSE = 1e-4
"""Of weights that 20 steps moved by a tenth: orders of summation differ, and Adam magnifies it."""


def accelerate(config: str) -> list[str]:
    """The launcher of a config of ours, such as ``ddp``."""
    return ["-m", "accelerate.commands.launch", "--config_file", str(ROOT / f"configs/accelerate/{config}.yaml")]


def start(*arguments: str, **variables: str) -> subprocess.Popen[str]:
    environment = (
        os.environ
        | variables
        | {
            "PYTHONPATH": os.pathsep.join([str(ROOT / "tests"), *sys.path]),
            "OMP_NUM_THREADS": "1",
        }
    )
    command = [sys.executable, *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def end(launched: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = launched.communicate(timeout=600)
    return launched.returncode, out, err


def write(config: dict[str, Any], name: str) -> Path:
    path = Path(config["run_dir"]).with_name(f"{name}.json")
    path.write_text(json.dumps(config | {"run_dir": str(path.with_suffix(""))}))
    return path


def assert_close(made: Path, expected: Path) -> None:
    weights, alone = (load_file(folder / "adapter_model.safetensors") for folder in (made, expected))
    assert weights.keys() == alone.keys()
    for name, weight in alone.items():
        np.testing.assert_allclose(weights[name], weight, atol=CLOSE, err_msg=name)


def children(launched: subprocess.Popen[str]) -> list[int]:
    """The processes that a launcher has started."""
    threads = Path(f"/proc/{launched.pid}/task").glob("*/children")
    return [int(pid) for thread in threads for pid in thread.read_text().split()]


def at_checkpoint(launched: subprocess.Popen[str], config: Path, step: str) -> None:
    """Wait until a training has a whole checkpoint."""
    work = config.with_suffix("") / ".work" / step / "checkpoints"
    while not list(work.glob("*/complete")):
        assert launched.poll() is None, launched.communicate()[1]
        time.sleep(0.01)
