"""Rows that stand in a set several times, references that were removed, folders that somebody else writes."""

from __future__ import annotations

import json
import os
import shutil
import stat
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from filelock import FileLock

import tosslm
from conftest import demo_rows, write_rows
from tosslm.config import Config, load_config
from tosslm.config.idle import idle_keys
from tosslm.config.tree import covered
from tosslm.errors import InputError, TosslmError
from tosslm.files import write_parquet
from tosslm.runs.folder import RunFolder
from tosslm.runs.mirror import Mirror, local_run
from tosslm.runs.tables import HELDOUT_SCHEMA, held_out_scores
from tosslm.runs.verify import verify


def test_a_content_that_stands_several_times_is_held_out_once(tmp_path: Path) -> None:
    """Else references that know nothing pass the test against chance, by copies that say the same."""
    ids = ["00000000000000aa", "00000000000000bb", "00000000000000aa-2", "00000000000000aa-3"]
    rows = [
        {"row_id": ids[i], "set": name, "position": [1], "loss_degraded": [float(i)], "loss_utility": [2.0 * i]}
        for name in ("harmful", "utility")
        for i in (range(4) if name == "harmful" else (0, 1))
    ]
    columns = {name: [row[name] for row in rows] for name in HELDOUT_SCHEMA.names if name in rows[0]}
    write_parquet(tmp_path / "heldout.parquet", columns, HELDOUT_SCHEMA, "x")
    found = held_out_scores(tmp_path / "heldout.parquet")
    assert [row.tolist() for row in found["harmful"]] == [[0.0], [1.0]]
    assert len(found["utility"]) == 2


def test_sets_of_a_few_rows_many_times_over_are_refused_as_what_they_are(
    tiny_config: dict[str, Any], tmp_path: Path
) -> None:
    rows = demo_rows("harmful", 10)
    tree = {key: value for key, value in tiny_config.items() if key not in ("refinement", "selection")}
    messages = []
    for times in (1, 4):
        write_rows(tmp_path / "harmful.jsonl", rows * times)
        with pytest.raises(InputError, match=r"data\.harmful: of 10 rows 2 are held out") as error:
            tosslm.run(load_config(tree | {"run_dir": str(tmp_path / f"run-{times}")}), until="references")
        messages.append(str(error.value))
    assert messages[0] == messages[1]


def test_copies_are_told_of_every_set(tiny_config: dict[str, Any], tmp_path: Path) -> None:
    write_rows(tmp_path / "utility.jsonl", demo_rows("utility", 10) * 2)
    run = tosslm.run(load_config(tiny_config), until="select")
    (told,) = [one for one in run.manifest["warnings"] if "repeat another" in one]
    assert told == "10 utility rows repeat another one's content. Held out, each content counts once."


@pytest.fixture
def finished(tiny_config: dict[str, Any]) -> Config:
    tree = {key: value for key, value in tiny_config.items() if key != "refinement"}
    config = load_config(tree)
    tosslm.run(config, until="select")
    return config


def test_a_degraded_reference_that_was_deleted_is_not_trained_again_for_what_reads_none(finished: Config) -> None:
    """README, SECURITY.md and its HAZARDOUS.md ask for it to be deleted."""
    run = tosslm.load_run(finished.run_dir)
    shutil.rmtree(run.path / "references" / "degraded")
    assert [found for found in verify(run)[1] if found.step.startswith("references/degraded")] == []
    other = load_config(finished.model_dump(mode="json", exclude_unset=True), ["selection.discard_fraction=0.3"])
    before = (run.path / "scores/round-0/part-00000.parquet").read_bytes()
    again = tosslm.run(other, until="select")
    assert again.stages["selection"]["discard_fraction"] == 0.3
    assert not (run.path / "references" / "degraded").exists()
    assert (run.path / "scores/round-0/part-00000.parquet").read_bytes() == before


def test_one_that_is_damaged_is_no_deleted_one(finished: Config) -> None:
    run = tosslm.load_run(finished.run_dir)
    (run.path / "references/degraded/round-0/adapter_model.safetensors").unlink()
    assert [found.problem for found in verify(run)[1]] == ["missing"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_is_said_so(finished: Config) -> None:
    path = Path(finished.run_dir)
    path.chmod(stat.S_IRUSR | stat.S_IXUSR)
    try:
        with pytest.raises(InputError, match="cannot be written to"):
            tosslm.run(finished, until="select")
    finally:
        path.chmod(0o700)


def test_a_folder_that_the_disk_does_not_let_be_written_is_said_so(
    finished: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(InputError, match="cannot be written to; copy the run elsewhere"):
        tosslm.run(finished, until="select")


def test_how_often_a_training_is_kept_changes_nothing_that_was_trained(tiny_config: dict[str, Any]) -> None:
    often, seldom = (load_config(tiny_config, [f"finetune.checkpoint_steps={n}"]) for n in (1, 50))
    assert covered(often.finetune) == covered(seldom.finetune)


def test_keys_of_an_anchor_that_is_none_are_told(tiny_config: dict[str, Any]) -> None:
    told = idle_keys(load_config(tiny_config, ["finetune.anchor_weight=9", "finetune.anchor_normalize=anchored"]))
    assert [one.partition(":")[0] for one in told] == ["finetune.anchor_weight", "finetune.anchor_normalize"]
    assert not idle_keys(load_config(tiny_config, ["finetune.dropped=anchor", "finetune.anchor_weight=9"]))


def test_a_limit_that_is_not_met_is_said(tiny_config: dict[str, Any], tmp_path: Path) -> None:
    long = {"prompt": "word " * 600, "completion": "Yes."}
    write_rows(tmp_path / "custom.jsonl", [long, *demo_rows("custom", 24)])
    tree = dict(tiny_config) | {"data": json.loads(json.dumps(tiny_config["data"]))}
    tree["data"]["custom"]["limit"] = 8
    tree["data"] |= {"on_bad_row": "skip", "max_length": 256}
    tosslm.run(load_config(tree), until="data")
    log = (Path(tree["run_dir"]) / "run.log").read_text(encoding="utf-8")
    assert "custom: 7 rows (of data.custom.limit: 8)" in log


@pytest.fixture
def elsewhere(tiny_config: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    monkeypatch.setenv("TOSSLM_CACHE", str(tmp_path / "cache-a"))
    tree = {key: value for key, value in tiny_config.items() if key not in ("refinement", "selection")}
    url = f"memory://{tmp_path.name}/run"
    config = load_config(tree | {"run_dir": url, "method": "random", "selection": {"discard_fraction": 0.2}})
    tosslm.run(config, until="select")
    return config


def parted(config: Config, content: bytes) -> Mirror:
    """A working copy with a step that was never sent, of a folder that another one has written since."""
    mirror = Mirror(config.run_dir)
    path = mirror.copy / "manifest.json"
    text = path.read_text(encoding="utf-8")
    made = json.loads(text)
    made["stages"]["diagnosis"] = made["stages"]["selection"] | {"files": {"diagnosis/a.bin": "x"}}
    path.write_text(json.dumps(made), encoding="utf-8")
    (mirror.copy / "diagnosis").mkdir()
    (mirror.copy / "diagnosis" / "a.bin").write_bytes(content)
    mirror.store.write("manifest.json", text.replace('"seed": 7', '"seed":  7').encode())
    return mirror


def test_a_reader_leaves_alone_what_a_run_of_this_machine_is_writing(elsewhere: Config) -> None:
    mirror = parted(elsewhere, b"just made")
    with FileLock(mirror._layout.lock, timeout=0):
        assert local_run(elsewhere.run_dir) == mirror.copy
    assert (mirror.copy / "diagnosis" / "a.bin").read_bytes() == b"just made"
    assert "diagnosis" in json.loads((mirror.copy / "manifest.json").read_text(encoding="utf-8"))["stages"]


def test_what_was_never_sent_is_put_aside_and_told(elsewhere: Config, capfd: pytest.CaptureFixture[str]) -> None:
    """Another one wrote meanwhile; what this machine made is not used, and not lost either."""
    mirror = parted(elsewhere, b"hours of work")
    local_run(elsewhere.run_dir)
    assert not (mirror.copy / "diagnosis" / "a.bin").exists()
    assert (mirror.copy / ".unsent" / "diagnosis" / "a.bin").read_bytes() == b"hours of work"
    said = " ".join(capfd.readouterr().err.split())
    assert "what this copy has of diagnosis is not used; it lies under" in said


def test_before_a_run_has_begun_a_reader_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOSSLM_CACHE", str(tmp_path / "cache"))
    mirror = Mirror(f"memory://{tmp_path.name}/new")
    mirror._remember()
    with FileLock(mirror._layout.lock, timeout=0), pytest.raises(TosslmError, match="just begun"):
        local_run(mirror.url)


def test_a_comparison_goes_on_without_the_degraded_reference_that_was_deleted(finished: Config) -> None:
    run = tosslm.load_run(finished.run_dir)
    shutil.rmtree(run.path / "references" / "degraded")
    other = RunFolder(run.path / "compare" / "toss" / "seed-7")
    other.adopt(run.folder, ("data", "references", "scores"), skip=("selection",))
    assert other.withholds("references/degraded/round-0")
    assert not (other.path / "references" / "degraded").exists()
    assert np.all([other.is_current(name) for name in ("data", "references/utility", "scores/round-0")])
