"""Several processes train what one would, end together, and go on after a kill: real launchers, on gloo."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

import tosslm
from support import team_harness
from support.benches import SETS
from support.launched import TORCHRUN, accelerate, assert_close, at_checkpoint, children, end, start, write
from tosslm.cli import app
from tosslm.door import check_several
from tosslm.errors import InputError
from tosslm.launcher import refuse_launch
from tosslm.runs.verify import verify
from tosslm.team import Place, assemble, connect, place
from tosslm.training.labels import write_training_rows
from tosslm.training.shares import FILLER, Shares

ROOT = Path(__file__).parents[1]
ENDING = """
import atexit, os, sys
from tosslm import cli, team

class Held:
    def __del__(self, abort=os.abort):
        abort()

sys.held = Held()
atexit.register(print, "handled")
team._current = team.Team(team.Place(1, 2), None) if sys.argv.pop(1) == "several" else None
cli.main()
"""
"""What is left when the interpreter goes aborts, as PyTorch's threads may that still hold a tensor."""


@pytest.mark.parametrize(("arguments", "status"), [(["--help"], 0), (["no-such-command"], 2)])
def test_a_process_of_several_ends_before_its_interpreter_goes(arguments: list[str], status: int) -> None:
    ended = [
        subprocess.run([sys.executable, "-c", ENDING, of, *arguments], capture_output=True, text=True, check=False)
        for of in ("several", "one")
    ]
    assert [process.returncode for process in ended] == [status, -signal.SIGABRT]
    assert ended[0].stdout.endswith("handled\n")
    assert ("Usage" in ended[0].stdout) == (status == 0)


class InOrder:
    """Rows as they stand."""

    def __init__(self, rows: int) -> None:
        self._rows = rows

    def __iter__(self) -> Iterator[int]:
        return iter(range(self._rows))

    def __len__(self) -> int:
        return self._rows

    def set_epoch(self, epoch: int) -> None:
        pass


@given(st.lists(st.integers(2, 90), min_size=1, max_size=40), st.integers(1, 9), st.integers(1, 4))
def test_micro_batches_are_of_like_length_and_stay_in_their_optimizer_batch(
    lengths: list[int], batch: int, micro: int
) -> None:
    passes = list(Shares(InOrder(len(lengths)), batch, micro, Place(0, 1), lengths))
    read = iter([row for micro_batch in passes for row in micro_batch])
    for first in range(0, len(lengths), batch):
        whole = range(first, min(first + batch, len(lengths)))
        assert list(islice(read, len(whole))) == sorted(whole, key=lambda row: (-lengths[row], row))
    assert next(read, None) is None
    assert all(1 <= len(micro_batch) <= micro for micro_batch in passes)


@given(st.integers(1, 40), st.integers(1, 9), st.integers(1, 4), st.integers(1, 5))
def test_shares_are_one_processs_batches_and_meet_at_their_ends(
    rows: int, batch: int, micro: int, count: int
) -> None:
    shares = [Shares(InOrder(rows), batch, micro, Place(rank, count)) for rank in range(count)]
    passes = [list(share) for share in shares]
    assert [len(own) for own in passes] == [len(shares[0])] * count
    assert all(1 <= len(micro_batch) <= micro for own in passes for micro_batch in own)
    at = 0
    for first in range(0, rows, batch):
        expected = list(range(first, min(first + batch, rows)))
        width = -(-len(expected) // count)  # rows of the largest share
        meet = at + -(-width // micro)
        read = [row for own in passes for micro_batch in own[at:meet] for row in micro_batch if row != FILLER]
        assert sorted(read) == expected
        at = meet
    assert at == len(shares[0])


def test_without_a_launcher_a_process_is_alone() -> None:
    assert place({}) == Place(0, 1)
    assert place({}).leads
    assert not place({"RANK": "2", "WORLD_SIZE": "3"}).leads


@pytest.mark.parametrize("said", [{"RANK": "3", "WORLD_SIZE": "3"}, {"RANK": "x"}, {"WORLD_SIZE": "-1"}])
def test_a_launcher_that_makes_no_sense_is_refused(said: dict[str, str]) -> None:
    with pytest.raises(InputError, match="RANK is"):
        place(said)


@pytest.mark.parametrize(
    ("passed_on", "named"),
    [
        ({"ACCELERATE_MIXED_PRECISION": "bf16"}, "mixed_precision"),
        ({"ACCELERATE_USE_DEEPSPEED": "true"}, "use_deepspeed"),
        ({"ACCELERATE_DYNAMO_BACKEND": "INDUCTOR"}, "dynamo_backend of accelerate's config is INDUCTOR"),
        ({"ACCELERATE_USE_MEGATRON_LM": "true"}, "use_megatron_lm"),
        ({"ACCELERATE_USE_PARALLELISM_CONFIG": "true", "PARALLELISM_CONFIG_TP_SIZE": "2"}, "parallelism_config"),
        ({"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "1"}, "fsdp_version"),
        ({"ACCELERATE_USE_FSDP": "true", "FSDP_OFFLOAD_PARAMS": "true"}, "fsdp_offload_params"),
        ({"ACCELERATE_USE_FSDP": "true", "FSDP_AUTO_WRAP_POLICY": "SIZE_BASED_WRAP"}, "fsdp_auto_wrap_policy"),
        ({"ACCELERATE_USE_FSDP": "true", "FSDP_ACTIVATION_CHECKPOINTING": "true"}, "gradient_checkpointing"),
        ({"ACCELERATE_USE_FSDP": "True", "FSDP_ACTIVATION_CHECKPOINTING_OFFLOAD": "true"}, "checkpointing_offload"),
        ({"ACCELERATE_USE_FSDP": "1", "FSDP_FORWARD_PREFETCH": "true"}, "fsdp_forward_prefetch"),
    ],
)
def test_what_accelerates_config_asks_for_in_vain_is_refused(passed_on: dict[str, str], named: str) -> None:
    with pytest.raises(InputError, match=named):
        refuse_launch(passed_on)


ASKING = [
    ["--mixed_precision", "bf16"],
    ["--dynamo_backend", "inductor"],
    ["--use_megatron_lm"],
    ["--use_parallelism_config", "--parallelism_config_tp_size", "2", "--use_fsdp", "--fsdp_version", "2"],
    ["--fsdp_sharding_strategy", "SHARD_GRAD_OP"],
    ["--fsdp_backward_prefetch", "BACKWARD_POST"],
    ["--fsdp_state_dict_type", "FULL_STATE_DICT"],
    ["--fsdp_cpu_ram_efficient_loading", "false"],
]


def passed_on(*arguments: str) -> dict[str, str]:
    """What `accelerate launch` with a config of ours, and more arguments, puts into the environment of a process."""
    from accelerate.commands.launch import _validate_launch_command, launch_command_parser
    from accelerate.utils.launch import prepare_multi_gpu_env

    config = ["--config_file", str(ROOT / "configs/accelerate/fsdp2.yaml"), "--main_process_port", "0"]
    parsed = launch_command_parser().parse_args([*config, *arguments, "-m", "tosslm"])
    return prepare_multi_gpu_env(_validate_launch_command(parsed)[0])


@pytest.mark.parametrize("arguments", ASKING[4:], ids=lambda arguments: arguments[0])
def test_keys_of_fsdp_that_are_without_effect_are_let_through(arguments: list[str]) -> None:
    """docs/scaling.md names them; FSDP2 of accelerate does not heed them either, or they are of what it saves."""
    said = passed_on(*arguments)
    assert said[arguments[0].removeprefix("--").upper()] == arguments[1]
    refuse_launch(said)


@pytest.mark.parametrize("arguments", ASKING[:4], ids=lambda arguments: arguments[0])
def test_what_accelerate_launch_itself_passes_on_is_refused(arguments: list[str]) -> None:
    refuse_launch(passed_on())
    with pytest.raises(InputError, match=f"{arguments[0].removeprefix('--use_').removeprefix('--')} of accelerate"):
        refuse_launch(passed_on(*arguments))


def test_trainings_do_not_leave_the_device_of_the_config() -> None:
    """`accelerate launch --cpu` would have the trainer put the base elsewhere than where it scores."""
    refuse_launch({"ACCELERATE_USE_CPU": "True"}, cpu=True)
    refuse_launch({"ACCELERATE_USE_CPU": "False"}, cpu=False)
    with pytest.raises(InputError, match=r"use_cpu of accelerate's config: .* set model\.device: cpu"):
        refuse_launch({"ACCELERATE_USE_CPU": "True"}, cpu=False)


def test_several_processes_do_not_share_the_gpu_that_a_config_names(
    monkeypatch: pytest.MonkeyPatch, tiny_config: dict[str, Any]
) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    on_one = tiny_config | {"model": tiny_config["model"] | {"device": "cuda:0"}}
    with pytest.raises(InputError, match=r"model\.device: cuda:0 would put 2 processes .* set model\.device: cuda,"):
        tosslm.run(on_one)
    assert not Path(tiny_config["run_dir"]).exists()
    for device in ("cuda", "cpu", "auto", "cpu:0"):
        check_several("run", device)
    monkeypatch.setenv("WORLD_SIZE", "1")
    monkeypatch.setenv("RANK", "0")
    check_several("run", "cuda:0")


@pytest.mark.parametrize("command", ["run", "compare"])
def test_a_launcher_of_one_process_is_heeded_too(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, command: str
) -> None:
    """transformers would read it, and train in another dtype than the config and the manifest say."""
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"prompt": "Hi", "completion": "Hello."}\n', encoding="utf-8")
    data = {name: {"path": str(rows)} for name in SETS}
    config = {"run_dir": str(tmp_path / "run"), "data": data, "evaluation": {"harmful": {"path": str(rows)}}}
    path = tmp_path / "toss.yaml"
    path.write_text(json.dumps(config), encoding="utf-8")
    ended = CliRunner().invoke(app, [command, str(path)])
    assert ended.exit_code == 2
    assert "mixed_precision of accelerate's config" in ended.output
    assert not (tmp_path / "run").exists()


def test_a_base_for_one_process_is_whole_whatever_a_launcher_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("FSDP_VERSION", "2")
    assert assemble(cpu=True) is None
    assert os.environ["ACCELERATE_USE_FSDP"] == "false"


def test_processes_without_a_common_store_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("TORCHELASTIC_USE_AGENT_STORE", raising=False)
    with pytest.raises(InputError, match="accelerate launch"):
        connect()


def test_a_command_of_one_process_refuses_a_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    result = CliRunner().invoke(app, ["compare", "toss.yaml", "--methods", "sft"])
    assert result.exit_code == 2
    assert "works in one process, and 2 were started" in result.output


def test_a_method_with_a_hook_is_refused_by_name(
    monkeypatch: pytest.MonkeyPatch, tiny_config: dict[str, Any]
) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match="method: sft-averaged does something around each training step"):
        tosslm.run(tiny_config | {"method": "sft-averaged", "refinement": {"rounds": 0}})
    assert not Path(tiny_config["run_dir"]).exists()


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, tiny_model_folder: Path) -> Path:
    folder = tmp_path_factory.mktemp("alone")
    write_training_rows(folder / "rows.arrow", team_harness.uneven_rows(), anchored=True, weighed=True)
    team_harness.main(str(tiny_model_folder), folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, pytest.param(3, marks=pytest.mark.long)])
def test_several_processes_train_what_one_does(
    count: int, alone: Path, tiny_model_folder: Path, tmp_path: Path
) -> None:
    """20 steps on uneven rows with dropped and anchored tokens; batches of 4, and one of 1 in each epoch."""
    (tmp_path / "rows.arrow").write_bytes((alone / "rows.arrow").read_bytes())
    status, _, err = end(
        start(*TORCHRUN, str(count), "-m", "support.team_harness", str(tiny_model_folder), str(tmp_path))
    )
    assert status == 0, err
    for name in team_harness.RECIPES:
        assert_close(tmp_path / name, alone / name)
        np.testing.assert_allclose(np.loadtxt(tmp_path / f"{name}.txt"), np.loadtxt(alone / f"{name}.txt"), atol=1e-4)


@pytest.mark.long
@pytest.mark.slow
def test_a_run_that_accelerate_launches_and_one_that_was_stopped_and_killed(tiny_config: dict[str, Any]) -> None:
    """A whole run of two processes is that of one; interrupted and then killed it goes on, to the same bytes."""
    config = tiny_config | {"finetune": tiny_config["finetune"] | {"dropped": "anchor"}}
    whole, broken = write(config, "whole"), write(config, "broken")
    alone = tosslm.run(config, until="diagnose")
    status, out, err = end(
        start(*accelerate("ddp"), "--num_processes", "2", "-m", "tosslm", "diagnose", str(whole), "--json")
    )
    assert status == 0, err
    assert err.count("model: 12/12") == 1
    assert len(json.loads(out)) > 0
    run = tosslm.load_run(whole.with_suffix(""))
    assert run.manifest["machine"]["processes"] == 2
    assert alone.manifest["machine"]["processes"] == 1
    assert verify(run)[1] == []
    assert_close(run.path / "references/utility", alone.path / "references/utility")
    assert {run.stages[name]["processes"] for name in ("references/degraded/round-1", "model")} == {2}
    for name in ("data", "references/utility"):
        assert run.stages[name]["fingerprint"] == alone.stages[name]["fingerprint"]

    command = [*TORCHRUN, "2", "-m", "tosslm", "diagnose", str(broken)]
    first = start(*command)
    at_checkpoint(first, broken, "references-utility")
    for pid in children(first):
        os.kill(pid, signal.SIGINT)
    status, _, err = end(first)
    assert status == 1
    assert err.count("toss: ") == err.count("toss: interrupted") == 1
    second = start(*command)
    at_checkpoint(second, broken, "model")
    for pid in (*children(second), second.pid):
        os.kill(pid, signal.SIGKILL)
    end(second)
    assert "model" not in tosslm.load_run(broken.with_suffix("")).stages
    status, _, err = end(start(*command))
    assert status == 0, err
    resumed = tosslm.load_run(broken.with_suffix(""))
    for name, stage in run.stages.items():
        assert resumed.stages[name]["files"] == stage["files"], name


@pytest.mark.long
@pytest.mark.slow
def test_an_error_of_all_or_of_one_process_ends_all_and_is_told_once(tiny_config: dict[str, Any]) -> None:
    references = tiny_config["references"] | {"learning_rate": 1e20}
    good = write(tiny_config | {"references": references}, "good")
    command = [*TORCHRUN, "2", "-m", "tosslm", "references", str(good)]
    status, _, err = end(start(*command))
    assert status == 1
    assert err.count("toss: ") == 1
    assert "lower the learning_rate" in err
    only = f'[ "$RANK" = 1 ] && f=gone.yaml || f={good}; exec {sys.executable} -m tosslm references "$f"'
    status, _, err = end(start(*TORCHRUN, "2", "--no-python", "bash", "-c", only))
    assert status == 1
    assert err.count("toss: ") == 1
    assert "gone.yaml" in err
