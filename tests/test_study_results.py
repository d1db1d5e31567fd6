"""Results of a study: whole lines from many writers, each with the code and base it was measured with."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from studies.frontier.ledger import FIELDS, RESULTS, add_result, known, short
from studies.frontier.settings import SETTINGS
from studies.provenance import check_bases, code_version


def line_of(entry: str, scale: float = 1.0, base: str = "b1") -> dict[str, Any]:
    about = {"seed": 0, "split": "test", "scale": scale, "base": base, "code": "c", "seconds": 15}
    return {"entry": entry, **about, "metrics": {"refused": {"values": [1, 0], "weights": None}}}


def entries(results: Path) -> set[str]:
    return {entry for entry, *_ in known("whole", results)}


def test_a_line_comes_back_as_it_was_written(tmp_path: Path) -> None:
    assert known("whole", tmp_path / "new") == {}
    add_result("whole", line_of("toss", 0.6), tmp_path / "new")
    add_result("whole", line_of("toss"), tmp_path / "new")
    found = known("whole", tmp_path / "new")
    assert found == {("toss", 0, "test", scale): line_of("toss", scale) for scale in (0.6, 1.0)}
    text = (tmp_path / "new/whole.jsonl").read_text()
    assert [set(json.loads(line)) for line in text.splitlines()] == [{*FIELDS}, {*FIELDS}]


def test_a_line_with_other_fields_or_a_value_that_is_no_number_is_refused(tmp_path: Path) -> None:
    for wrong in ({"extra": 1}, {"metrics": {"loss": {"values": [float("nan")], "weights": [1]}}}):
        with pytest.raises(ValueError, match=r"fields|JSON"):
            add_result("whole", line_of("toss") | wrong, tmp_path)
    assert not (tmp_path / "whole.jsonl").exists()


@pytest.mark.parametrize("left", [1, 20, -1])
def test_a_line_that_a_killed_process_left_half_written_is_dropped_and_mended(tmp_path: Path, left: int) -> None:
    file = tmp_path / "whole.jsonl"
    add_result("whole", line_of("sft"), tmp_path)
    whole = file.read_bytes()
    file.write_bytes(whole + whole.replace(b"sft", b"toss")[:left])
    assert entries(tmp_path) == {"sft"}
    add_result("whole", line_of("toss"), tmp_path)
    assert file.read_bytes() == whole + whole.replace(b"sft", b"toss")


def test_a_file_that_holds_nothing_but_a_torn_line_is_mended(tmp_path: Path) -> None:
    (tmp_path / "whole.jsonl").write_text('{"entry": "to')
    assert known("whole", tmp_path) == {}
    add_result("whole", line_of("toss"), tmp_path)
    assert entries(tmp_path) == {"toss"}


@pytest.mark.parametrize("damaged", ["{", "[]", '{"entry": "toss"}', ""])
def test_a_damaged_line_within_is_named(tmp_path: Path, damaged: str) -> None:
    add_result("whole", line_of("sft"), tmp_path)
    file = tmp_path / "whole.jsonl"
    file.write_text(file.read_text() + damaged + "\n")
    with pytest.raises(SystemExit, match=r"whole\.jsonl:2: no result"):
        known("whole", tmp_path)


@pytest.mark.slow
def test_processes_that_share_a_file_write_every_line_once(tmp_path: Path) -> None:
    """Four at a time, each all of the same forty entries, with lines longer than one write of a buffer."""
    script = (
        "import json, sys, pathlib\n"
        "from studies.frontier.ledger import add_result\n"
        "line = json.loads(sys.argv[2]) | {'metrics': {'loss': {'values': [0.12345] * 3000, 'weights': None}}}\n"
        "for n in range(40):\n"
        "    add_result('whole', line | {'entry': str(n)}, pathlib.Path(sys.argv[1]))\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path), json.dumps(line_of(""))]
    running = [subprocess.Popen(command, cwd=Path(__file__).parents[1]) for _ in range(4)]
    assert [process.wait(timeout=120) for process in running] == [0, 0, 0, 0]
    assert entries(tmp_path) == {str(n) for n in range(40)}
    assert len((tmp_path / "whole.jsonl").read_bytes().splitlines()) == 40


def test_two_bases_do_not_stand_in_one_table() -> None:
    check_bases({"sft": {0: {"base": "b1"}}, "toss": {0: {"base": "b1"}}, "rows": {0: {}}})
    with pytest.raises(SystemExit, match=r"b1: sft \(seed 0\); b2: toss \(seed 1\)"):
        check_bases({"sft": {0: {"base": "b1"}}, "toss": {1: {"base": "b2"}}})


def test_values_are_kept_short() -> None:
    kept = [short(value) for value in (1.0, 0.0, 12.0, 0.123456, -2.5)]
    assert json.dumps(kept) == "[1, 0, 12, 0.12346, -2.5]"


def test_code_is_the_commit_and_says_where_files_have_changes(tmp_path: Path) -> None:
    def git(*arguments: str) -> str:
        person = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
        done = subprocess.run(["git", *person, *arguments], cwd=tmp_path, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    def version() -> str | None:
        code_version.cache_clear()
        return code_version(tmp_path)

    for name in ("code.py", "docs/page.md", "studies/frontier/results/whole.jsonl"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("a\n")
    assert version() is None
    git("init", "-q")
    git("add", ".")
    git("commit", "-qm", "one")
    commit = git("rev-parse", "HEAD")
    assert version() == commit
    (tmp_path / "new.txt").write_text("not tracked")
    (tmp_path / "docs/page.md").write_text("written by the study")
    (tmp_path / "studies/frontier/results/whole.jsonl").write_text("written by the study")
    assert version() == commit
    git("add", "docs", "studies")
    git("commit", "-qm", "what was measured")
    assert version() == commit  # so nothing is measured again for its own results
    (tmp_path / "code.py").write_text("b\n")
    assert version() == f"{commit}-dirty"
    git("commit", "-qam", "two")
    assert version() == git("rev-parse", "HEAD")


@pytest.mark.parametrize("setting", SETTINGS)
def test_the_results_that_are_kept_can_be_read(setting: str) -> None:
    for line in known(setting, RESULTS).values():
        assert set(line) == set(FIELDS)
