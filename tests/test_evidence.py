"""What scores say of tokens, learnt from held-out rows; and selection by it."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from sklearn.metrics import roc_auc_score

import tosslm
from support.benches import select_in
from tosslm.config import load_config
from tosslm.data.rows import held_out
from tosslm.errors import InputError, TosslmError
from tosslm.files import write_parquet
from tosslm.findings.rows import row_record
from tosslm.findings.summary import summarize
from tosslm.runs.ranking import check_held_out
from tosslm.runs.tables import HELDOUT_SCHEMA, SCORE_SCHEMA
from tosslm.selection.evidence import learn_evidence, window_means
from tosslm.terminal.rows import render_row
from tosslm.terminal.summary import print_summary

row_lengths = st.lists(st.integers(0, 12), min_size=1, max_size=6)


@given(row_lengths, st.integers(1, 9), st.integers(0, 2**16))
def test_a_window_is_the_mean_of_near_tokens_of_the_same_row(lengths: list[int], width: int, seed: int) -> None:
    values = np.random.default_rng(seed).normal(size=sum(lengths))
    expected = []
    for row in np.split(values, np.cumsum(lengths)[:-1]):
        for t in range(len(row)):
            expected.append(np.mean([row[u] for u in range(len(row)) if abs(u - t) <= width // 2]))
    np.testing.assert_allclose(window_means(values, np.array(lengths), width), expected, atol=1e-12)


def test_a_window_of_one_token_is_the_token() -> None:
    values = np.random.default_rng(0).normal(size=20).astype(np.float32)
    np.testing.assert_array_equal(window_means(values, np.array([13, 7]), 1), values)
    with pytest.raises(ValueError, match="width is 0"):
        window_means(values, np.array([20]), 0)


def simulated(rng: np.random.Generator, rows: int, tokens: int, enter: float, leave: float) -> tuple[Any, Any]:
    """States and scores of rows in which unsafe tokens come in runs; their true evidence is ``1.5 * s - 1.125``."""
    unsafe = np.zeros((rows, tokens), dtype=bool)
    unsafe[:, 0] = rng.random(rows) < enter / (enter + leave)
    for t in range(1, tokens):
        unsafe[:, t] = rng.random(rows) < np.where(unsafe[:, t - 1], 1 - leave, enter)
    return unsafe, (rng.normal(size=unsafe.shape) + 1.5 * unsafe).astype(np.float32)


def test_evidence_is_learnt_although_harmful_rows_are_not_unsafe_throughout() -> None:
    rng = np.random.default_rng(1)
    _, harmful = simulated(rng, 400, 40, enter=0.05, leave=0.2)
    useful = rng.normal(size=16_000)
    evidence = learn_evidence(useful, harmful.ravel(), np.full(400, 40))
    # Further down unsafe tokens are too few to tell, further up useful ones.
    inner = (evidence.knots > -0.5) & (evidence.knots < 2.5)
    assert inner.sum() > 10
    np.testing.assert_allclose(evidence.ratios[inner], 1.5 * evidence.knots[inner] - 1.125, atol=0.5)
    assert evidence.chain.unsafe_share == pytest.approx(0.2, abs=0.05)
    assert evidence.useful.sum() == pytest.approx(1)
    assert evidence.unsafe.sum() == pytest.approx(1)
    # A ratio of the two sets' histograms calls every token of a harmful row unsafe, and is far too flat.
    edges = [-0.5, 0.5, 1.5, 2.5]
    blunt = np.log(np.histogram(harmful, edges)[0]) - np.log(np.histogram(useful, edges)[0])
    assert blunt[-1] - blunt[0] < 0.6 * np.diff(evidence(np.array([0.0, 2.0])))[0]


@pytest.mark.slow
@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**16), st.floats(-1, 2))
def test_evidence_never_falls_with_the_score(seed: int, shift: float) -> None:
    rng = np.random.default_rng(seed)
    evidence = learn_evidence(rng.normal(size=60), rng.normal(size=50) + shift, np.array([20, 0, 30]))
    assert (np.diff(evidence.ratios) >= 0).all()
    assert (np.diff(evidence.knots) > 0).all()
    assert (np.diff(evidence(np.linspace(-9, 9, 200))) >= 0).all()


def write_scores(
    folder: Path, rng: np.random.Generator, *, informative: bool = True, held_out: int = 60
) -> tuple[np.ndarray, np.ndarray]:
    """A run's data and scores with known states, in three parts; states and scores of the custom set."""

    def columns(scores: np.ndarray, prefix: str) -> dict[str, Any]:
        return {
            "row_id": [f"{prefix}{i:04d}" for i in range(len(scores))],
            "position": [list(range(1, scores.shape[1] + 1))] * len(scores),
            "loss_degraded": list(np.zeros_like(scores)),
            "loss_utility": list(scores),
        }

    unsafe, scores = simulated(rng, 300, 40, enter=0.02, leave=0.1)
    for part in range(3):
        rows = slice(100 * part, 100 * part + 100)
        own = columns(scores[rows], f"c{part}")
        write_parquet(folder / f"scores/round-0/part-0000{part}.parquet", own, SCORE_SCHEMA, "x")
    n = held_out
    harmful = simulated(rng, n, 40, 0.1, 0.1)[1] if informative else rng.normal(size=(n, 40)).astype(np.float32)
    held = np.concatenate([harmful, rng.normal(size=(n, 40)).astype(np.float32)])
    sets = ["harmful"] * n + ["utility"] * n
    write_parquet(folder / "scores/round-0/heldout.parquet", columns(held, "h") | {"set": sets}, HELDOUT_SCHEMA, "x")
    names = [f"c{i // 100}{i % 100:04d}" for i in range(300)]
    (folder / "data").mkdir()
    pq.write_table(pa.table({"row_id": names, "source": ["all"] * 300}), folder / "data/custom.parquet")
    return unsafe, scores


def flat_column(path: Path, column: str) -> np.ndarray:
    return np.concatenate([np.asarray(row) for row in pq.read_table(path)[column].to_pylist()])


def test_posterior_selection_finds_runs_that_single_scores_miss(tmp_path: Path) -> None:
    unsafe, scores = write_scores(tmp_path, np.random.default_rng(3))
    facts = select_in(tmp_path, evidence="posterior", discard_fraction=0.1)
    evidence = flat_column(tmp_path / "selection/evidence.parquet", "evidence")
    assert roc_auc_score(unsafe.ravel(), evidence) > roc_auc_score(unsafe.ravel(), scores.ravel()) + 0.05
    learnt = json.loads((tmp_path / "selection/evidence.json").read_text())
    assert learnt["enter"] == pytest.approx(0.02, rel=0.4)
    assert learnt["leave"] == pytest.approx(0.1, rel=0.4)
    assert learnt["learnt_on"] == {"rows": 300, "tokens": 12_000, "seed": 0}
    # The mask is the top tenth of what is stored, to the token.
    order = sorted(range(len(evidence)), key=lambda i: (-evidence[i], i))
    keep = flat_column(tmp_path / "selection/keep.parquet", "keep").astype(bool)
    assert set(np.flatnonzero(~keep)) == set(order[: int(0.1 * len(order))])
    assert facts["threshold"] == min(evidence[~keep])
    assert facts["evidence"] == "posterior"


def test_what_is_stored_is_the_posterior_of_the_learnt_chain(tmp_path: Path) -> None:
    _, scores = write_scores(tmp_path, np.random.default_rng(4))
    select_in(tmp_path, evidence="posterior")
    learnt = json.loads((tmp_path / "selection/evidence.json").read_text())
    of_scores = np.interp(scores, learnt["held_out"]["knots"], learnt["held_out"]["log_ratios"])
    expected = tosslm.unsafe_log_odds(list(of_scores), enter=learnt["enter"], leave=learnt["leave"])
    found = flat_column(tmp_path / "selection/evidence.parquet", "evidence")
    np.testing.assert_allclose(found, np.concatenate(expected), rtol=1e-6, atol=1e-6)


def test_a_large_custom_set_is_learnt_on_a_sample_of_its_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_scores(tmp_path, np.random.default_rng(5))
    monkeypatch.setattr("tosslm.runs.ranking.LEARNING_TOKENS", 4000)
    select_in(tmp_path, evidence="posterior")
    learnt = json.loads((tmp_path / "selection/evidence.json").read_text())
    assert 2500 < learnt["learnt_on"]["tokens"] < 5500
    assert len(flat_column(tmp_path / "selection/evidence.parquet", "evidence")) == 12_000


def test_another_seed_learns_from_other_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_scores(tmp_path, np.random.default_rng(5))
    monkeypatch.setattr("tosslm.runs.ranking.LEARNING_TOKENS", 4000)
    learnt = []
    for seed in (0, 1):
        select_in(tmp_path, seed=seed, evidence="posterior")
        learnt.append(json.loads((tmp_path / "selection/evidence.json").read_text())["enter"])
    assert learnt[0] != learnt[1]


def test_window_selection_ranks_window_means_and_token_selection_leaves_no_evidence(tmp_path: Path) -> None:
    _, scores = write_scores(tmp_path, np.random.default_rng(6))
    facts = select_in(tmp_path, evidence="window", window=3)
    found = flat_column(tmp_path / "selection/evidence.parquet", "evidence")
    np.testing.assert_allclose(found, window_means(scores.ravel(), np.full(300, 40), 3), rtol=1e-6, atol=1e-6)
    assert facts["window"] == 3
    select_in(tmp_path, evidence="token")
    assert {path.name for path in (tmp_path / "selection").iterdir()} == {"keep.parquet", "selection.json"}


def test_references_that_do_not_tell_harm_from_use_are_refused(tmp_path: Path) -> None:
    write_scores(tmp_path, np.random.default_rng(7), informative=False)
    with pytest.raises(TosslmError, match="do not tell harm from use"):
        select_in(tmp_path, evidence="posterior")


def test_evidence_without_held_out_rows_is_refused_at_the_door(tiny_config: dict[str, Any]) -> None:
    wrong = {**tiny_config, "selection": {"evidence": "posterior"}}
    wrong["references"] = {**tiny_config["references"], "holdout": 0.0}
    with pytest.raises(InputError, match=r"references\.holdout is 0"):
        load_config(wrong)


@pytest.mark.parametrize(("rows", "share", "least"), [(40, 0.1, 41), (9, 0.5, 9), (3, 0.9, 6)])
def test_too_few_rows_to_hold_out_are_refused_before_anything_is_trained(rows: int, share: float, least: int) -> None:
    sets = {"data": {name: {"path": f"{name}.jsonl"} for name in ("custom", "harmful", "utility")}}
    config = load_config(sets, [f"references.holdout={share}"])
    ids = [f"{number:016x}" for number in range(least)]
    assert len(held_out(ids, share)) >= 5
    check_held_out(config, {"harmful": least, "utility": 1_000})
    if rows < least:
        with pytest.raises(InputError, match=rf"data\.harmful: of {rows} rows .* name {least} rows or more"):
            check_held_out(config, {"harmful": rows, "utility": 1_000})
    check_held_out(load_config(sets, ["selection.evidence=token", "selection.discard_fraction=0.1"]), {})


def test_a_run_gives_what_it_ranked(tiny_config: dict[str, Any]) -> None:
    run = tosslm.run(
        {**tiny_config, "selection": {"discard_fraction": 0.1, "evidence": "window", "window": 3}}, until="select"
    )
    for ranked, scores in zip(run.evidence(), run.scores(), strict=True):
        np.testing.assert_allclose(ranked, window_means(scores, np.array([len(scores)]), 3), rtol=1e-5, atol=1e-6)
    record = row_record(run, run.rows["row_id"][0])
    assert [token["evidence"] for token in record["tokens"]] == run.evidence()[0].tolist()
    written = io.StringIO()
    console = Console(file=written, width=100)
    console.print(render_row(record, run.manifest["stages"]["selection"]["threshold"], console))
    print_summary(summarize(run), console)
    shown = written.getvalue()
    assert "evidence mean" in shown
    assert "tokens that have a window mean of" in " ".join(shown.split())
    run = tosslm.run(tiny_config, until="select")
    assert all(np.array_equal(a, b) for a, b in zip(run.evidence(), run.scores(), strict=True))
