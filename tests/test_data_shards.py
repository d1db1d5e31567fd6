"""Several processes tokenise one run's rows: in any order, killed, twice or damaged, and no byte is another."""

from __future__ import annotations

import io
import json
import os
import random
import shutil
import stat
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from benchmarks.data_shards import NAME, section
from benchmarks.measuring import RESULTS
from benchmarks.sizes import PAGE, written
from rich.console import Console
from transformers import LlamaConfig
from typer.testing import CliRunner, Result

import tosslm
from conftest import demo_rows, write_rows
from support.benches import SETS
from tosslm.cli import app
from tosslm.config import load_config
from tosslm.files import write_parquet
from tosslm.methods import settled
from tosslm.model.base import Base, open_base
from tosslm.pipeline import carry_out, steps, workbench
from tosslm.progress import ConsoleReporter, SilentReporter
from tosslm.runs.layout import Layout
from tosslm.runs.staged import at_work
from tosslm.runs.tables import BLOCK_SCHEMA
from tosslm.runs.verify import verify
from tosslm.shares import data_shard
from tosslm.stages.data import data_step
from tosslm.stages.shard import Shard
from tosslm.stages.sharing import data_next
from tosslm.workbench import Workbench

ROOT = Path(__file__).parents[1]
SIZE = 3
"""Rows of a block here: 27 good rows of the custom set make 9, 8 of each other set 3."""


@pytest.fixture(scope="module")
def weightless(tmp_path_factory: pytest.TempPathFactory, smollm2_tokenizer: Any) -> Path:
    """A model without weights, which no shard of the data is to load."""
    folder = tmp_path_factory.mktemp("weightless")
    LlamaConfig(vocab_size=len(smollm2_tokenizer), hidden_size=32).save_pretrained(folder)
    smollm2_tokenizer.save_pretrained(folder)
    return folder


def tree(folder: Path, model: Path, **data: Any) -> dict[str, Any]:
    """A row is there three times, one cannot be read, and one is refused by the tokenizer."""
    rows = demo_rows("custom", 24)
    endless = {"messages": [{"role": "user", "content": "no end " * 900}, rows[0]["messages"][-1]]}
    write_rows(folder / "custom.jsonl", [*rows[:8], {"messages": "none"}, rows[2], *rows[8:], endless, rows[2]])
    for name in ("harmful", "utility"):
        write_rows(folder / f"{name}.jsonl", demo_rows(name, 10))
    sets = {name: {"path": str(folder / f"{name}.jsonl")} for name in ("custom", "harmful", "utility")}
    limits = {name: sets[name] | {"limit": 8} for name in ("harmful", "utility")}
    return {
        "run_dir": str(folder / "run"),
        "model": {"name": str(model), "dtype": "float32", "device": "cpu"},
        "data": sets | limits | {"on_bad_row": "skip", "max_length": 512} | data,
    }


@pytest.fixture(params=["three sets", "utility from custom"])
def config(request: pytest.FixtureRequest, tmp_path: Path, weightless: Path) -> dict[str, Any]:
    own = {"utility": {"from": "custom", "rows": 20}} if request.param == "utility from custom" else {}
    return tree(tmp_path, weightless, **own)


@pytest.fixture
def plain(tmp_path: Path, weightless: Path) -> dict[str, Any]:
    return tree(tmp_path, weightless)


@cache
def base_of(folder: str) -> Base:
    return open_base(
        load_config({"model": {"name": folder, "dtype": "float32", "device": "cpu"}, "data": SETS}).model
    )


def bench_of(config: dict[str, Any]) -> Workbench:
    return workbench(settled(load_config(config))[0], SilentReporter(), base=base_of(config["model"]["name"]))


def share(config: dict[str, Any], index: int, count: int = 4) -> dict[str, Any]:
    return data_next(bench_of(config), data_step(SIZE), Shard(index, count), SIZE)


def gather(config: dict[str, Any]) -> tosslm.Run:
    """What `toss run --until data` does, with small blocks."""
    carry_out([data_step(SIZE)], bench_of(config), every=steps(*settled(load_config(config))))
    return tosslm.load_run(config["run_dir"])


def alone(config: dict[str, Any], tmp_path: Path) -> dict[str, bytes]:
    """The files of the data by one process; their repeated and bad rows are there."""
    run = gather({**config, "run_dir": str(tmp_path / "alone")})
    counts = run.stages["data"]["sets"]["custom"]
    assert (counts["repeated"], counts["bad"]) == (2, 2)
    return contents(run)


def contents(run: tosslm.Run) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in run.layout.data.iterdir()}


def parts(config: dict[str, Any]) -> dict[str, Path]:
    return {file.name: file for file in Layout(Path(config["run_dir"])).shards.rglob("[!.]*.parquet")}


def toss(config: dict[str, Any], *arguments: str, **environment: str) -> Result:
    path = Path(config["run_dir"]).with_name("toss.json")
    path.write_text(json.dumps(config))
    return CliRunner().invoke(app, ["data", str(path), *arguments], env=environment)


def test_shards_in_any_order_make_the_bytes_of_one_process(config: dict[str, Any], tmp_path: Path) -> None:
    expected = alone(config, tmp_path)
    order = [0, 1, 2, 3, 2]  # one of them twice
    random.Random(3).shuffle(order)
    done = [share(config, index) for index in order]
    blocks = 12 if config["data"]["utility"].get("from") else 15
    assert sum(facts["written"] for facts in done) == len(parts(config)) == blocks
    run = gather(config)
    assert contents(run) == expected
    entry = run.stages["data"]
    assert set(entry["files"]) == {f"data/{name}" for name in expected}
    refused = 2 if blocks == 12 else 1  # which rows stand in for a utility set is chosen before any is tokenised
    assert entry["rows_from_shards"] == sum(one["rows"] for one in entry["sets"].values()) + refused
    assert verify(run)[1] == []
    assert [left.name for left in run.layout.shards.iterdir()] == [".lock"]


def test_what_is_missing_cut_or_of_other_rows_is_tokenised_by_the_writer(
    config: dict[str, Any], tmp_path: Path
) -> None:
    expected = alone(config, tmp_path)
    for index in (3, 0, 1):
        share(config, index)
    written = parts(config)
    cut, foreign, *swapped, begun = sorted(name for name in written if name.startswith("custom"))[:5]
    written[cut].write_bytes(written[cut].read_bytes()[:-50])
    empty: dict[str, Any] = {name: [] for name in BLOCK_SCHEMA.names}
    write_parquet(written[foreign], empty, BLOCK_SCHEMA, "another fingerprint")
    first, second = (written[name].read_bytes() for name in swapped)
    written[swapped[0]].write_bytes(second)  # whole, and of this very step
    written[swapped[1]].write_bytes(first)
    written[begun].rename(written[begun].with_name(f".unfinished-0123-{begun}"))
    run = gather(config)
    assert contents(run) == expected
    assert 0 < run.stages["data"]["rows_from_shards"] < 20


@pytest.mark.long
@pytest.mark.slow
def test_killed_shards_against_one_process(config: dict[str, Any], tmp_path: Path) -> None:
    """SIGKILL between two blocks and in the midst of a file; every share once more or not at all."""
    expected = alone(config, tmp_path)
    command = [sys.executable, str(ROOT / "tests/support/data_shard_harness.py"), json.dumps(config), str(SIZE)]
    environment = os.environ | {"TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT / "tests"), *sys.path])
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout)["kills"] == 3
    assert list(Layout(Path(config["run_dir"])).shards.rglob(".unfinished-*"))
    run = gather(config)
    assert contents(run) == expected
    assert run.stages["data"]["rows_from_shards"] > 0
    assert [left.name for left in run.layout.shards.iterdir()] == [".lock"]


def test_a_shard_goes_on_where_it_was_and_records_nothing(plain: dict[str, Any]) -> None:
    before = os.umask(0o022)
    try:
        facts = share(plain, 1)
    finally:
        os.umask(before)
    layout = Layout(Path(plain["run_dir"]))
    assert (facts["step"], facts["shard"], facts["files"], facts["written"]) == ("data", "1/4", 4, 4)
    assert not layout.manifest.exists()
    assert not layout.data.exists()
    kept = {"custom-00001.parquet", "custom-00005.parquet", "harmful-00000.parquet", "utility-00001.parquet"}
    assert set(parts(plain)) == kept
    written = [layout.root, layout.shards, *layout.shards.rglob("*"), layout.shard_log(1, 4)]
    assert not [path for path in written if stat.S_IMODE(path.stat().st_mode) & 0o077]
    parts(plain)["custom-00005.parquet"].unlink()
    again = share(plain, 1)
    assert (again["files"], again["written"]) == (4, 1)


def test_shares_of_other_counts_fit_together(plain: dict[str, Any], tmp_path: Path) -> None:
    """Somebody starts with two, and goes on with three."""
    expected = alone(plain, tmp_path)
    share(plain, 0, 2)
    written = [share(plain, index, 3)["written"] for index in range(3)]
    assert sum(written) == 7
    assert contents(gather(plain)) == expected


def test_the_commands_share_a_run(plain: dict[str, Any], tmp_path: Path) -> None:
    """Each set is less than a block, of which shard 1 of 3 has the second."""
    expected = alone(plain, tmp_path)
    by_torchrun = toss(plain, "--shard", "auto", "--json", RANK="1", WORLD_SIZE="3")
    assert by_torchrun.exit_code == 0, by_torchrun.output
    facts = json.loads(by_torchrun.stdout)
    assert (facts["shard"], facts["files"], facts["written"]) == ("1/3", 1, 1)
    assert set(parts(plain)) == {"harmful-00000.parquet"}
    done = toss(plain, "--json")
    assert done.exit_code == 0, done.output
    assert "shards had tokenised 8 of the rows" in done.stderr
    run = tosslm.load_run(plain["run_dir"])
    assert contents(run) == expected
    manifest = run.layout.manifest.read_bytes()
    late = toss(plain, "--shard", "0/3", "--json")
    assert json.loads(late.stdout) == {"step": None, "shard": "0/3", "files": 0, "written": 0, "tokens": 0}
    assert "data: done before; shard 0/3 has nothing to do" in late.stderr
    assert run.layout.manifest.read_bytes() == manifest


def test_a_shard_that_is_late_loses_nothing_and_leaves_nothing(plain: dict[str, Any]) -> None:
    share(plain, 0)
    layout = Layout(Path(plain["run_dir"]))
    with at_work(layout):
        gather(plain)
        assert parts(plain)
    gather(plain)
    assert not parts(plain)


def test_parts_for_another_config_are_not_taken_and_that_is_said(plain: dict[str, Any], tmp_path: Path) -> None:
    share(plain, 0)
    other = plain | {"data": plain["data"] | {"max_length": 64}}
    expected = alone(other, tmp_path)
    done = toss(other)
    assert done.exit_code == 0, done.output
    assert "those are not taken" in " ".join(done.stderr.split())
    run = tosslm.load_run(plain["run_dir"])
    assert contents(run) == expected
    assert "rows_from_shards" not in run.stages["data"]
    redo = toss(plain, "--shard", "0/3")
    assert "data: made anew, as the config" in " ".join(redo.stderr.split())


def test_a_bad_row_ends_a_shard_with_what_the_run_says(plain: dict[str, Any], tmp_path: Path) -> None:
    strict = plain | {"data": plain["data"] | {"on_bad_row": "error"}}
    for text in ('{"messages": "none"}\n', ""):  # not to be read; then what the tokenizer refuses
        one, run = toss(strict, "--shard", "0/3"), toss(strict)
        assert one.exit_code == run.exit_code == 2
        assert one.stderr.split("custom.jsonl:")[-1] == run.stderr.split("custom.jsonl:")[-1]
        custom = tmp_path / "custom.jsonl"
        custom.write_text(custom.read_text().replace(text, ""))


def test_a_folder_that_is_no_runs_is_left_alone(plain: dict[str, Any]) -> None:
    theirs = Path(plain["run_dir"]) / "data"
    theirs.mkdir(parents=True)
    refused = toss(plain, "--shard", "0/2")
    assert refused.exit_code == 2
    assert "is no run folder" in refused.stderr
    assert [file.name for file in theirs.parent.iterdir()] == ["data"]


def test_a_url_is_refused(plain: dict[str, Any]) -> None:
    refused = toss(plain, "--shard", "0/2", "--run-dir", "memory://bucket/run")
    assert refused.exit_code == 2
    assert "one that all machines see" in " ".join(refused.stderr.split())


def test_progress_to_an_unknown_end_says_how_far_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tosslm.progress.LINE_SECONDS", 0)
    shown = io.StringIO()
    with ConsoleReporter(Console(file=shown, width=200)).task("tokenising, shard 0/8", 0) as task:
        task.advance(1024, 0)
        task.advance(1000, 0)
    assert shown.getvalue().splitlines() == ["tokenising, shard 0/8: 1024", "tokenising, shard 0/8: 2024"]


def test_the_page_says_what_the_benchmark_measured() -> None:
    page = PAGE.read_text(encoding="utf-8")
    results = json.loads((RESULTS / f"{NAME}.json").read_text(encoding="utf-8"))
    assert written(page, "data shards", section(results)) == page


def test_starting_over_removes_what_shards_left(plain: dict[str, Any]) -> None:
    data_shard(plain, Shard(0, 1))
    assert parts(plain)
    run = tosslm.run(plain, until="data", fresh=True)
    assert "rows_from_shards" not in run.stages["data"]
    shutil.rmtree(run.layout.data)
    data_shard(plain, Shard(0, 1))
    assert "rows_from_shards" not in tosslm.run(plain, until="data", fresh=True).stages["data"]
