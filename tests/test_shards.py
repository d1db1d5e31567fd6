"""Several processes score one run: in any order, killed, twice or late, and no byte is another."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

import tosslm
from support.prepared import Prepared, prepare
from tosslm.cli import app
from tosslm.files import read_batches, write_parquet
from tosslm.runs.layout import Layout
from tosslm.runs.staged import at_work
from tosslm.runs.tables import SCORE_SCHEMA
from tosslm.runs.verify import verify
from tosslm.shares import score_shard
from tosslm.stages.shard import Shard, parse_shard

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("text", ["0/1", "2/8", "7/8"])
def test_a_share_named_by_hand(text: str) -> None:
    assert str(parse_shard(text, {"RANK": "5", "WORLD_SIZE": "6"})) == text


@pytest.mark.parametrize("text", ["8/8", "0/0", "-1/8", "1/", "1/8/2", "one/two", "", "1.0/2", "²/8"])
def test_what_is_no_share_is_refused(text: str) -> None:
    with pytest.raises(tosslm.InputError, match=r"^--shard .*from 0 to N-1"):
        parse_shard(text, {})


def array(task: int, first: int, count: int, step: int = 1) -> dict[str, str]:
    values = {"ID": task, "MIN": first, "COUNT": count, "STEP": step}
    return {f"SLURM_ARRAY_TASK_{name}": str(value) for name, value in values.items()}


TORCHRUN = {"RANK": "3", "WORLD_SIZE": "8"}
ALONE = {"SLURM_PROCID": "0", "SLURM_NTASKS": "1"}


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        (TORCHRUN, "3/8"),
        (array(0, 0, 8), "0/8"),
        (array(5, 1, 8), "4/8"),
        (array(15, 1, 8, step=2), "7/8"),
        ({"SLURM_PROCID": "2", "SLURM_NTASKS": "4"}, "2/4"),
        ({"SLURM_NTASKS": "4"} | TORCHRUN, "3/8"),  # a batch script that asked for tasks and started none
        ({"SLURM_PROCID": "0"} | array(5, 0, 8), "5/8"),  # what a job of an array sees that asked for no tasks
        (ALONE | TORCHRUN, "3/8"),  # one torchrun a node
        (ALONE | array(5, 0, 8), "5/8"),  # each task of an array is a job of one process
        (TORCHRUN | {"SLURM_PROCID": "3", "SLURM_NTASKS": "8"}, "3/8"),
        (ALONE, "0/1"),
    ],
)
def test_auto_is_what_torchrun_and_slurm_say(environment: dict[str, str], expected: str) -> None:
    assert str(parse_shard("auto", environment)) == expected


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({}, "neither torchrun"),
        ({"RANK": "3"}, "WORLD_SIZE is ''"),
        ({"RANK": "x", "WORLD_SIZE": "8"}, "RANK is 'x'"),
        ({"RANK": "8", "WORLD_SIZE": "8"}, "shard 8 of 8"),
        (TORCHRUN | array(5, 0, 8), r"RANK/WORLD_SIZE \(3/8\) and SLURM_ARRAY_TASK_ID \(5/8\) disagree"),
        (array(5, 0, 8) | {"SLURM_PROCID": "1", "SLURM_NTASKS": "4"}, "disagree"),
        (array(9, 1, 3), "gaps"),
        (array(4, 1, 4, step=2), "gaps"),
        ({"SLURM_ARRAY_TASK_ID": "4"}, "SLURM_ARRAY_TASK_MIN is ''"),
        ({"SLURM_PROCID": "0"}, "nor Slurm"),  # a job of its own
    ],
)
def test_auto_is_refused_where_nothing_is_said_or_two_things(environment: dict[str, str], said: str) -> None:
    with pytest.raises(tosslm.InputError, match=f"--shard auto: .*{said}.*I"):
        parse_shard("auto", environment)


@pytest.mark.parametrize("count", [1, 3, 8, 40])
def test_every_file_has_exactly_one_shard(count: int) -> None:
    shards = [Shard(index, count) for index in range(count)]
    assert all(sum(shard.has(number) for shard in shards) == 1 for number in range(50))


def test_lists_that_are_not_wanted_come_empty(tmp_path: Path) -> None:
    rows: dict[str, Any] = {"row_id": [str(i) for i in range(5)]}
    rows |= {name: [[]] * 5 for name in SCORE_SCHEMA.names[1:]}
    write_parquet(tmp_path / "some.parquet", rows, SCORE_SCHEMA, "x")
    batches = read_batches(tmp_path / "some.parquet", ["row_id"], 2, wanted={1})
    assert list(batches) == [[], [{"row_id": "2"}, {"row_id": "3"}], []]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory, tiny_model_folder: Path) -> Prepared:
    return prepare(tmp_path_factory.mktemp("shards"), tiny_model_folder)


@pytest.fixture
def config(prepared: Prepared, tmp_path: Path) -> dict[str, Any]:
    """The same, in a folder of the test's own."""
    shutil.copytree(prepared[0]["run_dir"], tmp_path / "run")
    return {**prepared[0], "run_dir": str(tmp_path / "run")}


@pytest.mark.parametrize(
    ("variable", "said", "named"),
    [
        ("ACCELERATE_USE_FSDP", "true", "each share holds its model whole, and use_fsdp"),
        ("ACCELERATE_MIXED_PRECISION", "fp16", "mixed_precision of accelerate's config is fp16"),
        ("ACCELERATE_DYNAMO_BACKEND", "INDUCTOR", "dynamo_backend of accelerate's config is INDUCTOR"),
    ],
)
def test_what_a_launcher_asks_of_a_share_in_vain_is_refused(
    config: dict[str, Any], monkeypatch: pytest.MonkeyPatch, variable: str, said: str, named: str
) -> None:
    monkeypatch.setenv(variable, said)
    with pytest.raises(tosslm.InputError, match=named):
        score_shard(config, Shard(0, 2))
    assert not list(Layout(Path(config["run_dir"])).shards.rglob("*.parquet"))


def names(folder: Path) -> set[str]:
    return {file.name for file in folder.rglob("*.parquet") if not file.name.startswith(".")}


def toss(config: dict[str, Any], *arguments: str) -> Result:
    path = Path(config["run_dir"]).with_name("toss.json")
    path.write_text(json.dumps(config))
    return CliRunner().invoke(app, ["score", str(path), *arguments])


@pytest.mark.long
def test_eight_shards_killed_and_doubled_against_one_process(prepared: Prepared, config: dict[str, Any]) -> None:
    command = [sys.executable, str(ROOT / "tests/support/shard_harness.py"), json.dumps(config), "1"]
    environment = os.environ | {"TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT / "tests"), *sys.path])
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, env=environment, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout)["kills"] >= 3
    half_written = list(Layout(Path(config["run_dir"])).shards.rglob(".unfinished-*"))
    assert half_written
    run = tosslm.run(config, until="score")
    entry = run.stages["scores/round-0"]
    assert entry["files"] == prepared[1]
    assert 20 <= entry["parts_reused"] <= 24
    assert verify(run) == (len([f for stage in run.stages.values() for f in stage["files"]]), [])
    assert [left.name for left in run.layout.shards.iterdir()] == [".lock"]


@pytest.mark.long
def test_processes_that_torchrun_starts(prepared: Prepared, config: dict[str, Any]) -> None:
    path = Path(config["run_dir"]).with_name("toss.json")
    path.write_text(json.dumps(config))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["-m", "tosslm", "score", str(path), "--shard", "auto"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    layout = Layout(Path(config["run_dir"]))
    assert names(layout.shards) == {Path(name).name for name in prepared[1]}
    assert "13 of 13 files written" in layout.shard_log(0, 2).read_text()
    assert "12 of 12 files written" in layout.shard_log(1, 2).read_text()
    result = toss(config, "--json")
    assert result.exit_code == 0, result.output
    entry = tosslm.load_run(config["run_dir"]).stages["scores/round-0"]
    assert entry["files"] == prepared[1]
    assert entry["tokens"] == 0  # that the gathering process read itself


def test_a_shard_records_nothing_and_is_private(config: dict[str, Any]) -> None:
    layout = Layout(Path(config["run_dir"]))
    manifest = layout.manifest.read_bytes()
    before = os.umask(0o022)
    try:
        facts = score_shard(config, Shard(1, 8))
    finally:
        os.umask(before)
    assert (facts["step"], facts["shard"], facts["files"], facts["written"]) == ("scores/round-0", "1/8", 3, 3)
    assert layout.manifest.read_bytes() == manifest
    assert not layout.of("scores").exists()
    assert names(layout.shards) == {"part-00001.parquet", "part-00009.parquet", "part-00017.parquet"}
    written = [layout.shards, *layout.shards.rglob("*"), layout.shard_log(1, 8)]
    assert not [path for path in written if stat.S_IMODE(path.stat().st_mode) & 0o077]
    assert verify(tosslm.load_run(config["run_dir"]))[1] == []
    assert score_shard(config, Shard(1, 8))["written"] == 0


def test_a_shard_after_the_gathering_does_nothing(prepared: Prepared, config: dict[str, Any]) -> None:
    layout = Layout(Path(config["run_dir"]))
    score_shard(config, Shard(0, 2))
    with at_work(layout):  # one that is late: what it is about to write is not taken away from it
        tosslm.run(config, until="score")
        [half_written] = [file.with_name(".unfinished-1") for file in layout.shards.rglob("part-00000.parquet")]
        half_written.write_bytes(b"PAR1")
    manifest = layout.manifest.read_bytes()
    result = toss(config, "--shard", "0/2", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout) == {"step": None, "shard": "0/2", "files": 0, "written": 0, "tokens": 0}
    assert "scores/round-0: done before; shard 0/2 has nothing to do" in result.stderr
    assert layout.manifest.read_bytes() == manifest
    assert tosslm.load_run(config["run_dir"]).stages["scores/round-0"]["files"] == prepared[1]
    assert not half_written.exists()


@pytest.mark.long
def test_only_whole_files_of_the_very_step_are_taken(prepared: Prepared, config: dict[str, Any]) -> None:
    layout = Layout(Path(config["run_dir"]))
    score_shard(config, Shard(0, 1))
    [first] = layout.shards.rglob("part-00000.parquet")
    cut, foreign, begun = (first.with_name(f"part-0000{number}.parquet") for number in (0, 1, 2))
    cut.write_bytes(cut.read_bytes()[:-50])
    [rows] = read_batches(foreign)
    write_parquet(foreign, {name: [row[name] for row in rows] for name in SCORE_SCHEMA.names}, SCORE_SCHEMA, "else")
    begun.rename(begun.with_name(f".unfinished-0123-{begun.name}"))
    entry = tosslm.run(config, until="score").stages["scores/round-0"]
    assert entry["files"] == prepared[1]
    assert entry["parts_reused"] == 21


def test_what_is_not_prepared_is_not_trained_by_a_shard(config: dict[str, Any], tmp_path: Path) -> None:
    nowhere = {**config, "run_dir": str(tmp_path / "new")}
    result = toss(nowhere, "--shard", "0/8")
    assert result.exit_code == 2
    assert "data is not there yet" in result.stderr
    assert "toss run CONFIG --until references" in result.stderr
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ({"references": {"learning_rate": 0.02}}, "references/utility was made with another config"),
        ({"data": {"max_length": 64}}, "data was made with another config"),
        ({"scoring": {"rows_per_part": 5}}, "scoring.rows_per_part is 5 here and 1 there"),
    ],
)
def test_another_config_than_the_runs_is_refused(
    config: dict[str, Any], section: dict[str, dict[str, Any]], said: str
) -> None:
    other = {**config, **{name: config[name] | values for name, values in section.items()}}
    result = toss(other, "--shard", "0/8")
    assert result.exit_code == 2
    assert said in " ".join(result.stderr.split())
    assert not Layout(Path(config["run_dir"])).shards.exists()


def test_a_changed_reference_is_refused(config: dict[str, Any]) -> None:
    weights = Path(config["run_dir"]) / "references/utility/adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + b"else")
    with pytest.raises(tosslm.InputError, match=r"references/utility is damaged \(.*adapter_model"):
        score_shard(config, Shard(0, 8))


def test_a_method_without_scores_has_nothing_to_share(config: dict[str, Any]) -> None:
    with pytest.raises(tosslm.InputError, match="needs no scores"):
        score_shard({**config, "method": "sft"}, Shard(0, 8))


@pytest.mark.long
def test_rounds_are_shared_each_when_its_reference_is_there(config: dict[str, Any], tmp_path: Path) -> None:
    config |= {"refinement": {"rounds": 1, "samples_per_round": 3}}
    alone = {**config, "run_dir": str(tmp_path / "alone")}
    shutil.copytree(config["run_dir"], alone["run_dir"])
    expected = tosslm.run(alone, until="refine").stages
    tosslm.run(config, until="score")
    assert score_shard(config, Shard(0, 2))["step"] is None
    waiting = toss(config, "--shard", "0/2")
    assert waiting.exit_code == 0
    assert "toss run --until references/degraded/round-1" in " ".join(waiting.stderr.split())
    tosslm.run(config, until="references/degraded/round-1")
    assert [score_shard(config, Shard(index, 2))["step"] for index in (1, 0)] == ["scores/round-1"] * 2
    stages = tosslm.run(config, until="refine").stages
    assert stages["scores/round-1"]["tokens"] == 0
    assert {name: stages[name]["files"] for name in expected} == {n: e["files"] for n, e in expected.items()}


def test_starting_over_removes_what_shards_left(config: dict[str, Any]) -> None:
    score_shard(config, Shard(0, 8))
    layout = Layout(Path(config["run_dir"]))
    tosslm.run(config, until="data", fresh=True)
    assert not names(layout.shards)


def test_processes_of_one_machine_do_not_all_take_its_first_gpu(
    config: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rehearsal: the GPUs are made up."""
    monkeypatch.setenv("LOCAL_RANK", "3")
    monkeypatch.setattr("torch.cuda.device_count", lambda: 8)
    config |= {"model": config["model"] | {"device": "auto"}}
    with pytest.raises(tosslm.InputError, match=r"process 3 .* 8 GPUs .*CUDA_VISIBLE_DEVICES=\$LOCAL_RANK"):
        score_shard(config, Shard(3, 8))
