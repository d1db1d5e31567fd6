"""Scoring by an inference server: one that is right gives the scores of one process; one that is not is refused."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tosslm
from support.launched import TORCHRUN, end, start, write
from support.prepared import Prepared, prepare
from support.ray_cluster import bearers
from tosslm.compare import compare
from tosslm.config import load_config
from tosslm.errors import InputError, TosslmError
from tosslm.findings.served import served_warnings
from tosslm.model.served import read_losses
from tosslm.model.server import Serving, running
from tosslm.plan import make_plan
from tosslm.progress import SilentReporter
from tosslm.runs.verify import verify
from tosslm.selection.agreement import Bounds, compare_losses
from tosslm.shares import score_shard
from tosslm.stages.reading import sample_rows
from tosslm.stages.shard import Shard

ROUND = "scores/round-0"
SERVER = [sys.executable, str(Path(__file__).parent / "support" / "inference_server.py")]
SETS = {name: {"path": f"{name}.jsonl"} for name in ("custom", "harmful", "utility")}

# --- the check, on numbers -----------------------------------------------------------------------------


def rows(*values: Sequence[float]) -> list[np.ndarray]:
    return [np.array(row, dtype=np.float32) for row in values]


def test_how_near_two_ways_to_score_come_worked_out_by_hand() -> None:
    """Scores 3, 2, 1, 0 against 3, 1, 2, 0: of the two tokens that are dropped, one is another."""
    own = {"utility": rows([3, 2], [1, 0]), "degraded": rows([0, 0], [0, 0])}
    other = {"utility": rows([3, 2], [1, 0]), "degraded": rows([0, 1], [-1, 0])}
    found = compare_losses(own, other, 0.5)
    assert (found.rows, found.tokens, found.dropped, found.moved) == (2, 4, 2, 1)
    assert found.largest_difference == 1
    assert found.mean_difference == 0.25  # two of eight losses, one nat each
    assert found.mask_change == 0.5


def test_a_loss_that_both_references_share_moves_no_token() -> None:
    """So a difference of losses says little of the mask, and has a bound of its own."""
    own = {"utility": rows([3, 2, 1, 0]), "degraded": rows([1, 1, 1, 1])}
    other = {"utility": rows([5, 4, 3, 2]), "degraded": rows([3, 3, 3, 3])}
    found = compare_losses(own, other, 0.25)
    assert (found.largest_difference, found.mean_difference, found.mask_change) == (2, 2, 0)
    assert Bounds(2, 2, 0).exceeded(found) == []
    assert Bounds(1.5, 2, 0).exceeded(found) == ["largest_difference of 1.5"]


def test_other_tokens_cannot_be_compared() -> None:
    own = {"utility": rows([1, 2]), "degraded": rows([1, 2])}
    with pytest.raises(ValueError, match="do not have the same tokens"):
        compare_losses(own, own | {"degraded": rows([1])}, 0.1)


def test_rows_are_drawn_by_seed_and_id_whatever_their_order() -> None:
    ids = [f"row-{number}" for number in range(1000)]
    drawn = sample_rows(ids, 7, 256)
    assert len(drawn) == 256
    assert all(ids[number] == row_id for row_id, number in drawn.items())
    assert set(sample_rows(ids[::-1], 7, 256)) == set(drawn)
    assert set(sample_rows(ids, 8, 256)) != set(drawn)
    assert len(sample_rows(ids[:10], 7, 256)) == 10


# --- what a server answers -----------------------------------------------------------------------------


def test_losses_are_read_at_response_tokens() -> None:
    reply = {"choices": [{"prompt_logprobs": [None, {"5": {"logprob": -1.5}}, {"9": {"logprob": -0.25}}]}]}
    assert read_losses(reply, [3, 5, 9], np.array([2]), "r").tolist() == [0.25]
    assert read_losses(reply, [3, 5, 9], np.array([1, 2]), "r").tolist() == [1.5, 0.25]


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ([None, {"7": {"logprob": -1.0}}], "no log-probability of each token"),  # of another token
        ([None], "1 tokens for 2"),
        (None, "no log-probability of each token"),
        ([None, {"5": {"logprob": -9999.0}}], "position 1: the log-probability is -9999"),
        ([None, {"5": {"logprob": float("nan")}}], "position 1: the log-probability is nan"),
    ],
)
def test_an_answer_that_is_none_is_refused(told: Any, said: str) -> None:
    with pytest.raises(TosslmError, match=said):
        read_losses({"choices": [{"prompt_logprobs": told}]}, [3, 5], np.array([1]), "r")


# --- at the door ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scoring", "said"),
    [
        ({"server": {"in_flight": 3}}, "server.in_flight is for engine: vllm, and engine is local"),
        ({"engine": "ray", "server": {"arguments": ["-x"]}}, "server.arguments is for engine: vllm"),
        ({"engine": "vllm", "workers": 2}, "workers is for engine: ray, and engine is vllm"),
        ({"engine": "vllm", "server": {"check_rows": 16}}, "check_rows"),
        ({"engine": "vllm", "server": {"arguments": ["--host=0.0.0.0"]}}, "listens to the run alone"),
        ({"engine": "vllm", "server": {"arguments": ["--max-model-len", "4096"]}}, "set data.max_length"),
        ({"engine": "vllm", "server": {"arguments": ["--max_lora_rank=64"]}}, r"references\.lora\.r"),
        ({"engine": "vllm", "server": {"arguments": ["--hf-token=a-secret"]}}, "the server reads HF_TOKEN"),
        ({"engine": "vllm", "server": {"arguments": ["--grpc_port", "1"]}}, "let others reach the degraded"),
        ({"engine": "vllm", "server": {"mask_change": -1}}, "choose a number from 0, or auto"),
    ],
)
def test_what_a_server_would_not_heed_is_refused(scoring: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said) as caught:
        load_config({"data": SETS, "scoring": scoring})
    assert "a-secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"data": SETS | {"utility": {"from": "custom"}}}, "serves one utility reference"),
        ({"model": {"quantize": "nf4"}}, "serves the whole weights"),
    ],
)
def test_references_that_a_server_cannot_serve_are_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        load_config({"data": SETS, "scoring": {"engine": "vllm"}} | changes)


def test_scores_of_a_server_are_others_and_those_of_before_stay_what_they_were() -> None:
    local, vllm = (load_config({"data": SETS, "scoring": {"engine": e}}).scoring for e in ("local", "vllm"))
    assert local.covered() == {"batch_tokens": 16384, "rows_per_part": 1024, "engine": "local"}
    assert vllm.covered() == local.covered() | {"engine": "vllm"}


def test_a_reader_is_told_whose_scores_they_are() -> None:
    local, vllm = (load_config({"data": SETS, "scoring": {"engine": e}}) for e in ("local", "vllm"))
    facts = {
        **{"version": "1", "rows": 256, "tokens": 9000, "dropped": 900, "moved": 9, "mask_change": 0.01},
        **{"largest_difference": 0.00042, "mean_difference": 1e-5},
    }
    assert served_warnings(local, {ROUND: {}}) == []
    [told] = served_warnings(vllm, {ROUND: {"server": facts}})
    assert "On 256 custom rows (9,000 response tokens)" in told
    assert "by 0.00042 nats at most and 1e-05 on average, and 9 of 900 tokens dropped (1.0%) would be others" in told
    [told] = served_warnings(vllm, {ROUND: {}})
    assert "stands in run.log, and in the shards' logs" in told


# --- a server that runs --------------------------------------------------------------------------------


@pytest.fixture
def marked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A variable that only processes started by this test bear."""
    name = f"TOSSLM_TEST_{os.getpid()}_{time.monotonic_ns()}"
    monkeypatch.setenv(name, "1")
    return name


def gone(name: str, seconds: float = 30) -> bool:
    end = time.monotonic() + seconds
    while bearers(name) and time.monotonic() < end:
        time.sleep(0.1)
    return not bearers(name)


def hanging(folder: Path, seconds: float = 600) -> Serving:
    """A server that has a child, and never listens."""
    told = ["serve", str(folder), "--fault", "hangs", "--dtype", "float32", "--max-model-len", "9"]
    return Serving(SERVER, [*told, "--lora-modules", "{}"], folder / "server.log", seconds)


@pytest.mark.slow
def test_a_server_that_never_starts_is_ended_with_its_children(tmp_path: Path, marked: str) -> None:
    with (
        pytest.raises(TosslmError, match=r"was not ready after 3 seconds .* the end of .*server\.log: hanging"),
        running(hanging(tmp_path, 3), lambda: None),
    ):
        pytest.fail("it is not ready")
    assert gone(marked)
    assert (tmp_path / "server.log").stat().st_mode & 0o077 == 0


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_no_server_outlives_the_process_that_started_it(tmp_path: Path, marked: str, number: int) -> None:
    log = tmp_path / "server.log"
    code = (
        "from pathlib import Path\nfrom tosslm.model.server import Serving, running\n"
        f"what = Serving({SERVER!r}, {list(hanging(tmp_path).arguments)!r}, Path({str(log)!r}), 600)\n"
        "with running(what, lambda: None): pass\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL) as started:
        end = time.monotonic() + 120
        while not (log.exists() and "hanging" in log.read_text()) and time.monotonic() < end:
            time.sleep(0.1)
        assert len(bearers(marked)) >= 4  # it, the keeper, the server and the server's child
        started.send_signal(number)
    assert gone(marked)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory, tiny_model_folder: Path) -> Prepared:
    return prepare(tmp_path_factory.mktemp("serving"), tiny_model_folder)


@pytest.fixture
def config(prepared: Prepared, tmp_path: Path) -> dict[str, Any]:
    """The run that waits for its scores, in a folder of the test's own, with a server that is right."""
    return served(prepared, tmp_path / "run", "none")


def served(prepared: Prepared, folder: Path, fault: str) -> dict[str, Any]:
    shutil.copytree(prepared[0]["run_dir"], folder)
    server = {"command": SERVER, "arguments": ["--fault", fault], "in_flight": 4}
    return {
        **prepared[0],
        "run_dir": str(folder),
        "scoring": {**prepared[0]["scoring"], "engine": "vllm", "server": server},
    }


def alone(prepared: Prepared) -> tosslm.Run:
    return tosslm.load_run(Path(prepared[0]["run_dir"]).with_name("alone"))


@pytest.mark.long
def test_a_server_that_is_right_gives_the_scores_of_one_process(
    prepared: Prepared, tmp_path: Path, marked: str
) -> None:
    """One request fails on the way, and is made again."""
    config = served(prepared, tmp_path / "run", "stumbles")
    run = tosslm.run(config, until="select")
    for ours, theirs in zip(alone(prepared).scores(), run.scores(), strict=True):
        np.testing.assert_allclose(theirs, ours, atol=1e-5)
    facts = run.stages[ROUND]["server"]
    assert (facts["version"], facts["rows"], facts["moved"], facts["mask_change"]) == ("of-a-test", 24, 0, 0)
    assert facts["largest_difference"] < 1e-5
    assert facts["tokens"] == sum(map(len, run.scores()))
    assert any("inference server, version of-a-test" in told for told in run.manifest["warnings"])
    assert "On 24 custom rows" in run.layout.log.read_text()
    assert "There are no more rows." in run.layout.log.read_text()
    assert gone(marked)
    assert verify(run)[1] == []
    local = tosslm.run({**prepared[0], "run_dir": str(shutil.copytree(alone(prepared).path, tmp_path / "local"))})
    for ours, theirs in zip(local.keep(), run.keep(), strict=True):
        np.testing.assert_array_equal(theirs, ours)
    # Done: nobody looks for a server that is not there any more.
    config["scoring"]["server"]["command"] = ["no-such-server"]
    assert tosslm.run(config, until="select").stages == run.stages


@pytest.mark.long
@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (
            "ignores",
            r"not to be trusted\. On 24 custom rows .* largest_difference of 0\.001 .* set scoring\.engine: local",
        ),
        ("swaps", r"not to be trusted\. .* mask_change of 0\.01"),
        ("shifts", r"not to be trusted\. .* mean_difference of 0\.0001"),
        ("breaks", r"ended with status 4; the end of .*logs/server\.log: this machine has no accelerator"),
        ("dies", r"ended with status 3; the end of .*server\.log: .*out of luck"),
    ],
)
def test_a_server_that_is_not_is_refused(
    prepared: Prepared, tmp_path: Path, marked: str, fault: str, said: str
) -> None:
    config = served(prepared, tmp_path / "run", fault)
    with pytest.raises(TosslmError, match=said):
        tosslm.run(config, until="score")
    assert gone(marked)
    run = tosslm.load_run(config["run_dir"])
    assert ROUND not in run.stages
    assert bool(list(run.layout.of(ROUND).glob("part-*"))) == (fault == "dies")  # what it gave before it died


@pytest.mark.long
def test_a_proxy_rounds_a_merged_adapter_and_shards(
    prepared: Prepared, tmp_path: Path, tiny_adapter_folder: Path, marked: str
) -> None:
    """All at once: what is served is the proxy, with its adapter merged, and one round is shared by hand."""
    model = prepared[0]["model"]["name"]
    config = {
        **prepared[0],
        "references": {**prepared[0]["references"], "model": model, "adapter": str(tiny_adapter_folder)},
        "refinement": {"rounds": 1, "samples_per_round": 3},
        "scoring": {**prepared[0]["scoring"], "rows_per_part": 9},
    }
    local = tosslm.run({**config, "run_dir": str(tmp_path / "local")}, until="refine")
    server = {"command": SERVER}
    config |= {"run_dir": str(tmp_path / "run"), "scoring": {**config["scoring"], "engine": "vllm", "server": server}}
    tosslm.run(config, until="references")
    assert score_shard(config, Shard(0, 2))["written"] == 2
    run = tosslm.run(config, until="refine")
    assert run.stages[ROUND]["parts_reused"] == 2
    for round_ in (0, 1):
        for ours, theirs in zip(local.scores(round_), run.scores(round_), strict=True):
            np.testing.assert_allclose(theirs, ours, atol=1e-5)
    assert sorted(path.name for path in run.layout.tracker_logs.iterdir()) == [
        "server-0-of-2.log",
        "server.log",
        "shard-0-of-2.log",
    ]
    assert list(run.path.rglob("base-*")) == []
    assert gone(marked)


def test_a_command_that_is_not_there_is_said_before_anything_is_done(prepared: Prepared, tmp_path: Path) -> None:
    server = {"command": ["no-such-server"]}
    config = {**prepared[0], "run_dir": str(tmp_path / "new"), "scoring": {"engine": "vllm", "server": server}}
    with pytest.raises(InputError, match=r"scoring\.server\.command: no-such-server is not found"):
        tosslm.run(config)
    assert not (tmp_path / "new").exists()
    with pytest.raises(InputError, match=r"scoring\.server\.command: no-such-server is not found"):
        make_plan(load_config(config), measure=False, reporter=SilentReporter())


@pytest.mark.long
@pytest.mark.slow
def test_a_launcher_of_several_is_refused_before_references_are_trained(
    prepared: Prepared, tmp_path: Path, marked: str
) -> None:
    scoring = {**prepared[0]["scoring"], "engine": "vllm", "server": {"command": SERVER}}
    config = write({**prepared[0], "run_dir": str(tmp_path / "run"), "scoring": scoring}, "new")
    status, _, err = end(start(*TORCHRUN, "2", "-m", "tosslm", "run", str(config)))
    assert (status, err.count("toss: ")) == (1, 1)
    assert "not from within a launcher's processes" in err
    assert not list((tmp_path / "new").glob("references/**/*.safetensors"))
    assert gone(marked)


def test_a_comparison_too_says_so_before_anything_is_done(prepared: Prepared, tmp_path: Path) -> None:
    scoring = {"engine": "vllm", "server": {"command": ["no-such-server"]}}
    config = {
        **prepared[0],
        "run_dir": str(tmp_path / "new"),
        "scoring": scoring,
        "evaluation": {"utility_prompts": 1},
    }
    with pytest.raises(InputError, match=r"scoring\.server\.command: no-such-server is not found"):
        compare(load_config(config), ["toss"])
    assert not list((tmp_path / "new").glob("references/**/*.safetensors"))


def test_what_a_folder_says_of_a_server_is_read_as_any_input(config: dict[str, Any]) -> None:
    path = Path(config["run_dir"]) / "manifest.json"
    stored = json.loads(path.read_text())
    stored["stages"][ROUND] = {"fingerprint": "f", "inputs": {}, "files": {}, "seconds": 1.0, "server": {}}
    path.write_text(json.dumps(stored))
    with pytest.raises(InputError, match=r"manifest\.json: server\.version: Field required"):
        tosslm.load_run(config["run_dir"])


def test_a_run_folder_by_itself_starts_no_program(config: dict[str, Any], tmp_path: Path) -> None:
    """Whoever sent the folder could have named any."""
    folder = Path(config["run_dir"])
    stored = json.loads((folder / "manifest.json").read_text())
    stored["config"]["scoring"] |= {"engine": "vllm", "server": {"command": ["touch", str(tmp_path / "ran")]}}
    (folder / "manifest.json").write_text(json.dumps(stored))
    run = tosslm.load_run(folder)
    assert run.config.scoring.server.command == ["vllm"]
    with pytest.raises(InputError, match=r"scoring\.server\.command: .*a program that would be started here"):
        run.config_to_go_on()
    again = run.config_to_go_on([f"scoring.server.command={json.dumps(SERVER)}"])
    assert again.scoring.server.command == SERVER
