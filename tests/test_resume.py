"""A run that was killed anywhere ends with the same bytes as one that was not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import tosslm
from tosslm.findings.summary import summarize
from tosslm.merge import merge
from tosslm.pipeline import outputs
from tosslm.runs.folder import RunFolder
from tosslm.runs.verify import verify


def contents(run_dir: str) -> dict[str, bytes]:
    folder = Path(run_dir)
    files = [file for kind in ("*.parquet", "*.safetensors") for file in folder.rglob(kind)]
    return {str(file.relative_to(folder)): file.read_bytes() for file in files}


@pytest.mark.long
def test_killed_in_every_step(tiny_config: dict[str, Any], tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    config.write_text(json.dumps(tiny_config))
    command = [sys.executable, str(Path(__file__).parent / "support" / "kill_harness.py"), str(config), "1"]
    environment = os.environ | {"TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, env=environment, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    kills = json.loads([line for line in done.stdout.splitlines() if line.startswith("{")][-1])["kills"]
    assert len(kills) >= 10, kills
    calm, wild = contents(f"{tiny_config['run_dir']}-calm"), contents(f"{tiny_config['run_dir']}-wild")
    assert calm == wild
    assert any(name.startswith("references/degraded/round-1") for name in calm)


@pytest.fixture
def finished(tiny_config: dict[str, Any]) -> tuple[dict[str, Any], dict[str, bytes]]:
    tosslm.run(tiny_config)
    return tiny_config, contents(tiny_config["run_dir"])


def test_what_is_done_is_skipped_and_what_is_damaged_is_made_again(
    finished: tuple[dict[str, Any], dict[str, bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    config, before = finished
    done: list[str] = []
    real = RunFolder.do

    def watch(self: Any, step: Any, work: Any, **more: Any) -> bool:
        did = real(self, step, work, **more)
        if did:
            done.append(step.name)
        return did

    monkeypatch.setattr(RunFolder, "do", watch)
    tosslm.run(config)
    assert done == []
    victim = Path(config["run_dir"]) / "scores/round-0/part-00001.parquet"
    victim.write_bytes(victim.read_bytes()[:-50])
    (Path(config["run_dir"]) / "references/utility/adapter_model.safetensors").unlink()
    mask = Path(config["run_dir"]) / "selection/keep.parquet"
    mask.write_bytes(mask.read_bytes()[:-50])
    tosslm.run(config)
    assert done == ["references/utility", "scores/round-0", "selection"]
    assert contents(config["run_dir"]) == before


def test_a_changed_config_redoes_what_it_touches_and_tells_how_the_mask_changed(
    finished: tuple[dict[str, Any], dict[str, bytes]],
) -> None:
    config, before = finished
    kept = tosslm.load_run(config["run_dir"]).keep()
    selection = {"discard_fraction": 0.3, "evidence": "token"}
    scoring = {"batch_tokens": 300, "rows_per_part": 5}
    run = tosslm.run({**config, "scoring": scoring, "selection": selection}, until="select")
    stages = run.manifest["stages"]
    assert stages["scores/round-0"]["parts"] == 5
    assert not list(Path(config["run_dir"]).glob("scores/round-0/part-00005.parquet"))
    differing = sum(int((one != other).sum()) for one, other in zip(kept, run.keep(), strict=True))
    assert stages["selection"]["changed_from_previous"] == differing > 0
    unchanged = [name for name in before if name.startswith(("data/", "references/utility"))]
    assert all(contents(config["run_dir"])[name] == before[name] for name in unchanged)


def test_why_something_is_made_anew_is_told(tiny_config: dict[str, Any]) -> None:
    config = tiny_config | {"refinement": {"rounds": 0}}
    run = tosslm.run(config, until="references")
    log = run.layout.log
    assert "made anew" not in log.read_text()
    (run.path / "references/utility/adapter_config.json").unlink()
    tosslm.run(config, until="references/utility")
    assert "references/utility: made anew, as references/utility/adapter_config.json is missing" in log.read_text()
    tosslm.run({**config, "data": config["data"] | {"max_length": 64}}, until="references/utility")
    assert "data: made anew, as the config, a file or model that it names, or" in log.read_text()
    assert "references/utility: made anew, as data changed" in log.read_text()


def test_fresh_starts_over_and_leaves_the_users_own_files(finished: tuple[dict[str, Any], dict[str, bytes]]) -> None:
    config, before = finished
    note = Path(config["run_dir"]) / "my-notes.txt"
    note.write_text("mine")
    run = tosslm.run(config, fresh=True, until="data")
    assert list(run.manifest["stages"]) == ["data"]
    assert note.read_text() == "mine"
    assert contents(config["run_dir"]).keys() == {n for n in before if n.startswith("data/")}


def test_a_manifest_that_cannot_be_read_proves_nothing_and_nothing_is_removed(tiny_config: dict[str, Any]) -> None:
    """What cannot be read may be anybody's: not even --fresh removes what lies beside it."""
    tosslm.run(tiny_config, until="data")
    folder = Path(tiny_config["run_dir"])
    before = contents(str(folder))
    for broken in ("{", "[]", "{}"):
        (folder / "manifest.json").write_text(broken)
        for fresh in (False, True):
            with pytest.raises(tosslm.InputError, match=r"manifest\.json: .*name another run_dir"):
                tosslm.run(tiny_config, until="data", fresh=fresh)
    assert contents(str(folder)) == before


def test_what_was_made_from_something_else_is_out_of_date(finished: tuple[dict[str, Any], dict[str, bytes]]) -> None:
    config, _ = finished
    run = tosslm.run({**config, "selection": {"discard_fraction": 0.4, "evidence": "token"}}, until="select")
    assert run.folder.is_current("selection")
    assert not run.folder.is_current("model")
    assert {(f.step, f.problem) for f in verify(run)[1]} == {
        (n, "out of date") for n in ("model", "diagnosis", "report")
    }
    with pytest.raises(tosslm.InputError, match="toss finetune"):
        merge(run, Path(config["run_dir"]).with_name("merged"))
    summary = summarize(tosslm.run({**config, "seed": 8}, until="references"))
    assert "selection" not in summary
    assert set(summary["trainings"]) == {"references/utility", "references/degraded/round-0"}


def test_a_private_work_folder_is_gone_when_the_run_is(finished: tuple[dict[str, Any], dict[str, bytes]]) -> None:
    config, _ = finished
    left = Path(config["run_dir"]) / ".work" / "references-degraded-round-9"
    left.mkdir(parents=True)
    (left / "fingerprint").write_text("as a step leaves it")
    tosslm.run(config)
    assert not list(left.parent.iterdir())


def test_one_writer_at_a_time(tiny_config: dict[str, Any]) -> None:
    with (
        RunFolder(tiny_config["run_dir"]).lock(outputs()),
        pytest.raises(tosslm.TosslmError, match="is writing here"),
    ):
        tosslm.run(tiny_config, until="data")
