"""What a run takes over from a comparison in its folder, and what stands or was left where it would go."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tosslm
from conftest import DEMO, demo_rows, write_rows
from tosslm.compare import compare
from tosslm.config import Config, load_config
from tosslm.errors import InputError
from tosslm.files import write_json
from tosslm.findings.measured import read_measured
from tosslm.findings.summary import summarize
from tosslm.runs.outputs import make_outputs_private
from tosslm.runs.verify import verify


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory, tiny_model_folder: Path) -> dict[str, Any]:
    """Base and TOSS on twelve rows; the run around them has scores, and no mask of its own."""
    folder = tmp_path_factory.mktemp("taking")
    for count in (12, 20):
        write_rows(folder / f"custom{count}.jsonl", demo_rows("custom", count))
    for name in ("harmful", "utility"):
        write_rows(folder / f"{name}.jsonl", demo_rows(name, 6))
    training = {"learning_rate": 0.02, "epochs": 1, "batch_size": 4, "micro_batch_size": 4}
    tree = {
        "run_dir": str(folder / "run"),
        "model": {"name": str(tiny_model_folder), "dtype": "float32", "device": "cpu"},
        "data": {
            "custom": {"path": str(folder / "custom12.jsonl")},
            **{name: {"path": str(folder / f"{name}.jsonl")} for name in ("harmful", "utility")},
        },
        "references": {**training, "holdout": 0.3},
        "scoring": {"rows_per_part": 4},
        "finetune": {**training, "dropped": "ignore"},
        "selection": {"discard_fraction": 0.2, "evidence": "token"},
        "evaluation": {
            "harmful": {"path": str(DEMO / "data/prompts.jsonl"), "where": {"label": "unsafe"}, "limit": 3},
            "max_new_tokens": 2,
            "refusals": ["No."],
        },
    }
    compare(load_config(tree), ["base", "toss"])
    return tree


Configured = Callable[..., Config]


@pytest.fixture
def config(compared: dict[str, Any], tmp_path: Path) -> Configured:
    """The config of a copy of that run folder, with other values."""
    shutil.copytree(compared["run_dir"], tmp_path / "run")
    return lambda *values: load_config(compared | {"run_dir": str(tmp_path / "run")}, list(values))


def killed(patch: pytest.MonkeyPatch, where: str, config: Config, **how: Any) -> Path:
    """A run that ends where a function is called."""

    def die(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    with patch.context() as one:
        one.setattr(where, die)
        with pytest.raises(KeyboardInterrupt):
            tosslm.run(config, **how)
    return Path(config.run_dir)


def test_parts_of_another_set_that_a_killed_run_left_do_not_stay(
    config: Configured, compared: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    larger = config(f"data.custom.path={Path(compared['data']['custom']['path']).with_name('custom20.jsonl')}")
    scores = killed(monkeypatch, "tosslm.stages.score._score_heldout", larger, until="score", fresh=True)
    assert len(list((scores / "scores/round-0").glob("part-*.parquet"))) == 5
    run = tosslm.run(config())
    assert len(run.scores()) == len(run.rows) == 12
    assert verify(run)[1] == []


def test_evidence_that_a_killed_run_left_is_not_that_of_the_mask_taken_over(
    config: Configured, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed(monkeypatch, "tosslm.stages.select._cut_and_masked", config("selection.evidence=window"), until="select")
    run = tosslm.run(config(), until="select")
    assert (run.path / "selection/keep.parquet").samefile(run.path / "compare/toss/seed-0/selection/keep.parquet")
    assert all(map(np.array_equal, run.evidence(), run.scores()))
    assert not (run.path / "selection/evidence.parquet").exists()
    assert run.manifest["begun"] == {}


def test_what_somebody_else_put_there_is_refused_and_stays(config: Configured) -> None:
    own = Path(config().run_dir) / "model/adapter_model.safetensors"
    own.parent.mkdir()
    own.write_text("my own adapter")
    with pytest.raises(InputError, match=r"adapter_model\.safetensors: stands there and is not of this run"):
        tosslm.run(config(), until="finetune")
    assert own.read_text() == "my own adapter"


def test_a_kill_while_a_step_is_taken_over_blocks_no_later_run(
    config: Configured, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def dies(root: Path, files: list[str]) -> None:
        if any(file.startswith("model/") for file in files):
            raise KeyboardInterrupt
        make_outputs_private(root, files)

    with monkeypatch.context() as patch:
        patch.setattr("tosslm.runs.folder.make_outputs_private", dies)
        with pytest.raises(KeyboardInterrupt):
            tosslm.run(config(), until="finetune")
    assert (tmp_path / "run/model").exists()
    slower = tosslm.run(config("finetune.learning_rate=0.01"), until="finetune")
    assert verify(slower)[1] == []
    assert tosslm.run(config(), until="finetune", fresh=True).stages["model"]["tokens"]


def test_a_mask_taken_over_says_nothing_of_one_before(config: Configured) -> None:
    compare(config("selection.discard_fraction=0.3"), ["toss"])
    theirs = json.loads((Path(config().run_dir) / "compare/toss/seed-0/manifest.json").read_text())
    assert theirs["stages"]["selection"]["changed_from_previous"] > 0
    run = tosslm.run(config("selection.discard_fraction=0.3"), until="select")
    assert "changed_from_previous" not in run.stages["selection"]


def test_records_of_another_config_are_no_results_of_this_one(
    config: Configured, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file of all records is written last, and a kill may come before it."""
    tosslm.run(config(), until="evaluate")
    killed(
        monkeypatch, "tosslm.stages.evaluate.write_results", config("evaluation.harmful.limit=2"), until="evaluate"
    )
    run = tosslm.load_run(config().run_dir)
    for records in (summarize(run)["evaluation"], read_measured(run).records):
        assert {record["metrics"]["refusal_rate"]["n"] for record in records} == {2}


@pytest.mark.parametrize("recorded", [True, False])
def test_a_run_of_before_that_was_killed_in_its_evaluation_goes_on(config: Configured, *, recorded: bool) -> None:
    """Its model's step had begun to write the file of all records as well."""
    run = tosslm.run(config(), until="evaluate")
    shutil.rmtree(run.path / "compare")
    manifest = run.manifest
    entry, both = manifest["stages"].pop("evaluation/model"), ["evaluation/model", "evaluation/results.json"]
    files = entry["files"] | manifest["stages"].pop("evaluation/results")["files"]
    manifest["begun"] = {"evaluation/model": both}
    if recorded:
        manifest["stages"]["evaluation/model"] = entry | {"files": files, "fingerprint": "0" * 16}
    write_json(run.path / "manifest.json", manifest)
    again = tosslm.run(config(), until="evaluate")
    assert verify(again)[1] == []
    assert again.manifest["begun"] == {}
    assert list(again.stages["evaluation/results"]["files"]) == ["evaluation/results.json"]


def test_a_link_in_the_place_of_a_file_gives_the_file(config: Configured) -> None:
    theirs = Path(config().run_dir) / "compare/toss/seed-0"
    file = theirs / "model/adapter_model.safetensors"
    file.rename(theirs / "weights")
    file.symlink_to("../weights")
    ours = tosslm.run(config(), until="finetune").path / "model/adapter_model.safetensors"
    assert ours.samefile(theirs / "weights")
    assert not ours.is_symlink()


def test_what_cannot_be_read_there_is_done_here(config: Configured, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Path) -> None:
        raise PermissionError

    monkeypatch.setattr("tosslm.runs.folder.link_or_copy", refuse)
    run = tosslm.run(config(), until="select")
    keep = run.path / "selection/keep.parquet"
    theirs = run.path / "compare/toss/seed-0/selection/keep.parquet"
    assert not keep.samefile(theirs)
    assert keep.read_bytes() == theirs.read_bytes()
    assert verify(run)[1] == []
