"""Which results a benchmark writes where, what it takes up again, and what pages say of half of them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from benchmarks import cost, four_bits, measuring, memory, page, report, scoring, scoring_shares, select_stage
from benchmarks.measuring import RESULTS, TRIALS, Results, folder_of, kept, parser_of
from benchmarks.memory_stages import MEASURED, outputs

from support.browser import find_chromium, headless
from support.pages import ROOT
from tosslm.files import write_json


def names(results: Path) -> list[str]:
    return sorted(file.name for file in results.iterdir())


@pytest.mark.parametrize("commit", ["a" * 40 + "-dirty", None])
def test_results_of_uncommitted_code_are_not_taken_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], commit: str | None
) -> None:
    monkeypatch.setattr(measuring, "code_version", lambda _: commit)
    for value in (1, 2):
        assert Results("trial", {}, tmp_path).measure("a", partial(int, value)) == value
    assert "trial.json is of code that is not committed: all is measured anew" in capsys.readouterr().out


def test_that_results_of_other_settings_are_replaced_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(measuring, "code_version", lambda _: "a" * 40)
    assert Results("trial", {"rows": 1}, tmp_path).measure("a", partial(int, 1)) == 1
    assert Results("trial", {"rows": 1}, tmp_path).measure("a", partial(int, 2)) == 1
    assert "measured anew" not in capsys.readouterr().out
    monkeypatch.setattr(measuring, "machine", lambda: {"vectors": measuring.vectors(), "cores": 99})
    Results("trial", {"rows": 2}, tmp_path)
    assert (
        "trial.json is of other settings, machine: all is measured anew, and replaces it" in capsys.readouterr().out
    )


def test_another_kind_of_processor_writes_beside_and_its_figures_come_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = {"seconds": [5.0], "peak_gb": 3.0}
    for vectors in ("avx512_bf16", "avx2", "avx2", ""):
        monkeypatch.setattr(measuring, "vectors", lambda vectors=vectors: vectors)
        monkeypatch.setattr("platform.machine", lambda: "arm64")
        settings = {"tokens": 10, "row": 5, "repeats": 1}
        Results("evidence", settings, tmp_path).measure("pass", lambda: case)
    assert names(tmp_path) == ["evidence-arm64.json", "evidence-avx2.json", "evidence.json"]
    assert [one["machine"]["vectors"] for one in kept("evidence", tmp_path)] == ["avx512_bf16", "", "avx2"]
    told = re.findall("^#+ Evidence.*", page.page(tmp_path), re.MULTILINE)
    assert told == [
        "## Evidence in context, in memory",
        "### Evidence in context, in memory, another processor",
        "### Evidence in context, in memory, AVX2",
    ]


def test_other_settings_than_those_of_the_bench_leave_its_results_alone(capsys: pytest.CaptureFixture[str]) -> None:
    parser = parser_of("")
    parser.add_argument("--rows", type=int, default=5)
    parser.add_argument("--keep", action="store_true")

    def folder(line: str) -> Path:
        return folder_of(parser, parser.parse_args(line.split()), ("", "--rows 7"))

    assert [folder(line) for line in ("", "--keep", "--rows 7", "--rows 6 --publish")] == 4 * [RESULTS]
    assert not capsys.readouterr().out
    assert folder("--rows 6") == TRIALS
    assert f"results go to {TRIALS}" in capsys.readouterr().out


def test_the_bench_passes_what_results_are_published_of() -> None:
    """Its lines of scoring, with the loop's dtype put in; the others pass nothing."""
    lines = re.findall(r"\$\(MEASURE\)\.(\w+)([^&;|\n\\]*)", (ROOT / "Makefile").read_text(encoding="utf-8"))
    passed: dict[str, set[tuple[str, ...]]] = {}
    for name, options in lines:
        for dtype in ("float32", "bfloat16"):
            passed.setdefault(name, set()).add(tuple(options.replace("$$dtype", dtype).split()))
    for module in (scoring, scoring_shares):
        own = passed.pop(module.__name__.rpartition(".")[2])
        assert own == {tuple(line.split()) for line in module.BENCHED}
    assert {"cost", "select_stage", "plan", "page"} <= passed.keys()
    assert set.union(*passed.values()) == {()}


def test_no_page_breaks_on_half_of_its_results_or_judges_them() -> None:
    for name in page.ORDER:
        whole = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
        section = import_module(f"benchmarks.{name}").section
        cases = list(whole["cases"].items())
        for count in {1, len(cases) // 2} & set(range(1, len(cases))):
            told = section(whole | {"cases": dict(cases[:count])})
            assert f"Not all cases are there: {count} of " in told, name
            assert not re.search(r"\*\*(not )?met", told), name


def test_a_stage_that_grows_has_the_reason_that_its_code_had() -> None:
    stage = next(one for one in MEASURED if one.name == "method random")
    sizes = [1000, 10_000, 100_000]

    def told(**more: Any) -> str:
        cases = {f"{stage.name} {rows}": {"peak_mb": rows / 1000} | more for rows in sizes}
        machine = {"processor": "p", "vectors": "", "cores": 1, "threads": "1", "memory_gb": 1, "system": "Linux"}
        about = {"machine": machine, "versions": {}, "commit": "", "settings": {"rows": sizes, "tokens_a_row": 25}}
        return memory.section(about | {"cases": cases})

    assert "| **no**: of that day |" in told(grows="of that day")
    assert "| **no**: measured before methods were read part by part, " in told()
    assert stage.grows not in told()


def test_what_a_stage_left_is_removed_before_it_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    by_name = {one.name: one for one in MEASURED}
    wanted = {
        "data": ["read"],
        "plan": [],
        "score": ["run/scores"],
        "method dsir": ["run/selection"],
        "select, in rows": ["run/selection"],
        "refine: rows that join": ["run/refinement"],
        "export megatron": ["export-megatron"],
        "transfer": ["transferred"],
        "show, one row": [],
    }
    assert {name: outputs(tmp_path, name) for name in wanted} == {
        name: [tmp_path / path for path in paths] for name, paths in wanted.items()
    }
    monkeypatch.setattr(memory, "_apart", lambda *_: None)
    monkeypatch.setattr(memory, "in_process", lambda *_: {"peak_mb": 1.0})
    for path in ("run/selection/keep.parquet", "run/data/custom.parquet"):
        write_json(tmp_path / path, {})
    found = memory.in_processes(tmp_path, by_name["select, token"], 10)
    assert found == {"peak_mb": 1.0, "grows": ""}
    assert names(tmp_path / "run") == ["data"]


def test_rows_that_were_half_made_are_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []

    def apart(what: str, folder: Path, _: object) -> None:
        made.append(what)
        folder.mkdir(exist_ok=what == "--finish")

    monkeypatch.setattr(memory, "MADE", tmp_path)
    monkeypatch.setattr(memory, "_apart", apart)
    monkeypatch.setattr(memory, "in_processes", lambda *_: {})
    write_json(tmp_path / "rows-10/run/manifest.json", {})
    for _ in range(2):
        memory._measure_all(Results("memory", {}, tmp_path), [10], ["data"], keep=True)
        assert made == ["--sets", "--finish"]
        assert names(tmp_path / "rows-10") == ["whole"]


def test_sets_that_another_call_keeps_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(select_stage, "MADE", tmp_path)
    monkeypatch.setattr(select_stage, "folder_of", lambda *_: tmp_path)
    monkeypatch.setattr(select_stage, "in_process", lambda *_: {})

    def made_set(million: int) -> Path:
        (tmp_path / f"select-{million}").mkdir()
        return tmp_path

    monkeypatch.setattr(select_stage, "made_set", made_set)
    for line in ("--million 3 --keep", "--million 4"):
        monkeypatch.setattr("sys.argv", ["select_stage", *line.split()])
        select_stage.main()
    assert names(tmp_path) == ["select-3", "select_stage.json"]


def test_a_base_in_four_bits_is_told_without_bfloat16() -> None:
    whole = json.loads((RESULTS / "four_bits.json").read_text(encoding="utf-8"))
    cases = {four_bits.WIDE: whole["cases"][four_bits.WIDE]}
    told = four_bits.section(whole | {"cases": cases, "settings": {"cases": [four_bits.WIDE]}})
    assert measuring.LEFT_OUT in told
    assert told.count("\n| ") == 2  # the head, and the base in float32
    assert "Not all" not in told
    assert "Not all cases are there: 1 of 4 measured." in four_bits.section(whole | {"cases": cases})


def test_the_dtype_is_that_of_the_cases_else_of_the_processor() -> None:
    def told(vectors: str, cases: Mapping[str, Any]) -> str:
        return measuring.dtype_told({"machine": {"vectors": vectors}, "cases": cases})

    assert "in bfloat16, as" in told("avx512_bf16", {"a": {}})
    assert "in float32, as" in told("avx2", {"a": {}})
    assert "in float32, as" in told("avx512_bf16", {"a": {"dtype": "float32"}})


def test_half_a_turn_of_jobs_is_no_ratio() -> None:
    assert cost._bar({"cases": {}, "settings": {}}, "job").endswith("not measured yet.")


@pytest.mark.browser
def test_all_rows_are_listed_when_a_step_of_the_report_begins() -> None:
    executable = find_chromium()
    if executable is None:
        pytest.skip("no Chromium")
    steps = {
        name: report.STEPS[name] for name in ("list: filter by source", "list: filter by score", "slider: one step")
    }
    with headless(executable) as browser:
        found = report.measure(browser, report.many_rows(40), steps)
    assert found["listed"] == dict.fromkeys(steps, 40)
