"""Reading does not wait for what training needs: seconds of imports that these commands have no use for."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from support.made_run import answers, made_run
from support.made_sections import add_sections

pytestmark = pytest.mark.slow  # a process a test
HEAVY = ("torch", "transformers", "trl", "peft", "datasets", "sklearn")
CALL = """
import json, sys
from typer.testing import CliRunner
from tosslm.cli import app
result = CliRunner().invoke(app, sys.argv[1:])
assert result.exit_code == 0, result.output
print(json.dumps(sorted(sys.modules)))
"""


def loaded(code: str, *arguments: str) -> set[str]:
    """The top-level modules that a new process has loaded when it is through."""
    result = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=120, check=False
    )
    assert result.returncode == 0, result.stderr
    return {name.partition(".")[0] for name in json.loads(result.stdout.splitlines()[-1])}


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = add_sections(made_run(tmp_path_factory.mktemp("light") / "run", answers(9)))
    return run.path


@pytest.mark.parametrize(
    "command", ["help", "methods", "kinds", "init", "verify", "list", "row", "record", "inspect"]
)
def test_reading_loads_nothing_heavy(command: str, run_dir: Path, tmp_path: Path) -> None:
    row = json.loads((run_dir / "refinement/round-1.json").read_text())["row_ids"][0]
    arguments = {
        "help": ["--help"],
        "methods": ["compare", str(run_dir), "--methods", "help"],
        "kinds": ["export", "--to", "help"],
        "init": ["init", str(tmp_path)],
        "verify": ["verify", str(run_dir)],
        "list": ["show", str(run_dir)],
        "row": ["show", str(run_dir), row],
        "record": ["show", str(run_dir), row, "--json"],
        "inspect": ["inspect", str(run_dir / "data/custom.parquet"), "--rows", "1"],
    }[command]
    assert not loaded(CALL, *arguments) & set(HEAVY)


def test_help_waits_for_no_stage() -> None:
    """A stage needs these; which commands there are does not."""
    assert not loaded(CALL, "--help") & {"numpy", "pyarrow", "pydantic", "yaml", *HEAVY}


def test_a_heavy_module_would_be_seen() -> None:
    assert "sklearn" in loaded(f"import sklearn\n{CALL}", "--help")


@pytest.mark.parametrize("room", ["findings", "terminal"])
def test_rooms_that_tell_and_print_need_no_training(room: str) -> None:
    """Nor does a room that tells need the page or the terminal."""
    code = f"""
import importlib, json, pkgutil, sys
package = importlib.import_module("tosslm.{room}")
for module in pkgutil.iter_modules(package.__path__):
    importlib.import_module(f"tosslm.{room}.{{module.name}}")
print(json.dumps(sorted(name.replace("tosslm.", "tosslm-", 1) for name in sys.modules)))
"""
    found = loaded(code)
    assert not found & {*HEAVY, "tosslm-report"}
    if room == "findings":
        assert not found & {"rich", "markupsafe", "jinja2", "tosslm-terminal"}
