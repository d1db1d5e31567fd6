"""Results of a study: whole lines from many writers, each with the code, base and versions it was measured with."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from studies.provenance import code_version
from studies.safety.ledger import FIELDS, add_result, check_bases, ledger, read_results, short
from studies.safety.quality import Split


def line_of(method: str, seed: int = 0, base: str | None = "b1") -> dict[str, Any]:
    about = {"base": base, "code": "c", "versions": {"tosslm": "0"}, "seconds": 1.5}
    return {"method": method, "seed": seed, **about, "metrics": {"refusal_rate": {}}, "dropped": None}


def test_a_line_comes_back_as_it_was_written(tmp_path: Path) -> None:
    file = ledger(tmp_path / "new", "d 0.1")
    assert file.name == "d-0.1.jsonl"
    assert read_results(file) == {}
    assert add_result(file, line_of("toss", 1))
    assert add_result(file, line_of("sft"))
    assert read_results(file) == {"toss": {1: line_of("toss", 1)}, "sft": {0: line_of("sft")}}
    assert [tuple(json.loads(text)) for text in file.read_text().splitlines()] == [FIELDS, FIELDS]


def test_what_has_a_line_gets_no_second_one(tmp_path: Path) -> None:
    file = tmp_path / "headline.jsonl"
    assert add_result(file, line_of("toss"))
    assert not add_result(file, line_of("toss") | {"seconds": 9.0})
    assert read_results(file)["toss"][0]["seconds"] == 1.5


def test_a_line_with_other_fields_or_a_value_that_is_no_number_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "headline.jsonl"
    for wrong in ({"extra": 1}, {"metrics": {"loss": float("nan")}}):
        with pytest.raises(ValueError, match=r"fields|JSON"):
            add_result(file, line_of("toss") | wrong)
    assert not file.exists()


@pytest.mark.parametrize("left", [1, 20, -1])
def test_a_line_that_a_killed_process_left_half_written_is_dropped_and_mended(tmp_path: Path, left: int) -> None:
    file = tmp_path / "headline.jsonl"
    add_result(file, line_of("sft"))
    whole = file.read_bytes()
    file.write_bytes(whole + whole.replace(b"sft", b"toss")[:left])
    assert read_results(file).keys() == {"sft"}
    assert add_result(file, line_of("toss"))
    assert file.read_bytes() == whole + whole.replace(b"sft", b"toss")


def test_a_file_that_holds_nothing_but_a_torn_line_is_mended(tmp_path: Path) -> None:
    file = tmp_path / "headline.jsonl"
    file.write_text('{"method": "to')
    assert read_results(file) == {}
    assert add_result(file, line_of("toss"))
    assert read_results(file).keys() == {"toss"}


@pytest.mark.parametrize("damaged", ["{", "[]", '{"method": "toss"}', ""])
def test_a_damaged_line_within_is_named(tmp_path: Path, damaged: str) -> None:
    file = tmp_path / "headline.jsonl"
    add_result(file, line_of("sft"))
    file.write_text(file.read_text() + damaged + "\n")
    with pytest.raises(SystemExit, match=r"headline\.jsonl:2: no result"):
        read_results(file)


def test_two_lines_of_one_method_and_seed_are_named(tmp_path: Path) -> None:
    file = tmp_path / "headline.jsonl"
    add_result(file, line_of("sft"))
    file.write_text(file.read_text() * 2)
    with pytest.raises(SystemExit, match=r"headline\.jsonl:2: a second line of sft, seed 0"):
        read_results(file)


@pytest.mark.slow
def test_processes_that_share_a_file_write_every_line_once(tmp_path: Path) -> None:
    """Four at a time, each all of the same forty methods, with lines longer than one write of a buffer."""
    file = tmp_path / "headline.jsonl"
    script = (
        "import json, sys, pathlib\n"
        "from studies.safety.ledger import add_result\n"
        "line = json.loads(sys.argv[2]) | {'metrics': {'loss': {'test': {'values': [0.12345] * 3000}}}}\n"
        "added = [add_result(pathlib.Path(sys.argv[1]), line | {'method': str(n)}) for n in range(40)]\n"
        "print(sum(added))\n"
    )
    command = [sys.executable, "-c", script, str(file), json.dumps(line_of(""))]
    root = Path(__file__).parents[1]
    running = [subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    added = [int(process.communicate(timeout=120)[0]) for process in running]
    assert sum(added) == 40
    assert set(read_results(file)) == {str(n) for n in range(40)}
    assert len(file.read_bytes().splitlines()) == 40


def test_two_known_bases_do_not_stand_in_one_table(tmp_path: Path) -> None:
    mixed = {"sft": {0: line_of("sft", base="b1")}, "toss": {0: line_of("toss", base="b2")}}
    with pytest.raises(SystemExit, match=r"b1: sft \(seed 0\); b2: toss \(seed 0\)"):
        Split(mixed, "test")
    file = tmp_path / "headline.jsonl"
    add_result(file, line_of("sft", base="b1"))
    with pytest.raises(SystemExit, match="different bases"):
        add_result(file, line_of("toss", base="b2"))
    assert read_results(file).keys() == {"sft"}


def test_a_base_that_is_not_known_goes_with_any(tmp_path: Path) -> None:
    file = tmp_path / "headline.jsonl"
    for method, base in (("sft", None), ("toss", "b1"), ("rows", None)):
        assert add_result(file, line_of(method, base=base))
    check_bases(read_results(file), "b1")
    with pytest.raises(SystemExit, match="what is to be measured"):
        check_bases(read_results(file), "b2")


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

    for name in ("code.py", "docs/page.md", "studies/safety/results/headline.jsonl"):
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
    (tmp_path / "studies/safety/results/headline.jsonl").write_text("written by the study")
    assert version() == commit
    (tmp_path / "code.py").write_text("b\n")
    assert version() == f"{commit}-dirty"


def test_the_results_that_are_kept_can_be_read() -> None:
    results = Path(__file__).parents[1] / "studies/safety/results"
    for file in results.glob("*.jsonl"):
        for method, seeds in read_results(file).items():
            for line in seeds.values():
                assert set(line) == set(FIELDS), (file, method)
