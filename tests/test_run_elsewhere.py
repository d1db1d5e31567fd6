"""A run folder at a URL: what is there is a run at any time, wherever a write or a read fails."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from support.benches import bench_of
from tosslm.errors import InputError, TosslmError
from tosslm.files import sha256, write_text
from tosslm.pipeline import all_done
from tosslm.runs.folder import RunFolder
from tosslm.runs.reader import Run, load_run
from tosslm.runs.recorded import Mark
from tosslm.runs.verify import verify
from tosslm.stages.step import Step
from tosslm.workbench import Workbench

URL = "failing://bucket/runs/x"
OUTPUTS = ("data", "references", "scores", "selection")
DEGRADED = "references/degraded/round-0"


TRAINED: dict[str, Any] = {"steps": 1, "first_loss": 1.0, "last_loss": 1.0, "tokens_per_second": None, "losses": []}
CHOSEN: dict[str, Any] = {"discard_fraction": 0.1, "threshold": None, "tokens": 1, "discarded": 0, "sources": {}}
FACTS: dict[str, dict[str, Any]] = {
    "data": {"sets": {}},
    "references": TRAINED,
    "model": TRAINED,
    "selection": CHOSEN,
}


class FailingStore(MemoryFileSystem):
    """Objects in memory; the store is gone after so many more requests, the last one of which may still be heeded.

    A ``careless`` one writes over what is there, whatever it was asked.
    """

    protocol = "failing"
    store: dict[str, Any] = {}  # noqa: RUF012 (as its base has it)
    pseudo_dirs: list[str] = [""]  # noqa: RUF012
    left: int | None = None
    heeded = False
    careless = False
    asked = 0

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:
        return super()._strip_protocol(str(path).replace("failing://", "memory://"))

    def _count(self, work: Callable[[], Any]) -> Any:
        kind = type(self)
        kind.asked += 1
        if kind.left is None:
            return work()
        kind.left -= 1
        if kind.left > 0:
            return work()
        if kind.left == 0 and kind.heeded:
            work()
        raise ConnectionError("the store is gone")

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **options: Any) -> Any:
        mode = "overwrite" if self.careless else mode
        return self._count(lambda: super(FailingStore, self).pipe_file(path, value, mode=mode, **options))

    def cat_file(self, path: str, start: Any = None, end: Any = None, **options: Any) -> Any:
        return self._count(lambda: super(FailingStore, self).cat_file(path, start, end, **options))

    def put_file(self, lpath: str, rpath: str, **options: Any) -> Any:
        return self._count(lambda: super(FailingStore, self).put_file(lpath, rpath, **options))

    def get_file(self, rpath: str, lpath: str, **options: Any) -> Any:
        return self._count(lambda: super(FailingStore, self).get_file(rpath, lpath, **options))

    def rm_file(self, path: str) -> Any:
        return self._count(lambda: super(FailingStore, self).rm_file(path))


fsspec.register_implementation("failing", FailingStore, clobber=True)


@pytest.fixture(autouse=True)
def empty_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    FailingStore.store.clear()
    FailingStore.left, FailingStore.heeded = None, False
    on_machine(monkeypatch, tmp_path / "here")
    yield
    FailingStore.left = None


def on_machine(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Go on on a machine whose working copies lie in that folder."""
    monkeypatch.setenv("TOSSLM_CACHE", str(folder))


def steps_of(version: str) -> dict[str, dict[str, str]]:
    """What a small run's steps write: two versions differ in the selection, and in which files it has."""
    extra = {"selection/evidence.json": "1"} if version == "old" else {"selection/weights.json": "2"}
    return {
        "data": {"data/custom.parquet": "rows", "data/harmful.parquet": "harm"},
        DEGRADED: {f"{DEGRADED}/adapter_model.safetensors": "hazard"},
        "scores/round-0": {"scores/round-0/part-00000.parquet": "scores"},
        "selection": {"selection/keep.parquet": f"keep {version}", **extra},
    }


def write_run(version: str = "old", *, url: str = URL) -> list[str]:
    """Do the steps of a version as the run folder's one writer; those that were done now."""
    folder, done = RunFolder(url), []
    with folder.lock(OUTPUTS):
        for name, files in steps_of(version).items():
            mark = Mark(name, f"{name} {sorted(files.values())}", {}, (name,), [], folder.layout.work / "one")
            if not folder.is_withheld(mark) and folder.do(mark, partial(_write, folder.path, files)):
                done.append(name)
    return done


def _write(root: Path, files: dict[str, str]) -> dict[str, Any]:
    """Write a step's files, and give the facts that a manifest must have of it."""
    (root / next(iter(files))).parent.mkdir(parents=True, exist_ok=True)
    for old in (root / next(iter(files))).parent.iterdir():
        old.unlink()
    for name, text in files.items():
        write_text(root / name, text)
    return FACTS.get(next(iter(files)).split("/")[0], {})


def objects() -> dict[str, bytes]:
    """What lies in the store, by its name in the run folder."""
    return {name.removeprefix("/bucket/runs/x/"): file.getvalue() for name, file in FailingStore.store.items()}


def named() -> dict[str, str]:
    """The files that the manifest there names, with their checksums; without those that it says are kept back."""
    manifest = json.loads(objects()["manifest.json"])
    return {
        file: checksum
        for step, entry in manifest["stages"].items()
        if step not in manifest["withheld"]
        for file, checksum in entry["files"].items()
    }


def assert_whole(tmp_path: Path) -> None:
    """What the manifest in the store names is there, with that checksum."""
    there = objects()
    if "manifest.json" not in there or "withheld" not in json.loads(there["manifest.json"]):
        return  # nothing is named yet
    for file, checksum in named().items():
        (tmp_path / "one").write_bytes(there[file])
        assert sha256(tmp_path / "one") == checksum


def expected(version: str) -> dict[str, bytes]:
    files = {name: text for step in steps_of(version).values() for name, text in step.items()}
    return {name: text.encode() for name, text in files.items() if not name.startswith("references/degraded")}


def stored() -> dict[str, bytes]:
    return {name: content for name, content in objects().items() if name != "manifest.json"}


def test_a_run_lies_there_under_its_own_names_without_the_degraded_reference_and_without_a_lock() -> None:
    write_run()
    assert stored() == expected("old")
    assert json.loads(objects()["manifest.json"])["withheld"] == [DEGRADED]


def test_what_is_done_is_not_done_again_here_or_on_another_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert write_run() == list(steps_of("old"))
    assert write_run() == []
    on_machine(monkeypatch, tmp_path / "there")
    assert write_run() == []
    assert write_run("new") == ["selection"]
    assert stored() == expected("new")
    on_machine(monkeypatch, tmp_path / "here")
    assert write_run("new") == []


@pytest.mark.slow
@pytest.mark.parametrize("heeded", [False, True], ids=["unheard", "heeded, answer lost"])
def test_wherever_a_write_fails_the_manifest_names_what_is_there_and_the_next_run_ends_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, heeded: bool
) -> None:
    write_run()
    before = dict(FailingStore.store)
    FailingStore.asked = 0
    write_run("new")
    requests = FailingStore.asked
    assert requests > 10
    for left in range(1, requests + 1):
        FailingStore.store.clear()
        on_machine(monkeypatch, tmp_path / f"{left}")
        FailingStore.store |= {name: _copy(file) for name, file in before.items()}
        write_run()
        FailingStore.left, FailingStore.heeded = left, heeded
        with pytest.raises(TosslmError, match="the store is gone"):
            write_run("new")
        FailingStore.left = None
        assert_whole(tmp_path)
        write_run("new")
        assert_whole(tmp_path)
        assert stored() == expected("new"), f"after request {left} of {requests}"


@pytest.mark.slow
@pytest.mark.parametrize("heeded", [False, True])
def test_wherever_the_first_write_fails_the_next_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, heeded: bool
) -> None:
    FailingStore.asked = 0
    write_run()
    for left in range(1, FailingStore.asked + 1):
        FailingStore.store.clear()
        on_machine(monkeypatch, tmp_path / f"{left}")
        FailingStore.left, FailingStore.heeded = left, heeded
        with pytest.raises(TosslmError, match="the store is gone"):
            write_run()
        FailingStore.left = None
        assert_whole(tmp_path)
        write_run()
        assert stored() == expected("old"), f"after request {left}"


def test_wherever_reading_fails_the_next_reader_gets_it_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_run()
    for left in range(1, 7):
        on_machine(monkeypatch, tmp_path / f"{left}")
        FailingStore.left = left
        if left < 6:
            with pytest.raises(TosslmError, match="the store is gone"):
                load_run(URL)
        FailingStore.left = None
        run = load_run(URL)
        found = {name: (run.path / name).read_bytes() for name in expected("old")}
        assert found == expected("old")


def _copy(file: Any) -> Any:
    copied = type(file)(file.fs, file.path, file.getvalue())
    copied.modified = file.modified
    return copied


def test_a_step_that_could_not_be_pushed_is_kept_and_pushed_later() -> None:
    FailingStore.left = 12
    with pytest.raises(TosslmError, match="the store is gone"):
        write_run()
    FailingStore.left = None
    assert "data" not in write_run()
    assert stored() == expected("old")


@pytest.mark.parametrize("careless", [False, True])
def test_a_second_writer_is_refused_by_the_name_of_the_first(
    careless: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FailingStore, "careless", careless)
    with RunFolder(URL).lock(OUTPUTS):
        on_machine(monkeypatch, tmp_path / "there")
        with pytest.raises(TosslmError, match=rf"process \d+ on .* is writing here.*remove the object {URL}/\.lock"):
            write_run()
    assert write_run()


def test_the_lock_of_a_killed_process_is_taken_over_from_its_own_working_copy_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with RunFolder(URL).lock(OUTPUTS):
        left = objects()[".lock"]
    FailingStore().pipe_file(f"{URL}/.lock", left)
    on_machine(monkeypatch, tmp_path / "there")
    with pytest.raises(TosslmError, match="is writing here"):
        write_run()
    on_machine(monkeypatch, tmp_path / "here")
    said: list[str] = []
    with RunFolder(URL).lock(OUTPUTS, say=said.append):
        pass
    assert said == [f"{URL}: going on where a process of this working copy was ended"]
    assert ".lock" not in objects()


def test_a_writer_whose_lock_was_taken_away_writes_nothing_more() -> None:
    folder = RunFolder(URL)
    mark = Mark("data", "x", {}, ("data",), [], folder.layout.work / "one")

    def work() -> dict[str, Any]:
        FailingStore().rm_file(f"{URL}/.lock")
        return _write(folder.path, {"data/custom.parquet": "rows"})

    with pytest.raises(TosslmError, match=r"\.lock: was removed or taken over"), folder.lock(OUTPUTS):
        folder.do(mark, work)
    assert set(objects()) == {"manifest.json"}


def anothers_lock() -> None:
    """As one on another machine writes it."""
    FailingStore().pipe_file(f"{URL}/.lock", b'{"owner": "another", "who": "process 1 on elsewhere"}')


def test_a_lock_that_is_taken_away_during_an_upload_keeps_the_manifest_as_it_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An upload may take long enough for somebody to think that its writer is gone."""
    folder, upload = RunFolder(URL), FailingStore.put_file
    mark = Mark("data", "x", {}, ("data",), [], folder.layout.work / "one")
    uploaded: list[str] = []

    def upload_slowly(self: FailingStore, lpath: str, rpath: str, **options: Any) -> None:
        upload(self, lpath, rpath, **options)
        uploaded.append(rpath)
        anothers_lock()

    monkeypatch.setattr(FailingStore, "put_file", upload_slowly)
    work = partial(_write, folder.path, steps_of("old")["data"])
    with pytest.raises(TosslmError, match=r"\.lock: was removed or taken over"), folder.lock(OUTPUTS):
        folder.do(mark, work)
    assert len(uploaded) == 1
    assert json.loads(objects()["manifest.json"])["stages"] == {}
    assert b"another" in objects()[".lock"]


def test_of_two_writers_on_a_store_that_heeds_no_condition_one_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both are told that the lock is theirs; what stands there in the end is."""
    write = FailingStore.pipe_file

    def heedless(self: FailingStore, path: str, value: bytes, mode: str = "overwrite", **options: Any) -> None:
        write(self, path, value, **options)
        if mode == "create":
            anothers_lock()

    monkeypatch.setattr(FailingStore, "pipe_file", heedless)
    with pytest.raises(TosslmError, match="process 1 on elsewhere is writing here"):
        write_run()
    assert set(objects()) == {".lock"}


def test_a_folder_of_somebody_else_is_refused_and_left_alone() -> None:
    FailingStore().pipe_file(f"{URL}/data/mine.txt", b"mine")
    with pytest.raises(InputError, match=r"is no run folder .* and holds data"):
        write_run()
    assert objects() == {"data/mine.txt": b"mine"}


def test_objects_that_no_manifest_names_are_removed_and_those_of_the_user_are_not() -> None:
    write_run()
    for name in ("data/left.parquet", f"{DEGRADED}/adapter_model.safetensors", "notes.txt"):
        FailingStore().pipe_file(f"{URL}/{name}", b"x")
    write_run()
    assert stored() == expected("old") | {"notes.txt": b"x"}


def test_a_degraded_reference_under_another_name_is_refused() -> None:
    folder = RunFolder(URL)

    def do(name: str) -> None:
        mark = Mark(name, name, {}, (name,), [], folder.layout.work / "one")
        folder.do(mark, partial(_write, folder.path, {f"{name}/adapter_model.safetensors": "hazard"}))

    with folder.lock((*OUTPUTS, "model")):
        do(DEGRADED)
    refused = pytest.raises(TosslmError, match=r"model/adapter_model\.safetensors: is a degraded reference")
    with refused, folder.lock((*OUTPUTS, "model")):
        do("model")
    assert not [name for name in objects() if name.endswith(".safetensors")]


def test_a_damaged_object_is_done_again_and_put_in_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_run()
    FailingStore().pipe_file(f"{URL}/selection/keep.parquet", b"other")
    on_machine(monkeypatch, tmp_path / "there")
    problems = [(finding.file, finding.problem) for finding in verify(load_run(URL))[1]]
    assert ("selection/keep.parquet", "missing") in problems
    assert write_run() == ["selection"]
    assert stored() == expected("old")


def test_only_what_is_wanted_is_fetched_once_and_for_the_owner_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_run()
    on_machine(monkeypatch, tmp_path / "there")
    run = load_run(URL, steps=("data",))
    assert sorted(file.name for file in run.path.rglob("*.parquet")) == ["custom.parquet", "harmful.parquet"]
    assert {file.stat().st_mode & 0o077 for file in run.path.rglob("*")} == {0}
    assert run.path.stat().st_mode & 0o077 == 0
    FailingStore.asked = 0
    load_run(URL, steps=("data",))
    assert FailingStore.asked == 1  # the manifest


def test_a_working_copy_is_named_by_its_url_and_written_by_it_alone() -> None:
    write_run()
    run = load_run(URL)
    assert (run.name, Run(run.path).name) == (URL, URL)
    with pytest.raises(InputError, match=f"is the working copy of {URL}"):
        write_run(url=str(run.path))


def test_fresh_starts_over(tmp_path: Path) -> None:
    write_run()
    with RunFolder(URL, fresh=True).lock(OUTPUTS):
        pass
    assert stored() == {}
    assert write_run("new") == list(steps_of("new"))
    assert stored() == expected("new")


def test_what_others_wrote_since_counts_and_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_run()
    on_machine(monkeypatch, tmp_path / "there")
    write_run("new")
    on_machine(monkeypatch, tmp_path / "here")
    said: list[str] = []
    with RunFolder(URL).lock(OUTPUTS, say=said.append):
        pass
    assert "what this copy has of selection is not used" in said[0]
    assert stored() == expected("new")


class Trainer:
    """Steps of a run as its stages make them, but quick, and what they did on one machine."""

    def __init__(self, weights: str) -> None:
        self.weights, self.did = weights, list[str]()

    def steps(self) -> list[Step]:
        scores, first = "scores/round-0", ("data", DEGRADED, "scores/round-0", "selection", "diagnosis")
        return [
            self._step("data", "data", ()),
            self._step(DEGRADED, "references", ("data",)),
            self._step(scores, "score", ("data", DEGRADED)),
            self._step("selection", "select", (scores,)),
            self._step("diagnosis", "diagnose", (DEGRADED, scores, "selection")),
            self._step("report", "report", first),
        ]

    def _step(self, name: str, stage: str, reads: tuple[str, ...]) -> Step:
        def work(bench: Workbench, mark: Mark) -> dict[str, Any]:
            if stage in ("score", "diagnose"):
                assert (bench.layout.of(DEGRADED) / "adapter_model.safetensors").exists(), "it is read here"
            self.did.append(name)
            made = f"weights {self.weights}" if stage == "references" else f"made by {name}"
            if stage == "score":
                made += (bench.layout.of(DEGRADED) / "adapter_model.safetensors").read_text(encoding="utf-8")
            kind = "adapter_model.safetensors" if stage == "references" else "made.json"
            return _write(bench.layout.root, {f"{name}/{kind}": made})

        return Step(name, stage, 1, reads, work)

    def run(self, until: str) -> list[str]:
        """Do the steps up to one, as often as it takes; those that were done, in order."""
        bench, steps = bench_of(Path("unused")), self.steps()
        wanted = steps[: [step.name for step in steps].index(until) + 1]
        bench = replace(bench, folder=RunFolder(URL))
        with bench.folder.lock((*OUTPUTS, "diagnosis", "report")):
            while not all_done(wanted, bench):
                self.did.append("again")
        return self.did


def test_a_degraded_reference_is_trained_elsewhere_again_only_for_a_step_that_reads_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert Trainer("a").run("scores/round-0") == ["data", DEGRADED, "scores/round-0"]
    on_machine(monkeypatch, tmp_path / "there")
    assert Trainer("a").run("selection") == ["selection"]
    assert Trainer("a").run("diagnosis") == [DEGRADED, "diagnosis"]
    on_machine(monkeypatch, tmp_path / "beyond")
    assert Trainer("a").run("report") == ["report"]
    assert not [name for name in objects() if name.startswith("references")]
    assert verify(load_run(URL))[1] == []


def test_with_other_weights_what_was_made_from_the_degraded_reference_is_done_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Trainer("a").run("selection")
    on_machine(monkeypatch, tmp_path / "there")
    did = Trainer("b").run("report")
    assert did == [DEGRADED, "again", "scores/round-0", "selection", "diagnosis", "report"]
    assert objects()["scores/round-0/made.json"] == b"made by scores/round-0weights b"
    assert verify(load_run(URL))[1] == []


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("nothing-knows-this://bucket/x", "install|check the scheme"),
        ("s3://key:secret@bucket/x", "password"),
        ("https://host/x?X-Amz-Signature=abc", "signature"),
    ],
)
def test_a_url_that_cannot_be_used_is_refused_without_its_secrets(url: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as refused:
        RunFolder(url)
    assert "secret" not in str(refused.value)
    assert "abc" not in str(refused.value)


def test_there_is_no_run_where_none_was_written() -> None:
    with pytest.raises(InputError, match=r"no run there \(no manifest\.json\)"):
        load_run(URL)
