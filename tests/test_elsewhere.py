"""Data and whole runs at URLs: in memory, and on a real S3-compatible server (`make s3`)."""

from __future__ import annotations

import gzip
import importlib.util
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from typer.testing import CliRunner

from conftest import demo_rows
from support.s3_server import BUCKET, Failing, s3_server
from tosslm.cli import app
from tosslm.config import load_config
from tosslm.data.rows import file_checksums, read_rows
from tosslm.door import check_places
from tosslm.errors import InputError, TosslmError
from tosslm.files import sha256
from tosslm.pipeline import run
from tosslm.runs.folder import RunFolder
from tosslm.runs.reader import load_run
from tosslm.runs.verify import verify

NEEDED = "TOSSLM_NEED_S3"
ROWS = demo_rows("custom", 3)
LINES = "".join(json.dumps(row) + "\n" for row in ROWS).encode()


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[str, Failing]]:
    if not all(importlib.util.find_spec(name) for name in ("s3fs", "moto", "boto3")):
        if os.environ.get(NEEDED):
            pytest.fail(f"s3fs or moto is not installed, and {NEEDED} is set: `make s3` installs them")
        pytest.skip("s3fs or moto is not installed: `make s3` installs them and tests against a server")
    with s3_server() as made:
        yield made


@pytest.fixture
def s3(server: tuple[str, Failing], monkeypatch: pytest.MonkeyPatch) -> Iterator[Failing]:
    """The server, for whoever asks for s3:// now; as a user would name it, through the environment."""
    keys = {"AWS_ENDPOINT_URL": server[0], "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}
    for name, value in (keys | {"AWS_DEFAULT_REGION": "us-east-1", "AWS_MAX_ATTEMPTS": "1"}).items():
        monkeypatch.setenv(name, value)
    import s3fs

    monkeypatch.setattr(s3fs.S3FileSystem, "retries", 1)  # a store that is gone is gone
    s3fs.S3FileSystem.clear_instance_cache()
    failing = server[1]
    yield failing
    failing.left = None
    system = s3fs.S3FileSystem()
    for name in system.find(BUCKET):
        system.rm_file(name)


@pytest.fixture(params=["memory", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A folder at a URL, empty."""
    monkeypatch.setenv("TOSSLM_CACHE", str(tmp_path / "here"))
    if request.param == "s3":
        request.getfixturevalue("s3")
        yield f"s3://{BUCKET}/some"
        return
    yield "memory://some"
    fsspec.filesystem("memory").store.clear()


def put(url: str, content: bytes) -> str:
    with fsspec.open(url, "wb") as file:
        file.write(content)
    return url


def objects(place: str) -> dict[str, bytes]:
    system, root = fsspec.url_to_fs(place)
    system.invalidate_cache()
    return {name.removeprefix(root).lstrip("/"): system.cat_file(name) for name in system.find(root)}


# --- data ----------------------------------------------------------------------------------------------


def test_rows_are_read_and_hashed_by_url_as_on_a_disk(place: str, tmp_path: Path) -> None:
    packed = gzip.compress(LINES)
    (tmp_path / "rows.jsonl.gz").write_bytes(packed)
    url = put(f"{place}/rows.jsonl.gz", packed)
    here, there = list(read_rows(str(tmp_path / "rows.jsonl.gz"))), list(read_rows(url))
    assert [row.row_id for row in there] == [row.row_id for row in here]  # type: ignore[union-attr]
    assert there[2].origin == f"{url}:3"
    assert file_checksums([url, f"file://{tmp_path}/rows.jsonl.gz"]) == [sha256(tmp_path / "rows.jsonl.gz")] * 2


def test_parquet_is_read_by_url(place: str, tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "a.parquet")
    url = put(f"{place}/a.parquet", (tmp_path / "a.parquet").read_bytes())
    assert [row.origin for row in read_rows(url)] == [f"{url}:{n}" for n in (1, 2, 3)]


def test_a_changed_object_has_another_checksum(place: str) -> None:
    url = put(f"{place}/rows.jsonl", LINES)
    before = file_checksums(url)
    put(url, LINES.replace(b"a", b"b"))
    assert file_checksums(url) != before


def test_what_is_wrong_there_is_told_with_url_and_line(place: str) -> None:
    url = put(f"{place}/rows.jsonl", LINES + b"{broken\n")
    assert list(read_rows(url))[3].origin == f"{url}:4"
    with pytest.raises(InputError, match=r"none\.jsonl: no such file; check the URL"):
        list(read_rows(f"{place}/none.jsonl"))
    put(f"{place}/cut.jsonl.gz", gzip.compress(LINES * 50)[:-20])
    with pytest.raises(InputError, match=r"cut\.jsonl\.gz:\d+: the file cannot be read on from here"):
        list(read_rows(f"{place}/cut.jsonl.gz"))


def test_a_server_that_fails_is_told_by_the_url(s3: Failing) -> None:
    url = put(f"s3://{BUCKET}/rows.jsonl", LINES)
    s3.left = 0
    with pytest.raises(TosslmError, match=rf"{url}: cannot be opened"):
        file_checksums(url)


@pytest.mark.skipif(importlib.util.find_spec("s3fs") is not None, reason="the driver is installed")
def test_a_missing_driver_is_named_with_what_installs_it() -> None:
    with pytest.raises(InputError, match=r's3://b/x\.jsonl: .*pip install "tosslm\[s3\]"'):
        read_rows("s3://b/x.jsonl")


@pytest.mark.parametrize("url", ["s3://key:secret@b/x.jsonl", "https://h/x.jsonl?X-Amz-Signature=secret"])
def test_a_url_with_a_secret_is_refused_in_a_config_and_not_told(url: str) -> None:
    sets = {name: {"path": url} for name in ("custom", "harmful", "utility")}
    with pytest.raises(InputError, match=r"data\.custom\.path: a URL with a password, token or signature") as refused:
        load_config({"data": sets})
    assert "secret" not in str(refused.value)


def test_data_may_not_lie_in_the_run_folder(place: str) -> None:
    sets = {name: {"path": f"{place}/x/{name}.jsonl"} for name in ("custom", "harmful", "utility")}
    with pytest.raises(InputError, match=r"data\.custom\.path: .* lies in the run folder"):
        check_places(load_config({"run_dir": f"{place}/x", "data": sets}))


# --- runs ----------------------------------------------------------------------------------------------


def tables_and_weights(files: dict[str, bytes]) -> dict[str, bytes]:
    kinds = (".parquet", ".safetensors")
    return {n: c for n, c in files.items() if n.endswith(kinds) and not n.startswith((".", "references/degraded"))}


def on_disk(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.mark.long
def test_a_run_goes_on_on_another_machine_and_ends_with_the_bytes_of_one_on_a_disk(
    place: str, tiny_config: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(tiny_config)
    expected = tables_and_weights(on_disk(Path(tiny_config["run_dir"])))
    url = f"{place}/run"
    elsewhere = tiny_config | {"run_dir": url}
    for name in ("custom", "harmful", "utility"):
        put(f"{place}/{name}.jsonl", (tmp_path / f"{name}.jsonl").read_bytes())
    for machine, until in (("here", "select"), ("there", "finetune"), ("beyond", "report")):
        monkeypatch.setenv("TOSSLM_CACHE", str(tmp_path / machine))
        done = run(elsewhere, until=until)
        # The report comes after the diagnosis, which reads the last degraded reference.
        trained = [p.parent.name for p in done.path.glob("references/degraded/*/adapter_model.safetensors")]
        assert sorted(trained) == {"here": ["round-0", "round-1"], "there": [], "beyond": ["round-1"]}[machine]
        assert not [name for name in objects(url) if "degraded" in name or name == ".lock"]
    assert tables_and_weights(objects(url)) == expected
    monkeypatch.setenv("TOSSLM_CACHE", str(tmp_path / "reader"))
    assert verify(load_run(url))[1] == []
    assert str(tmp_path / "beyond").encode() not in objects(url)["report.html"]
    shown = CliRunner().invoke(app, ["show", url])
    assert shown.exit_code == 0, shown.output
    parts = CliRunner().invoke(app, ["score", url, "--shard", "0/2"])
    assert parts.exit_code == 2
    assert "never uploaded" in " ".join(parts.output.split())


@pytest.mark.parametrize("drops", [False, True], ids=["status 500", "dropped connections"])
@pytest.mark.slow
def test_a_server_that_fails_in_the_middle_leaves_a_whole_run(
    s3: Failing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, drops: bool
) -> None:
    from test_run_elsewhere import expected, write_run

    monkeypatch.setenv("TOSSLM_CACHE", str(tmp_path / "first"))
    url = f"s3://{BUCKET}/run"
    s3.asked = 0
    write_run("old", url=url)
    requests, failures = s3.asked, 0
    for left in range(2, requests, requests // 3):
        monkeypatch.setenv("TOSSLM_CACHE", str(tmp_path / f"{left}"))
        url = f"s3://{BUCKET}/run-{left}"
        s3.left, s3.drops = left, drops
        try:
            write_run("old", url=url)
        except TosslmError:
            failures += 1
        s3.left = None
        assert_whole(url)
        write_run("new", url=url)
        assert_whole(url)
        assert {n: c for n, c in objects(url).items() if n != "manifest.json"} == expected("new")
        monkeypatch.setenv("TOSSLM_CACHE", str(tmp_path / f"reader-{left}"))
        s3.left = 2
        try:
            load_run(url)
        except TosslmError:
            failures += 1
        s3.left = None
        assert {n: (load_run(url).path / n).read_bytes() for n in expected("new")} == expected("new")
    assert failures >= 3


def assert_whole(url: str) -> None:
    """What the manifest there names is there."""
    there = objects(url)
    manifest = json.loads(there.get("manifest.json", b'{"stages": {}}'))
    names = {file for entry in manifest["stages"].values() for file in entry["files"]}
    assert {name for name in names if not name.startswith("references/degraded")} <= set(there)


def test_the_server_itself_refuses_a_second_writer(
    s3: Failing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"s3://{BUCKET}/locked"
    monkeypatch.setenv("TOSSLM_CACHE", str(tmp_path / "here"))
    with RunFolder(url).lock(("data",)):
        monkeypatch.setenv("TOSSLM_CACHE", str(tmp_path / "there"))
        with pytest.raises(TosslmError, match="is writing here"), RunFolder(url).lock(("data",)):
            pass


@pytest.mark.parametrize("command", [["compare"], ["review"]])
def test_what_needs_a_folder_on_a_disk_says_so(
    command: list[str], tiny_config: dict[str, Any], tmp_path: Path
) -> None:
    path = tmp_path / "toss.yaml"
    path.write_text(json.dumps(tiny_config | {"run_dir": "memory://x/run"}), encoding="utf-8")
    source = str(path) if command == ["compare"] else "memory://x/run"
    result = CliRunner().invoke(app, [*command, source])
    assert result.exit_code == 2
    assert "is no folder on a disk" in " ".join(result.output.split())


@pytest.mark.parametrize("url", ["reference://a.jsonl::file:///x.json", "file:///a.jsonl::memory://x"])
def test_a_chain_of_file_systems_is_not_opened(url: str) -> None:
    """A run folder that was sent could name templates for fsspec to run, which are code."""
    with pytest.raises(InputError, match="chains of file systems"):
        next(iter(read_rows(url)))
    with pytest.raises(InputError, match="chains of file systems"):
        load_run("simplecache::s3://b/x")


def test_a_file_in_a_file_that_is_not_named_is_told() -> None:
    with pytest.raises(InputError, match=r"zip://a\.jsonl: .*check the scheme"):
        next(iter(read_rows("zip://a.jsonl")))
