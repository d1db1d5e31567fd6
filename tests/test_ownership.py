"""Nothing of the user's is destroyed: a run replaces and removes what its manifest says is its own."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import tosslm
from conftest import DEMO
from support.benches import bench_of
from tosslm.config import load_config
from tosslm.errors import InputError
from tosslm.evaluation.external import evaluate_external
from tosslm.pipeline import outputs
from tosslm.plan import make_plan
from tosslm.progress import SilentReporter
from tosslm.runs.folder import RunFolder


def done(folder: RunFolder, name: str, text: str = "ours") -> None:
    """A step that writes one file."""
    mark = folder.mark(name, 1, [text], [], (name,))

    def work() -> dict[str, Any]:
        path = folder.path / name / "file.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return {}

    with folder.lock(outputs()):
        folder.begin({}, 0, {})
        folder.do(mark, work)


@pytest.mark.parametrize("name", [*outputs(), "compare"])
def test_a_folder_that_is_no_run_and_holds_a_name_of_ours_is_refused(tmp_path: Path, name: str) -> None:
    theirs = tmp_path / name / "weights"
    theirs.parent.mkdir()
    theirs.write_text("theirs")
    for fresh in (False, True):
        with (
            pytest.raises(InputError, match=rf"no run folder .*holds {name}"),
            RunFolder(tmp_path, fresh=fresh).lock(outputs()),
        ):
            pass
    assert theirs.read_text() == "theirs"
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_run_dir_here_leaves_the_base_alone(tiny_config: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """An ordinary run in the folder that holds the model it was given."""
    here = Path(tiny_config["run_dir"]).parent
    monkeypatch.chdir(here)
    (here / "model").symlink_to(tiny_config["model"]["name"])
    before = sorted(path.name for path in (here / "model").iterdir())
    with pytest.raises(InputError, match="run_dir"):
        tosslm.run({**tiny_config, "run_dir": ".", "model": {**tiny_config["model"], "name": "model"}})
    assert sorted(path.name for path in (here / "model").iterdir()) == before


def test_a_manifest_of_something_else_is_no_proof(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text('{"name": "a browser extension", "manifest_version": 3}')
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "mine.txt").write_text("mine")
    for fresh in (False, True):
        with pytest.raises(InputError, match=r"manifest\.json"), RunFolder(tmp_path, fresh=fresh).lock(outputs()):
            pass
    assert (tmp_path / "data" / "mine.txt").read_text() == "mine"


def test_fresh_removes_what_steps_wrote_and_nothing_beside_it(tmp_path: Path) -> None:
    done(RunFolder(tmp_path), "scores/round-0")
    done(RunFolder(tmp_path), "diagnosis")
    (tmp_path / "scores" / "notes.txt").write_text("mine")
    (tmp_path / "thesis.tex").write_text("mine")
    folder = RunFolder(tmp_path, fresh=True)
    with folder.lock(outputs()):
        left = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert left == {"scores/notes.txt", "thesis.tex", ".lock", ".writer"}


def test_what_a_killed_step_left_is_ours_and_what_a_user_put_there_is_not(tmp_path: Path) -> None:
    done(RunFolder(tmp_path), "scores/round-1")

    def killed() -> dict[str, Any]:
        (tmp_path / "diagnosis").mkdir()
        (tmp_path / "diagnosis/half.txt").write_text("half")
        raise KeyboardInterrupt

    folder = RunFolder(tmp_path)
    with pytest.raises(KeyboardInterrupt), folder.lock(outputs()):
        folder.do(folder.mark("diagnosis", 1, [], [], ("diagnosis",)), killed)
    done(RunFolder(tmp_path), "diagnosis")  # goes on
    (tmp_path / "evaluation").mkdir()
    (tmp_path / "evaluation" / "mine.safetensors").write_text("mine")
    with pytest.raises(InputError, match=r"evaluation/mine\.safetensors: stands there and is not of this run"):
        done(RunFolder(tmp_path), "evaluation")
    assert (tmp_path / "evaluation" / "mine.safetensors").read_text() == "mine"


def test_a_file_put_into_a_steps_folder_is_not_replaced_with_it(tmp_path: Path) -> None:
    done(RunFolder(tmp_path), "evaluation", "first")
    (tmp_path / "evaluation" / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match=r"evaluation/notes\.txt: stands there"):
        done(RunFolder(tmp_path), "evaluation", "second")
    (tmp_path / "evaluation" / "notes.txt").unlink()
    done(RunFolder(tmp_path), "evaluation", "second")


def test_half_written_files_of_other_runs_below_are_left_alone(tmp_path: Path) -> None:
    done(RunFolder(tmp_path), "scores/round-1")
    names = ("compare/toss/seed-0/scores/.unfinished-1-part", "notes/.unfinished-2-x")
    own = ("data/.unfinished-3-custom.parquet", "scores/round-0/.unfinished-4-part", ".unfinished-5-manifest.json")
    for name in (*names, *own):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("half")
    with RunFolder(tmp_path).lock(outputs()):
        pass
    assert [name for name in (*names, *own) if (tmp_path / name).exists()] == list(names)


def broken(**changes: Any) -> dict[str, Any]:
    entry = {"fingerprint": "f", "inputs": {}, "files": {}, "seconds": 1.0} | changes
    return {"format": 1, "config": {}, "stages": {"scores/round-0": entry}}


@pytest.mark.parametrize(
    ("manifest", "said"),
    [
        ([], "whole"),
        ({"format": 1}, "stages: Field required"),
        ({"format": 1, "stages": []}, "stages"),
        ({"format": 1, "stages": {"data": 3}}, r"stages\.data"),
        (broken(files={"/etc/passwd": "s"}), "names no file inside"),
        (broken(files={"../../x": "s"}), "names no file inside"),
        (broken(files={"a/../../x": "s"}), "names no file inside"),
        (broken(files={"C:/x": "s"}), "names no file inside"),
        (broken(files=["a"]), "files"),
        (broken(files={"a": 3}), "files"),
        (broken(seconds="long"), "seconds"),
        (broken(fingerprint=None), "fingerprint"),
        (broken(inputs={"scores/round-0": "p"}), "made from itself"),
        ({"format": 1, "stages": {}, "begun": {"model": ["../.."]}}, "names no file inside"),
        ({"format": 1, "stages": {"../x": broken()["stages"]["scores/round-0"]}}, "names no file inside"),
        ({"format": 1, "stages": {"data": broken()["stages"]["scores/round-0"]}}, "sets: Field required"),
    ],
)
def test_a_manifest_is_input(tmp_path: Path, manifest: Any, said: str) -> None:
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(InputError, match=said):
        RunFolder(tmp_path)
    for fresh in (False, True):
        with pytest.raises(InputError, match=said), RunFolder(tmp_path, fresh=fresh).lock(outputs()):
            pass


def test_steps_in_a_long_circle_are_refused_and_a_long_chain_is_not(tmp_path: Path) -> None:
    def chain(last: dict[str, str]) -> dict[str, Any]:
        entry = {"fingerprint": "f", "files": {}, "seconds": 1.0}
        steps = {f"x/{i}": entry | {"inputs": {f"x/{i + 1}": "p"} if i < 2999 else last} for i in range(3000)}
        return {"format": 1, "config": {}, "stages": steps}

    (tmp_path / "manifest.json").write_text(json.dumps(chain({})))
    assert not RunFolder(tmp_path).is_current("x/0")  # told without following it to the end of the stack
    (tmp_path / "manifest.json").write_text(json.dumps(chain({"x/7": "p"})))
    with pytest.raises(InputError, match="made from itself"):
        RunFolder(tmp_path)


def test_the_writers_name_is_not_written_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "theirs.txt").write_text("theirs")
    run = tmp_path / "run"
    run.mkdir()
    for name in (".writer", "run.log"):
        (run / name).symlink_to(tmp_path / "theirs.txt")
    bench = bench_of(run)
    with bench.folder.lock(outputs()):
        pass
    assert (tmp_path / "theirs.txt").read_text() == "theirs"


def test_fresh_reads_the_inputs_before_it_removes_anything(tiny_config: dict[str, Any]) -> None:
    tosslm.run(tiny_config, until="references")
    folder = Path(tiny_config["run_dir"])
    before = {path: path.read_bytes() for path in folder.rglob("*.parquet")}
    custom = Path(tiny_config["data"]["custom"]["path"])
    custom.write_text(custom.read_text() + "{not json\n")
    with pytest.raises(InputError, match=r"custom\.jsonl:25"):
        tosslm.run(tiny_config, until="references", fresh=True)
    assert {path: path.read_bytes() for path in folder.rglob("*.parquet")} == before
    assert (folder / "references/utility/adapter_model.safetensors").exists()


@pytest.mark.parametrize("key", ["data.harmful.path", "model.name", "model.adapter"])
def test_a_run_folder_that_holds_an_input_is_refused(tiny_config: dict[str, Any], key: str) -> None:
    rows = Path(tiny_config["run_dir"]) / "in" / "harmful.jsonl"
    rows.parent.mkdir(parents=True)
    Path(tiny_config["data"]["harmful"]["path"]).rename(rows)
    tiny_config["data"]["harmful"]["path"] = str(rows)
    folders = {
        "data.harmful.path": rows.parents[1],
        **{f"model.{k}": tiny_config["model"][k] for k in ("name", "adapter")},
    }
    within = {**tiny_config, "run_dir": str(folders[key])}
    with pytest.raises(InputError, match=rf"^{key}: .* lies in the run folder"):
        tosslm.run(within)
    with pytest.raises(InputError, match=rf"^{key}: .* lies in the run folder"):
        make_plan(load_config(within), measure=False, reporter=SilentReporter())


def test_results_of_another_model_do_not_go_into_a_run(tiny_config: dict[str, Any]) -> None:
    asked = {"safe": {"path": str(DEMO / "data/prompts.jsonl"), "limit": 1}, "max_new_tokens": 1, "losses": False}
    config = load_config({**tiny_config, "evaluation": asked})
    run = tosslm.run(config, until="data")
    before = (run.path / "manifest.json").read_bytes()
    with pytest.raises(InputError, match=r"--out: .* is a run folder of its own"):
        evaluate_external(config, model=config.model.name, adapter=None, folder=run.path, reporter=SilentReporter())
    assert (run.path / "manifest.json").read_bytes() == before


def test_the_home_folder_is_meant_by_its_sign_everywhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    paths = {"custom": ["~/a.jsonl", "b.jsonl"], "harmful": "~/h.jsonl", "utility": "u~.jsonl"}
    config = load_config(
        {
            "run_dir": "~/run",
            "model": {"name": "~/model", "adapter": "~/adapter"},
            "data": {name: {"path": path} for name, path in paths.items()},
            "diagnosis": {"adapters": {"sft": "~/sft"}},
        }
    )
    assert config.run_dir == str(tmp_path / "run")
    assert (config.model.name, config.model.adapter) == (str(tmp_path / "model"), str(tmp_path / "adapter"))
    assert config.data.custom.path == [str(tmp_path / "a.jsonl"), "b.jsonl"]
    assert (config.data.harmful.path, config.data.utility.path) == (str(tmp_path / "h.jsonl"), "u~.jsonl")
    assert config.diagnosis.adapters == {"sft": str(tmp_path / "sft")}
    assert load_config(config.model_dump(), run_dir="~/other").run_dir == str(tmp_path / "other")


def test_work_behind_a_link_is_removed_only_if_a_step_made_it(tmp_path: Path) -> None:
    theirs = tmp_path / "theirs" / "thesis"
    theirs.mkdir(parents=True)
    run = tmp_path / "run"
    done(RunFolder(run), "scores/round-1")
    left = tmp_path / "theirs" / "scores-round-9"
    left.mkdir()
    (left / "fingerprint").write_text("f")
    shutil.rmtree(run / ".work", ignore_errors=True)
    (run / ".work").symlink_to(tmp_path / "theirs")
    folder = RunFolder(run)
    with folder.lock(outputs()):
        folder.forget_work(["scores/round-1"])
    assert theirs.is_dir()
    assert not left.exists()
