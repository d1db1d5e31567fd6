"""What the spans study measures with, against scikit-learn and cases worked out by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score
from studies.corpora import sentence_bounds
from studies.spans import gate
from studies.spans.page import write_page
from studies.spans.part import write_part
from studies.spans.quality import (
    Ranking,
    Resamples,
    character_f1,
    predicted_characters,
    word_spans,
    word_values,
)
from studies.whole import write_whole

import tosslm
from tosslm.runs.tables import held_out_scores
from tosslm.selection.gate import against_chance


@settings(deadline=None)
@given(st.integers(0, 2**16), st.integers(1, 4))
def test_weighted_rankings_equal_scikit_learns(seed: int, levels: int) -> None:
    rng = np.random.default_rng(seed)
    values = rng.integers(0, 3**levels, 60).astype(float)  # few levels make many ties
    unsafe, rows = rng.random(60) < 0.3, rng.integers(0, 12, 60)
    unsafe[:2] = True, False
    rows[:2] = 0, 1
    weights = rng.integers(0, 4, 12)
    weights[:2] = 1
    weight = weights[rows]
    auroc, precision = Ranking(unsafe, values, rows).quality(weights)
    assert auroc == pytest.approx(roc_auc_score(unsafe, values, sample_weight=weight))
    assert precision == pytest.approx(average_precision_score(unsafe, values, sample_weight=weight))


def test_draws_count_as_many_rows_as_there_are_and_begin_with_each_once() -> None:
    draws = Resamples.draw(7, count=50)
    assert draws.weights.shape == (51, 7)
    assert (draws.weights[0] == 1).all()
    assert (draws.weights.sum(axis=1) == 7).all()


def test_sentences_cover_a_text() -> None:
    text = 'One. Two?! "Three."  Four\nFive'
    pieces = [text[start:end] for start, end in sentence_bounds(text)]
    assert pieces == ["One. ", "Two?! ", '"Three."  ', "Four\n", "Five"]


def test_words_take_the_highest_value_of_their_tokens() -> None:
    text = " you idiot !"
    words, values = word_values(text, np.array([[0, 4], [4, 8], [8, 10], [10, 12]]), np.array([0.1, 0.9, 0.2, 0.3]))
    assert [text[start:end] for start, end in words] == ["you", "idiot", "!"]
    assert values.tolist() == [0.1, 0.9, 0.3]
    assert word_spans("") == []


def test_neighbouring_words_are_one_span_and_others_are_not() -> None:
    words = word_spans("a bb  c dd")
    assert predicted_characters(words, np.array([True, True, False, True])) == {0, 1, 2, 3, 8, 9}


def test_f1_of_a_post() -> None:
    assert character_f1(set(), set()) == 1.0
    assert character_f1({1}, set()) == character_f1(set(), {1}) == 0.0
    assert character_f1({0, 1, 2}, {2, 3}) == pytest.approx(2 * (1 / 3) * (1 / 2) / (1 / 3 + 1 / 2))


def test_the_page_of_runs_made_by_hand(tmp_path: Path) -> None:
    """Posterior evidence is better by 0.1 in every draw of every seed: the interval of the difference is a point."""
    evidence: dict[str, Any] = {"enter": 0.1, "leave": 0.25, "unsafe_share": 0.3, "held_out": {"gain": 7.0}}
    task = {"token score": [0.5, 0.5], "posterior": [1.0, 1.0]}
    facts = {"rows": 9, "tokens": 90, "unsafe_share": 0.1, "mean_span": 2.0, "evidence": evidence, "task": task}
    for seed in range(3):
        run = tmp_path / f"runs/toxic/seed-{seed}"
        run.mkdir(parents=True)
        token = np.random.default_rng(seed).random((2, 101)) / 2
        np.savez(run / "quality.npz", **{"token score": token, "posterior": token + 0.1})  # type: ignore[arg-type]
        (run / "facts.json").write_text(json.dumps(facts))
        (run / "run_lengths.json").write_text(json.dumps({"2.0": 0.4}))
    write_page(tmp_path / "spans.md", tmp_path / "runs")
    page = (tmp_path / "spans.md").read_text()
    assert "9 rows, 90 response tokens, 10.0% of them marked; 3 seeds." in page
    assert page.count("+0.100 [+0.100, +0.100]") == 1
    assert "Posterior evidence beats token evidence here" in page
    assert "| token score | 0.500 [0.500, 0.500] |" in page
    assert "## Spliced" not in page
    assert "These runs passed an earlier gate" in page
    assert "put to [the gate](method.md#evidence-in-context) of today" in page  # what studies/spans/gate.json knows
    evidence["held_out"] = {"gain": 7.0, "chance": {"p": 0.005}}
    for seed in range(3):
        (tmp_path / f"runs/toxic/seed-{seed}/facts.json").write_text(json.dumps(facts))
    write_page(tmp_path / "spans.md", tmp_path / "runs")
    assert "p = 0.005, 0.005, 0.005, seed by seed." in (tmp_path / "spans.md").read_text()


@pytest.mark.long
def test_references_are_put_to_the_gate_and_what_it_said_is_kept(
    tmp_path: Path, tiny_config: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The gate needs held-out rows alone: the custom set is not scored, and the same as the gate says of a run."""
    config = tiny_config | {"selection": {"evidence": "posterior"}, "refinement": {}}
    config["references"] = config["references"] | {"holdout": 0.6}
    monkeypatch.setattr(gate, "FILE", tmp_path / "gate.json")
    monkeypatch.setattr(gate, "run_config", lambda corpus, seed: config)
    gate.test_references("toxic", 7)
    found = gate.known()["toxic:7"]
    run = tosslm.load_run(config["run_dir"])
    assert "scores/round-0" not in run.stages
    sentence = gate.told("toxic")
    assert sentence is not None
    assert f"p = {found['p']:.3f}" in sentence
    assert gate.told("spliced") is None
    tosslm.run(config, until="score")
    held_out = held_out_scores(run.path / "scores/round-0/heldout.parquet")
    expected = against_chance(held_out["utility"], held_out["harmful"])
    assert found["gain"] == pytest.approx(expected.gain, abs=1e-3)
    assert found["harmful_rows"] == expected.harmful_rows > 0
    monkeypatch.setattr(gate, "run_config", lambda *_: pytest.fail("tested again"))
    gate.test_references("toxic", 7)


def test_a_part_of_a_page_takes_its_own_place_and_leaves_the_others(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# Page\n\n<a>\nold\n</a>\n\n<b>\nkept\n</b>\n", encoding="utf-8")
    for part in ("<a>\nnew\n</a>\n", "<a>\nnew\n</a>\n"):
        write_part(page, "<a>", "</a>", part)
    assert page.read_text(encoding="utf-8") == "# Page\n\n<a>\nnew\n</a>\n\n<b>\nkept\n</b>\n"
    write_part(page, "<c>", "</c>", "<c>\nlast\n</c>\n")
    assert page.read_text(encoding="utf-8").endswith("</b>\n\n<c>\nlast\n</c>\n")


def test_a_page_that_would_lose_what_it_has_is_not_written(tmp_path: Path) -> None:
    """As in a fresh clone, where what was measured elsewhere is not at hand."""
    page = tmp_path / "spans.md"
    write_whole(page, "# Head\n\n## One\n\n| seed | AP |\n|---|---|\n| 0 | 0.5 |\n| 1 | 0.6 |\n")
    for less in ("# Head\n", "# Head\n\n## One\n\n| seed | AP |\n|---|---|\n| 0 | 0.7 |\n"):
        with pytest.raises(SystemExit, match=r"nothing was written, since this would be lost: .*## One"):
            write_whole(page, less)
    assert "0.6" in page.read_text(encoding="utf-8")
    write_whole(page, "# Head\n\n## One\n\n| seed | AP |\n|---|---|\n| 0 | 0.7 |\n| 1 | 0.8 |\n\n## Two\n")
    assert "0.8" in page.read_text(encoding="utf-8")
