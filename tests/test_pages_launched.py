"""Blocks that start processes, serve, or take a server: each run by bash as it stands, minutes (`make blocks`)."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import tosslm
from support.hub import LocalHub, local_hub
from support.launched import assert_close
from support.page_scene import lay_out
from support.page_servers import has_slurm, jobs_ended, review_a_row, slurm
from support.page_shell import SECONDS, bash, beginning, marked, started
from support.pages import ROOT, Block
from support.s3_server import BUCKET, s3_server
from tosslm.runs.verify import verify

WANTED = "TOSSLM_BLOCKS"
MARKED = marked("blocks")
SCALING = "docs/scaling.md"
SHARES = {
    beginning(MARKED, SCALING, "toss run toss.yaml --until references"): 2,
    beginning(MARKED, SCALING, "for i in 0 1 2 3"): 4,
    beginning(MARKED, SCALING, "torchrun --standalone --nproc-per-node 4"): 4,
}
TRAININGS = {
    beginning(MARKED, SCALING, "accelerate launch --config_file configs/accelerate/ddp.yaml"): 4,
    beginning(MARKED, SCALING, "launch="): 4,
    beginning(MARKED, SCALING, "torchrun --standalone --nproc-per-node 2"): 2,
    beginning(MARKED, SCALING, "accelerate launch --config_file configs/accelerate/fsdp2.yaml"): 4,
}
ARRAY, SUBMISSION = beginning(MARKED, SCALING, "#!/bin/bash"), beginning(MARKED, SCALING, "prepare=")
STORE = beginning(MARKED, SCALING, "toss run toss.yaml --run-dir s3://")
UPLOAD = beginning(MARKED, "docs/export.md", "toss export")
REVIEW = beginning(MARKED, "docs/review.md", "toss run")
COMPLETION = beginning(MARKED, "docs/install.md", "toss --install-completion")
TESTS = beginning(MARKED, "CONTRIBUTING.md", ".venv/bin/python -m pytest")


def test_all_that_is_marked_so_is_run_here() -> None:
    assert {*SHARES, *TRAININGS, ARRAY, SUBMISSION, STORE, UPLOAD, REVIEW, COMPLETION, TESTS} == set(MARKED)


def named(block: Any) -> str:
    return f"{block.page}:{block.line}" if isinstance(block, Block) else str(block)


@pytest.fixture(scope="module")
def asked() -> None:
    if not os.environ.get(WANTED):
        pytest.skip("minutes of several processes; `make blocks` runs them")


@pytest.fixture(scope="module")
def trained(
    asked: None, tmp_path_factory: pytest.TempPathFactory, tiny_model_folder: Path, tiny_adapter_folder: Path
) -> Path:
    """A folder with a run whose references one process has trained: 24 rows and held-out ones in 25 parts."""
    folder = lay_out(
        tmp_path_factory.mktemp("trained") / "here",
        tiny_model_folder,
        tiny_adapter_folder,
        refinement={"rounds": 0},
        scoring={"batch_tokens": 512, "rows_per_part": 1},
    )
    bash("toss run toss.yaml --until references", folder)
    return folder


@pytest.fixture(scope="module")
def alone(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, and that process has done the whole run."""
    folder = copied(trained, tmp_path_factory.mktemp("alone") / "here")
    bash("toss run toss.yaml", folder)
    return folder


def copied(folder: Path, to: Path) -> Path:
    shutil.copytree(folder.parent, to.parent, symlinks=True, dirs_exist_ok=True)
    return to


def without_run(folder: Path, to: Path) -> Path:
    shutil.rmtree(copied(folder, to) / "runs")
    return to


def run_in(folder: Path) -> tosslm.Run:
    run = tosslm.load_run(folder / "runs/my-run")
    assert verify(run)[1] == []
    return run


def assert_same_bytes(folder: Path, alone: Path) -> None:
    """Of all that a run computes; its report has times in it."""
    made, expected = (
        {name: stage["files"] for name, stage in run_in(one).stages.items() if name != "report"}
        for one in (folder, alone)
    )
    assert made == expected


def assert_shared(folder: Path, count: int) -> None:
    """Each share wrote its files, all 25 in all."""
    logs = {path.name: path.read_text() for path in (folder / "runs/my-run/logs").glob("shard-*.log")}
    assert logs.keys() == {f"shard-{index}-of-{count}.log" for index in range(count)}
    written = [re.findall(r"(\d+) of \d+ files written", text) for text in logs.values()]
    assert all(len(of_one) == 1 for of_one in written), logs
    assert sum(int(of_one[0]) for of_one in written) == 25


@pytest.mark.parametrize(("block", "count"), SHARES.items(), ids=named)
def test_shares_write_what_one_process_would(
    block: Block, count: int, trained: Path, alone: Path, tmp_path: Path
) -> None:
    folder = copied(trained, tmp_path / "here")
    bash(block.code, folder)
    assert_shared(folder, count)
    bash("toss run toss.yaml", folder)
    assert_same_bytes(folder, alone)


def test_an_array_of_slurm_writes_what_one_process_would(
    alone: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    if not has_slurm():
        pytest.skip("no Slurm here: `apt-get install slurm-wlm munge`, and be root")
    folder = without_run(alone, tmp_path / "here")
    (folder / "shards.sh").write_text(ARRAY.code)
    with slurm(tmp_path_factory.mktemp("slurm")) as variables:
        bash(SUBMISSION.code, folder, **variables)
        ended = jobs_ended(variables)
    said = {path.name: path.read_text() for path in folder.glob("slurm-*.out")}
    assert list(ended.values()) == ["COMPLETED"] * 10, said
    assert_shared(folder, 8)
    assert_same_bytes(folder, alone)


@pytest.mark.parametrize(("block", "count"), TRAININGS.items(), ids=named)
def test_several_processes_train_what_one_would(block: Block, count: int, alone: Path, tmp_path: Path) -> None:
    folder = without_run(alone, tmp_path / "here")
    bash(block.code, folder)
    run, expected = run_in(folder), run_in(alone)
    assert run.stages.keys() == expected.stages.keys()
    for name in ("references/utility", "references/degraded/round-0", "model"):
        assert run.stages[name]["processes"] == count
        assert_close(run.path / name, expected.path / name)
    if "--shard" in block.code:
        assert_shared(folder, count)


def test_a_run_goes_to_a_bucket_and_comes_from_it(alone: Path, tmp_path: Path) -> None:
    folder = without_run(alone, tmp_path / "here")
    with s3_server() as (address, _):
        keys = {"AWS_ENDPOINT_URL": address, "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}
        bash(STORE.code, folder, AWS_DEFAULT_REGION="us-east-1", TOSSLM_CACHE=str(tmp_path / "cache"), **keys)
        import boto3

        client = boto3.client(
            "s3",
            endpoint_url=address,
            region_name="us-east-1",
            aws_access_key_id="test",
            aws_secret_access_key="test",
        )
        found = client.list_objects_v2(Bucket=BUCKET)["Contents"]
    assert "runs/x/manifest.json" in {one["Key"] for one in found}
    assert (folder / "masked/export.json").is_file()


@pytest.fixture
def hub() -> Iterator[LocalHub]:
    with local_hub() as opened:
        yield opened


def test_an_export_goes_to_a_hub(alone: Path, tmp_path: Path, hub: LocalHub) -> None:
    folder = copied(alone, tmp_path / "here")
    (folder / "runs/my-run").rename(folder / "runs/mine")
    bash(UPLOAD.code, folder, HF_ENDPOINT=hub.url, HF_TOKEN=hub.token, HF_HUB_DISABLE_XET="1", HF_HUB_OFFLINE="0")
    assert hub.private == {"me/masked-rows": True}
    assert hub.files["me/masked-rows"]["export.json"] == (folder / "masked/export.json").read_bytes()


def test_a_review_is_served_decided_ended_and_heeded(alone: Path, tmp_path: Path) -> None:
    folder = copied(alone, tmp_path / "here")
    rows = list(run_in(folder).rows["row_id"])
    shell = started(REVIEW.code, folder)
    review_a_row(shell, rows)
    said, _ = shell.communicate(timeout=SECONDS)
    assert shell.returncode == 0, said
    run = run_in(folder)
    assert not run.keep()[0].any()
    assert run.stages["references/utility"] == run_in(alone).stages["references/utility"]
    assert run.stages["model"]["files"] != run_in(alone).stages["model"]["files"]


@pytest.mark.usefixtures("asked")
def test_completion_is_installed_for_the_readers_shell(tmp_path: Path) -> None:
    bash(COMPLETION.code, tmp_path, HOME=str(tmp_path))
    assert "toss" in (tmp_path / ".bashrc").read_text()


@pytest.mark.usefixtures("asked")
def test_the_tests_are_run_as_contributing_says() -> None:
    said = bash(TESTS.code, ROOT, **{WANTED: ""})
    assert len(re.findall(r"^\d+ passed", said, re.MULTILINE)) == 3, said
