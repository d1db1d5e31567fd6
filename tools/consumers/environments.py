"""A virtual environment for each consumer, of versions that are pinned, since they cannot live in ours."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tosslm.files import sha256

FOLDER = Path(__file__).parents[2] / "build" / "consumers"
REQUIREMENTS = Path(__file__).parent / "requirements"
_TORCH = "2.13.0"


def python_of(consumer: str) -> Path:
    """The Python of a consumer's environment, which is made where its requirements are new.

    Raises:
        CalledProcessError: something cannot be installed here.
    """
    listed, folder = REQUIREMENTS / f"{consumer}.txt", FOLDER / f"venv-{consumer}"
    python, stamp = folder / "bin" / "python", folder / "installed"
    if not stamp.exists() or stamp.read_text(encoding="utf-8") != sha256(listed):
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
        _install_torch(python)
        # Not even those for newer Pythons are left out: of each package only the data path is loaded.
        _pip(python, "--no-deps", "--ignore-requires-python", "-r", str(listed))
        stamp.write_text(sha256(listed), encoding="utf-8")
    return python


def run_reader(python: Path, reader: str, *arguments: object) -> None:
    """Run a script of ``readers/``, which speaks to nobody.

    Raises:
        CalledProcessError: it failed.
    """
    quiet = {"HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": "", "TOKENIZERS_PARALLELISM": "false"}
    script = Path(__file__).parent / "readers" / f"{reader}.py"
    subprocess.run([str(python), str(script), *map(str, arguments)], check=True, env={**os.environ, **quiet})


def _install_torch(python: Path) -> None:
    """The CPU build where the package index has one: no consumer's data path needs another."""
    try:
        _pip(python, f"torch=={_TORCH}+cpu")
    except subprocess.CalledProcessError:
        _pip(python, f"torch=={_TORCH}")


def _pip(python: Path, *arguments: str) -> None:
    subprocess.run([str(python), "-m", "pip", "install", "-q", *arguments], check=True)
