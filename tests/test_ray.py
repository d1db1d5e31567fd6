"""Scoring through Ray: workers killed, nodes gone and come, and no byte is another."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import tosslm
from support.prepared import Prepared, prepare
from support.ray_cluster import ActingReporter, add_node, bearers, kill, need_ray, raylets, two_nodes, workers
from tosslm.config import load_config
from tosslm.methods import settled
from tosslm.model.base import open_base
from tosslm.pipeline import workbench
from tosslm.plan import make_plan
from tosslm.progress import SilentReporter
from tosslm.runs.layout import Layout
from tosslm.runs.staged import make_stage
from tosslm.runs.verify import verify
from tosslm.shares import score_shard
from tosslm.stages.cluster import Needs
from tosslm.stages.dealing import TRIES, Deal, cut_shares
from tosslm.stages.score import score_step
from tosslm.stages.shard import Shard
from tosslm.stages.worker import MARKER, Order, ScoringWorker

ROUND = "scores/round-0"
SETS = {name: {"path": f"{name}.jsonl"} for name in ("custom", "harmful", "utility")}

# --- what needs no Ray ---------------------------------------------------------------------------------


@given(st.integers(1, 40), st.data())
def test_every_share_is_done_or_left_whatever_workers_do(count: int, data: st.DataObject) -> None:
    shares = [Shard(index, count) for index in range(count)]
    deal, out, done = Deal(shares), [], []
    while deal.unfinished:
        if (share := deal.next()) is not None:
            out.append(share)
        if not out or (share is not None and data.draw(st.booleans())):
            continue
        share = out.pop(data.draw(st.integers(0, len(out) - 1)))
        if data.draw(st.booleans()):
            deal.lost(share)
        else:
            deal.done()
            done.append(share)
    assert sorted(map(str, [*done, *deal.left])) == sorted(map(str, shares))


def test_a_share_that_kills_its_workers_is_left_after_some_tries() -> None:
    deal = Deal([Shard(0, 1)])
    for _ in range(TRIES):
        assert deal.left == []
        deal.lost(deal.next())
    assert (deal.left, deal.unfinished) == ([Shard(0, 1)], 0)


def test_workers_that_die_before_they_can_work_are_not_hired_for_ever() -> None:
    deal = Deal([Shard(0, 2), Shard(1, 2)])
    deal.next()
    deal.lost(None)
    deal.lost(None)
    deal.done()  # one that can work: the count begins anew
    for _ in range(TRIES):
        assert deal.unfinished == 1
        deal.lost(None)
    assert (deal.left, deal.unfinished) == ([Shard(1, 2)], 0)


@pytest.mark.parametrize(("files", "of_workers"), [(1, 1), (25, 2), (25, 100), (1001, 8)])
def test_shares_are_small_and_enough_for_all_workers(files: int, of_workers: int) -> None:
    count = cut_shares(files, of_workers)
    sizes = [sum(Shard(index, count).has(number) for number in range(files)) for index in range(count)]
    assert sum(sizes) == files
    assert 1 <= min(sizes) <= max(sizes) <= 4
    assert count >= min(of_workers, files)


def test_room_is_counted_machine_by_machine() -> None:
    machines = [{"CPU": 3.0}, {"CPU": 3.0, "GPU": 1.0}, {"memory": 1.0}]
    assert Needs(cpus=2, gpus=0).places(machines) == 2  # six CPUs, and not three workers of two
    assert Needs(cpus=1, gpus=1).places(machines) == 1
    assert Needs(cpus=4, gpus=0).places(machines) == 0


@pytest.mark.parametrize(
    ("scoring", "said"),
    [
        ({"engine": "ray", "gpus_per_worker": 2}, "gpus_per_worker: a worker's model has one device"),
        ({"engine": "ray", "gpus_per_worker": -1}, "gpus_per_worker: a worker's model has one device"),
        ({"engine": "ray", "workers": 0}, "workers: choose a number of workers from 1"),
        ({"workers": 2}, "workers is for engine: ray"),
        ({"gpus_per_worker": 0}, "gpus_per_worker is for engine: ray"),
        ({"engine": "ray", "gpus_per_worker": 2}, "larger than a GPU is scored .* configs/accelerate/fsdp2.yaml"),
    ],
)
def test_what_ray_would_not_heed_is_refused(scoring: dict[str, Any], said: str) -> None:
    with pytest.raises(tosslm.InputError, match=said):
        load_config({"data": SETS, "scoring": scoring})


@pytest.mark.parametrize(
    ("gpus", "device", "said"),
    [
        (1, "cpu", "1 reserves a GPU for each worker, and with model.device: cpu none"),
        (0, "cuda:0", "0 shows workers no GPU, and model.device: cuda:0"),
    ],
)
def test_what_workers_reserve_they_compute_on(gpus: int, device: str, said: str) -> None:
    tree: dict[str, Any] = {
        "data": SETS,
        "model": {"device": device},
        "scoring": {"engine": "ray", "gpus_per_worker": gpus},
    }
    with pytest.raises(tosslm.InputError, match=f"gpus_per_worker: {said}"):
        load_config(tree)
    tree["scoring"] |= {"gpus_per_worker": "auto"}
    assert load_config(tree).model.device == device


@pytest.mark.parametrize(
    "begin",
    [tosslm.run, lambda tree: make_plan(load_config(tree), measure=False, reporter=SilentReporter())],
    ids=["run", "plan"],
)
@pytest.mark.parametrize("url", ["memory://bucket/run", "s3://bucket/run"])
def test_a_run_folder_that_workers_cannot_see_is_refused_before_references_are_trained(
    config: dict[str, Any], begin: Callable[[dict[str, Any]], Any], url: str
) -> None:
    with pytest.raises(
        tosslm.InputError, match=rf"run_dir: {url} is no folder on a disk, which scoring\.engine: ray"
    ):
        begin(config | {"run_dir": url})


def test_who_computes_is_not_covered() -> None:
    """So a run that was scored by one process is done for Ray too, and the other way round."""
    local, ray = (load_config({"data": SETS, "scoring": {"engine": e}}).scoring for e in ("local", "ray"))
    assert local.covered() == ray.covered()


def test_without_ray_the_run_does_not_begin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)  # as where it is not installed
    with pytest.raises(tosslm.InputError, match=r'pip install "tosslm\[ray\]"'):
        tosslm.run({"run_dir": str(tmp_path / "run"), "data": SETS, "scoring": {"engine": "ray"}})
    assert not (tmp_path / "run").exists()


def test_without_ray_a_plan_says_so_where_the_method_needs_scores(
    config: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(tosslm.InputError, match=r'pip install "tosslm\[ray\]"'):
        make_plan(load_config(config), measure=False, reporter=SilentReporter())
    plain, _ = settled(load_config(config | {"method": "sft"}))
    assert make_plan(plain, measure=False, reporter=SilentReporter())["stages"]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory, tiny_model_folder: Path) -> Prepared:
    return prepare(tmp_path_factory.mktemp("ray"), tiny_model_folder)


@pytest.fixture
def config(prepared: Prepared, tmp_path: Path) -> dict[str, Any]:
    """The same, in a folder of the test's own."""
    shutil.copytree(prepared[0]["run_dir"], tmp_path / "run")
    scoring = {**prepared[0]["scoring"], "engine": "ray", "gpus_per_worker": 0}
    return {**prepared[0], "run_dir": str(tmp_path / "run"), "scoring": scoring}


@pytest.fixture
def order(config: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Order:
    """What a worker is told, where all is as it should be; it may move this process about."""
    monkeypatch.chdir(Path.cwd())
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    bench = workbench(load_config(config), SilentReporter())
    mark = score_step(bench.config, 0).mark(bench)
    (make_stage(bench.layout, mark) / MARKER).write_text("token")
    tree = bench.config.model_dump(mode="json")
    threads = torch.get_num_threads()
    return Order(tree, str(Path.cwd()), "token", 0, mark.fingerprint, bench.base.identity, threads, 0, patience=0)


def test_a_worker_that_finds_all_in_order_writes_its_share(prepared: Prepared, order: Order) -> None:
    worker = ScoringWorker(order, 3)
    worker.open()
    assert worker.score(Shard(2, 9))["written"] == 3
    layout = Layout(Path(order.config["run_dir"]))
    written = [file.name for file in layout.shards.rglob("*.parquet")]
    assert sorted(written) == ["part-00002.parquet", "part-00011.parquet", "part-00020.parquet"]
    assert "shard 2/9: 3 of 3 files written" in layout.worker_log(3).read_text()


def test_a_worker_that_sees_another_folder_is_refused(order: Order) -> None:
    with pytest.raises(tosslm.InputError, match=r"does not see the run folder .* storage that all machines .* share"):
        ScoringWorker(replace(order, token="another"), 0).open()


def test_a_worker_with_another_base_is_refused(order: Order) -> None:
    other = open_base(load_config({"data": SETS, "model": order.config["model"] | {"dtype": "bfloat16"}}).model)
    with pytest.raises(tosslm.InputError, match=r"the base on .* is another .* name a dtype"):
        ScoringWorker(replace(order, identity=other.identity), 0).open()


def test_a_worker_that_would_score_otherwise_is_refused(order: Order) -> None:
    order.config["scoring"]["rows_per_part"] = 2
    with pytest.raises(tosslm.InputError, match="would give other scores"):
        ScoringWorker(order, 0).open()


def test_sharing_by_hand_and_by_ray_do_not_mix(config: dict[str, Any]) -> None:
    with pytest.raises(tosslm.InputError, match=r"leave out --shard, or --set scoring\.engine=local"):
        score_shard(config, Shard(0, 2))


# --- what does -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    need_ray()
    with two_nodes() as found:
        yield found


@pytest.fixture
def address(cluster: Any, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("RAY_ADDRESS", cluster.address)
    return cluster.address


def checked(prepared: Prepared, run: tosslm.Run) -> dict[str, Any]:
    """What the manifest says of the scores, whose files are those of one process, in an undamaged folder."""
    entry: dict[str, Any] = run.stages[ROUND]
    assert entry["files"] == prepared[1]
    assert verify(run)[1] == []
    assert [left.name for left in run.layout.shards.iterdir()] == [".lock"]
    return entry


def test_a_killed_worker_on_two_nodes(prepared: Prepared, config: dict[str, Any], cluster: Any, address: str) -> None:
    killed: list[int] = []

    def act() -> None:
        end = time.monotonic() + 60
        while not killed and time.monotonic() < end:
            killed.extend(workers(raylets(cluster), at_work=True)[:1])
        kill(killed[0])

    reporter = ActingReporter(act)
    entry = checked(prepared, tosslm.run(config, until="score", reporter=reporter))
    assert len(killed) == 1
    assert any("a Ray worker is gone with share" in line for line in reporter.said)
    assert entry["parts_reused"] == 24  # this process has scored nothing
    assert 1 <= entry["workers"] <= 2  # one may have done all before the other could work
    assert entry["tokens"] > 0
    assert reporter.tasks["scoring round-0 on Ray"] == 0
    assert len(list((Path(config["run_dir"]) / "logs").glob("ray-worker-*.log"))) >= 2
    assert workers(raylets(cluster)) == []


def test_a_node_that_goes_and_one_that_comes(
    prepared: Prepared, config: dict[str, Any], cluster: Any, address: str
) -> None:
    node = add_node(cluster)
    cluster.wait_for_nodes()

    def act() -> None:
        cluster.remove_node(node, allow_graceful=False)
        add_node(cluster)

    reporter = ActingReporter(act)
    entry = checked(prepared, tosslm.run(config, until="score", reporter=reporter))
    assert entry["workers"] >= 1
    assert reporter.tasks["scoring round-0 on Ray"] == 0
    assert entry["parts_reused"] == 24


def test_rounds_are_shared_too(config: dict[str, Any], cluster: Any, address: str, tmp_path: Path) -> None:
    config |= {"refinement": {"rounds": 1, "samples_per_round": 3}}
    alone = {**config, "run_dir": str(tmp_path / "alone"), "scoring": {**config["scoring"], "engine": "local"}}
    del alone["scoring"]["gpus_per_worker"]
    shutil.copytree(config["run_dir"], alone["run_dir"])
    expected = tosslm.run(alone, until="refine").stages
    stages = tosslm.run(config, until="refine").stages
    assert stages["scores/round-1"]["workers"] >= 1
    assert {name: entry["files"] for name, entry in stages.items()} == {n: e["files"] for n, e in expected.items()}


def test_what_a_worker_raises_reaches_the_user(config: dict[str, Any], cluster: Any, address: str) -> None:
    bench = workbench(load_config(config), SilentReporter())
    mark = score_step(bench.config, 0).mark(bench)
    (make_stage(bench.layout, mark) / "part-00003.parquet" / "in the way").mkdir(parents=True)
    done = toss(config, "--debug")
    assert done.returncode == 1
    assert "toss: a Ray worker failed: IsADirectoryError" in done.stderr
    assert "in write_parquet" in done.stderr
    assert workers(raylets(cluster)) == []


def test_a_worker_for_which_no_machine_has_room(
    config: dict[str, Any], address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config["scoring"] |= {"gpus_per_worker": 1}
    config["model"] = config["model"] | {"device": "auto"}
    with pytest.raises(tosslm.InputError, match=r"1 CPUs .* and 1 GPUs of one machine, .* 1 CPUs and 0 GPUs"):
        tosslm.run(config, until="score")


def test_an_address_where_nobody_answers(config: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    need_ray()
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    with pytest.raises(tosslm.InputError, match=r"RAY_ADDRESS: 127\.0\.0\.1:1: no connection"):
        tosslm.run(config, until="score")
    monkeypatch.setenv("RAY_ADDRESS", "ray://127.0.0.1:1")
    with pytest.raises(tosslm.InputError, match=r"Ray Client .* RAY_ADDRESS=auto"):
        tosslm.run(config, until="score")


def command(config: dict[str, Any], *arguments: str) -> list[str]:
    path = Path(config["run_dir"]).with_name("toss.json")
    path.write_text(json.dumps(config))
    return [sys.executable, "-m", "tosslm", "score", str(path), *arguments]


def toss(config: dict[str, Any], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(config, *arguments), capture_output=True, text=True, timeout=300, check=False)


def gone(name: str, seconds: float = 120) -> bool:
    """Whether a cluster's processes end by themselves; on a crowded processor that takes its time."""
    end = time.monotonic() + seconds
    while bearers(name) and time.monotonic() < end:
        time.sleep(0.2)
    return not bearers(name)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_no_process_is_left_of_a_cluster_of_its_own(
    prepared: Prepared, config: dict[str, Any], tmp_path: Path, number: signal.Signals
) -> None:
    """Without RAY_ADDRESS: interrupted in the midst; then the same command goes on, and ends."""
    need_ray()
    name = f"TOSSLM_TEST_{tmp_path.name.upper().replace('-', '_')}"
    environment = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"} | {name: "1"}
    config["scoring"] |= {"workers": 2}
    shards = Layout(Path(config["run_dir"])).shards
    with subprocess.Popen(command(config), env=environment, stderr=subprocess.PIPE, text=True) as running:
        end = time.monotonic() + 240
        while not list(shards.rglob("part-*.parquet")) and running.poll() is None and time.monotonic() < end:
            time.sleep(0.05)
        running.send_signal(number)
        _, said = running.communicate(timeout=60)
    assert running.returncode == (-number if number == signal.SIGKILL else 128 + number), said
    assert gone(name)
    if number != signal.SIGINT:
        return
    again = subprocess.run(command(config), env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert again.returncode == 0, again.stderr
    assert gone(name)
    assert checked(prepared, tosslm.load_run(config["run_dir"]))["workers"] >= 1
