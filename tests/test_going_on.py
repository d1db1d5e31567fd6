"""Going on from any run folder changes nothing: its config says which method made it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from conftest import DEMO, demo_rows, write_rows
from tosslm.cli import app
from tosslm.compare import compare
from tosslm.config import load_config
from tosslm.methods import registry

pytestmark = pytest.mark.long
TRAINED = [name for name, method in registry().items() if method.trains]


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory, tiny_model_folder: Path) -> Path:
    """Every registered method on twelve rows; the folder of the comparison."""
    folder = tmp_path_factory.mktemp("going-on")
    rows = demo_rows("custom", 12)
    for i, row in enumerate(rows):
        row["source"] = "harm" if i % 4 == 0 else "fine"
    write_rows(folder / "custom.jsonl", rows)
    for name in ("harmful", "utility"):
        write_rows(folder / f"{name}.jsonl", demo_rows(name, 6))
    write_rows(folder / "safety.jsonl", demo_rows("align_refusals", 5))
    training = {"learning_rate": 0.02, "epochs": 1, "batch_size": 4, "micro_batch_size": 4}
    config = load_config(
        {
            "run_dir": str(folder / "run"),
            "model": {"name": str(tiny_model_folder), "dtype": "float32", "device": "cpu"},
            "data": {name: {"path": str(folder / f"{name}.jsonl")} for name in ("custom", "harmful", "utility")},
            "references": {**training, "holdout": 0.3},
            "finetune": training,
            "selection": {"discard_fraction": 0.2, "evidence": "token"},
            "refinement": {"samples_per_round": 2},
            "compare": {
                "harmful_sources": ["harm"],
                "safety": {"path": str(folder / "safety.jsonl")},
                "safety_share": 0.25,
                "guard": {"model": str(tiny_model_folder)},
            },
            "evaluation": {
                "harmful": {"path": str(DEMO / "data/prompts.jsonl"), "where": {"label": "unsafe"}, "limit": 2},
                "max_new_tokens": 2,
                "refusals": ["No."],
            },
        }
    )
    with pytest.MonkeyPatch.context() as patch:
        # References of random weights tell nothing; here they may be learnt from all the same.
        patch.setattr("tosslm.selection.gate.LEVEL", 1.0)
        assert compare(config, list(registry()))["failed"] == []
    return folder / "run" / "compare"


def recorded(folder: Path) -> dict[str, Any]:
    manifest: dict[str, Any] = json.loads((folder / "manifest.json").read_text())
    return manifest["stages"]


def essentials(folder: Path) -> dict[str, bytes]:
    return {
        name: (folder / name).read_bytes() for name in ("selection/keep.parquet", "model/adapter_model.safetensors")
    }


@pytest.mark.parametrize("name", TRAINED)
def test_a_methods_folder_goes_on_as_that_method(compared: Path, name: str) -> None:
    folder = compared / name / "seed-0"
    before, bytes_before = recorded(folder), essentials(folder)
    done = CliRunner().invoke(app, ["run", str(folder)])
    assert done.exit_code == 0, done.output
    after = recorded(folder)
    assert {step: after[step] for step in before} == before  # nothing was done again
    assert after.keys() - before.keys() == {"diagnosis", "report"}  # what a comparison leaves undone
    assert essentials(folder) == bytes_before
    assert (folder / "report.html").stat().st_size > 50_000
    assert json.loads((folder / "manifest.json").read_text())["config"]["method"] == name
    again = CliRunner().invoke(app, ["report", str(folder)])
    assert again.exit_code == 0, again.output
    assert recorded(folder) == after


def test_the_untouched_base_goes_on_too(compared: Path) -> None:
    folder = compared / "base" / "untrained"
    before = recorded(folder)
    done = CliRunner().invoke(app, ["run", str(folder)])
    assert done.exit_code == 0, done.output
    assert recorded(folder) == before


def test_the_folder_of_an_older_version_is_known_by_what_it_recorded(compared: Path, tmp_path: Path) -> None:
    """Version 0.1.0 wrote a comparison's method beside the selection, not into the config."""
    run = tmp_path / "compare"
    for name in ("first-k", "sft"):
        shutil.copytree(compared / name / "seed-0", run / name / "seed-0")
    folder = run / "first-k" / "seed-0"
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["config"]["method"], manifest["config"]["compare"]["part_of"], manifest["warnings"]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    before, bytes_before = recorded(folder), essentials(folder)
    done = CliRunner().invoke(app, ["run", str(folder), "--until", "evaluate"])
    assert done.exit_code == 0, done.output
    assert {step: recorded(folder)[step] for step in before} == before
    assert essentials(folder) == bytes_before


def test_another_method_in_a_folder_is_the_users_word(compared: Path, tmp_path: Path) -> None:
    """Named on the command line it selects anew; a key of the folder that says otherwise is not passed over."""
    folder = tmp_path / "random"
    shutil.copytree(compared / "random" / "seed-0", folder)
    before = essentials(folder)
    done = CliRunner().invoke(app, ["run", str(folder), "--set", "method=first-k", "--until", "select"])
    assert done.exit_code == 0, done.output
    assert essentials(folder)["selection/keep.parquet"] != before["selection/keep.parquet"]
    refused = CliRunner().invoke(app, ["run", str(folder), "--set", "method=toss-posterior", "--until", "select"])
    assert refused.exit_code == 2
    assert "selection.evidence" in refused.output
