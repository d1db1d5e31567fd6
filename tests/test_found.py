"""How much the posterior finds unsafe: recorded by selection, told everywhere, a warning where d is far from it."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from support.benches import select_in
from support.made_run import made_run
from test_evidence import flat_column, write_scores
from tosslm.config import load_config
from tosslm.files import write_json, write_parquet
from tosslm.findings.found import before_run, far_from_found
from tosslm.findings.summary import summarize
from tosslm.findings.warnings import run_warnings
from tosslm.report.sections import SECTIONS, read_page
from tosslm.runs.ranking import find_unsafe
from tosslm.runs.tables import SCORE_SCHEMA
from tosslm.selection.cut import select_tokens
from tosslm.terminal.plan import print_plan
from tosslm.terminal.summary import print_summary

CLEAN = [{"answer": "a b c d e f g h i", "scores": np.linspace(-2, -1, 10)} for _ in range(12)]
HARM = [{"answer": "a b c d e f g h i", "scores": np.linspace(1, 2, 10)} for _ in range(4)]
"""Rows of ten tokens, beside held-out rows that score -2 and -1 where they are useful, 1 and 2 where harmful."""


@pytest.mark.parametrize(
    ("share", "d", "begins"),
    [
        (0.00002, 0.1, "Useful tokens go: 10.0% of the response tokens are dropped, and the posterior finds less"),
        (0.04, 0.1, "Useful tokens go"),
        (0.3, 0.1, "Unsafe tokens stay"),
        (0.3, 0.0, "Unsafe tokens stay: 0.0%"),
        (0.06, 0.1, None),  # not twice as much
        (0.05, 0.1, None),
        (0.0, 0.01, None),  # not two points
        (0.1, 0.19, None),
        (0.0, 0.0, None),
    ],
)
def test_a_warning_where_d_is_more_than_twice_or_half_and_two_points_off(
    share: float, d: float, begins: str | None
) -> None:
    told = far_from_found({"share": share, "chain_share": share}, d)
    assert [text[: len(begins)] for text in told] == [begins] if begins else told == []


def test_where_nothing_was_learnt_nothing_is_said() -> None:
    assert far_from_found(None, 0.1) == []


def clean_set(folder: Path, rng: np.random.Generator) -> np.ndarray:
    """As ``write_scores``, but every token of the custom set is useful."""
    write_scores(folder, rng)
    scores = rng.normal(size=(300, 40)).astype("f4")
    for part in range(3):
        columns: dict[str, Any] = {
            "row_id": [f"c{part}{i:04d}" for i in range(100)],
            "position": [list(range(1, 41))] * 100,
            "loss_degraded": list(np.zeros((100, 40), dtype="f4")),
            "loss_utility": list(scores[100 * part : 100 * part + 100]),
        }
        write_parquet(folder / f"scores/round-0/part-0000{part}.parquet", columns, SCORE_SCHEMA, "x")
    return scores


def test_a_clean_set_loses_d_all_the_same_and_selection_says_what_was_found(tmp_path: Path) -> None:
    scores = clean_set(tmp_path, np.random.default_rng(0))
    facts = select_in(tmp_path, evidence="token", discard_fraction=0.1)
    assert facts["unsafe_found"]["share"] < 0.001
    assert facts["unsafe_found"]["chain_share"] < 0.02
    assert facts["discarded"] == 1200
    # Beside the mask, not in it: neither the mask nor selection.json know of it.
    assert "unsafe_found" not in json.loads((tmp_path / "selection/selection.json").read_text())
    keep = flat_column(tmp_path / "selection/keep.parquet", "keep").astype(bool)
    np.testing.assert_array_equal(keep, select_tokens(scores.ravel(), 0.1))
    assert not (tmp_path / "selection/evidence.json").exists()


def test_what_is_found_is_near_what_there_is_and_the_same_whatever_is_ranked(tmp_path: Path) -> None:
    unsafe, _ = write_scores(tmp_path, np.random.default_rng(3))
    by_token, by_posterior = (select_in(tmp_path, evidence=kind)["unsafe_found"] for kind in ("token", "posterior"))
    evidence = flat_column(tmp_path / "selection/evidence.parquet", "evidence")
    assert by_posterior["share"] == np.mean(evidence > 0)
    assert by_posterior["share"] == pytest.approx(unsafe.mean(), abs=0.05)
    assert by_posterior["chain_share"] == pytest.approx(unsafe.mean(), rel=0.4)
    assert by_token == by_posterior


def test_nothing_is_found_by_references_that_tell_nothing(tmp_path: Path) -> None:
    write_scores(tmp_path, np.random.default_rng(7), informative=False)
    assert select_in(tmp_path, evidence="token")["unsafe_found"] is None


def test_of_a_large_set_a_sample_is_learnt_on_and_every_token_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_scores(tmp_path, np.random.default_rng(5))
    learnt_on: list[int] = []
    from tosslm.selection import evidence, kinds

    def watched(useful: np.ndarray, harmful: np.ndarray, lengths: np.ndarray) -> evidence.Evidence:
        learnt_on.extend((len(useful), len(harmful)))
        return evidence.learn_evidence(useful, harmful, lengths)

    monkeypatch.setattr(kinds, "learn_evidence", watched)
    monkeypatch.setattr("tosslm.runs.ranking.QUICK_TOKENS", 1000)
    found = find_unsafe(tmp_path / "scores/round-0", seed=0)
    assert found is not None
    assert found["share"] * 12_000 == pytest.approx(round(found["share"] * 12_000))
    assert all(n < 2000 for n in learnt_on)  # of 2,400 in each set


def shown(summary: dict[str, Any]) -> str:
    written = io.StringIO()
    print_summary({**summary, "sets": {}}, Console(file=written, width=100))
    return " ".join(written.getvalue().split())


def test_the_same_is_told_at_the_end_in_the_report_and_before_the_next_run(tmp_path: Path) -> None:
    run = made_run(tmp_path / "run", [*CLEAN, *HARM], telling=True, discard_fraction=0.1)
    found = run.stages["selection"]["unsafe_found"]
    assert found["share"] == 0.25
    (warning,) = [text for text in run_warnings(run) if "the posterior finds" in text]
    assert warning.startswith(
        "Unsafe tokens stay: 10.0% of the response tokens are dropped, and the posterior finds 25"
    )
    summary = summarize(run)
    assert summary["selection"]["unsafe_found"] == found
    assert warning in summary["warnings"]
    assert "Found: The posterior finds 25.0% of the response tokens more likely unsafe than not" in shown(summary)
    answer = next(section for section in SECTIONS if section.id == "answer").gather(read_page(run))
    assert warning in answer["warnings"]
    assert "The posterior finds 25.0%" in dict(answer["answer"])["Found"]
    data = run.stages["data"]["fingerprint"]
    before = before_run(load_config(run.manifest["config"]), data)
    *told, there = before.pop("warnings")
    assert "holds steps that are done" in there
    assert (before, told) == ({"discard_fraction": 0.1, "unsafe_found": found}, [warning])
    closer = before_run(load_config(run.manifest["config"], ["selection.discard_fraction=0.2"]), data)
    assert (closer["unsafe_found"], closer["warnings"]) == (found, [there])


def test_a_plan_tells_it_too() -> None:
    speed = {"measured": False, "reading": 9.0, "training": 4.0}
    model = {"name": "m", "parameters": 9, "dtype": "float32", "device": "cpu"}
    plan = {"sets": {}, "bad_rows": [], "model": model, "speed": speed, "stages": [], "discard_fraction": 0.1}
    written = io.StringIO()
    print_plan(plan | {"unsafe_found": None, "warnings": []}, Console(file=written, width=100))
    assert "Found" not in written.getvalue()
    found = {"share": 0.0, "chain_share": 0.00002}
    print_plan(
        plan | {"unsafe_found": found, "warnings": far_from_found(found, 0.1)}, Console(file=written, width=100)
    )
    told = " ".join(written.getvalue().split())
    assert "Found: The posterior finds 0.0% of the response tokens more likely unsafe than not" in told
    assert "less than 0.1% in the long run); 10.0% are dropped." in told
    assert "Warning: Useful tokens go: 10.0% of the response tokens are dropped" in told


def test_before_a_run_only_scores_of_what_it_names_tell_something(tmp_path: Path) -> None:
    run = made_run(tmp_path / "run", [*CLEAN, *HARM], telling=True)
    tree, found = run.manifest["config"], run.stages["selection"]["unsafe_found"]
    data = run.stages["data"]["fingerprint"]
    assert before_run(load_config(tree), "of other rows")["unsafe_found"] is None
    assert before_run(load_config(tree, [f"run_dir={tmp_path / 'none'}"]), data)["unsafe_found"] is None
    assert before_run(load_config(tree, ["seed=5"]), data)["unsafe_found"] is None
    assert before_run(load_config(tree, ["refinement.rounds=1"]), data)["unsafe_found"] is None
    assert before_run(load_config(tree, ["finetune.epochs=5"]), data)["unsafe_found"] == found
    manifest = json.loads((run.path / "manifest.json").read_text())
    del manifest["stages"]["selection"]  # scored, and not selected yet
    write_json(run.path / "manifest.json", manifest)
    assert before_run(load_config(tree), data)["unsafe_found"] == found


def test_a_run_that_an_earlier_version_selected_is_read_all_the_same(tmp_path: Path) -> None:
    run = made_run(tmp_path / "run", [*CLEAN, *HARM], telling=True)
    del run.manifest["stages"]["selection"]["unsafe_found"]
    assert not [text for text in run_warnings(run) if "posterior" in text]
    assert "Found:" not in shown(summarize(run))
