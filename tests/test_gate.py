"""The gate before evidence is learnt: references that tell nothing are stopped, those that tell something pass."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from support.benches import select_in
from test_evidence import write_scores
from tosslm.errors import TosslmError
from tosslm.files import write_parquet
from tosslm.runs.tables import HELDOUT_SCHEMA, held_out_scores
from tosslm.selection.chain import log_evidence, passes
from tosslm.selection.evidence import START, learn_evidence
from tosslm.selection.gate import LEVEL, PERMUTATIONS, against_chance

OLD_BOUND = 15.0
"""In nats; what the gate was when it took tokens for independent."""
Rows = list[np.ndarray]


def held_out(rng: np.random.Generator, rows: int, *, unsafe: float = 0.0, longer: int = 1) -> tuple[Rows, Rows]:
    """Scores of utility and harmful rows that share an effect of their row; ``unsafe`` of the latter's stand out."""
    sets = []
    for times, share in ((1, 0.0), (longer, unsafe)):
        lengths = times * rng.integers(20, 60, rows)
        scores = [rng.normal(size=n) + 0.6 * rng.normal() for n in lengths]
        sets.append([row + 2.0 * (rng.random(len(row)) < share) for row in scores])
    return sets[0], sets[1]


def learnt_gain(useful: Rows, harmful: Rows) -> float:
    return learn_evidence(np.concatenate(useful), np.concatenate(harmful), np.array([len(r) for r in harmful])).gain


@pytest.fixture
def few_permutations(monkeypatch: pytest.MonkeyPatch) -> None:
    """Quicker; the level is the same, since 2 of 40 are a twentieth as well."""
    monkeypatch.setattr("tosslm.selection.gate.PERMUTATIONS", 39)


@pytest.mark.long
@pytest.mark.slow
def test_rows_that_tell_nothing_pass_about_as_often_as_the_level_says(few_permutations: None) -> None:
    rng = np.random.default_rng(0)
    passed = np.mean([not against_chance(*held_out(rng, 15)).explains for _ in range(150)])
    assert 0.005 < passed < 0.1  # 0.05, give or take two and a half standard errors of 150 trials
    bound = np.mean([learnt_gain(*held_out(rng, 15)) >= OLD_BOUND for _ in range(20)])
    assert bound > 0.4


@pytest.mark.long
@pytest.mark.slow
def test_longer_rows_of_one_set_do_not_pass_by_their_length(few_permutations: None) -> None:
    rng = np.random.default_rng(1)
    tokens_alone = [
        (
            [rng.normal(size=n) for n in rng.integers(20, 60, 15)],
            [rng.normal(size=5 * n) for n in rng.integers(20, 60, 15)],
        )
        for _ in range(100)
    ]
    for trials in (tokens_alone, [held_out(rng, 15, longer=5) for _ in range(60)]):
        assert np.mean([not against_chance(*sets).explains for sets in trials]) < 0.11


def test_rows_that_tell_something_pass() -> None:
    rng = np.random.default_rng(2)
    found = [against_chance(*held_out(rng, 40, unsafe=0.3)) for _ in range(20)]
    assert all(not chance.explains for chance in found)
    assert all(chance.quantile is not None and chance.gain > chance.quantile for chance in found)


def test_the_gain_is_that_of_ems_start_and_the_p_value_counts_the_true_labels() -> None:
    useful, harmful = held_out(np.random.default_rng(3), 12, unsafe=0.1)
    chance = against_chance(useful, harmful)
    lengths = np.array([len(row) for row in harmful])
    first_step = learn_evidence(np.concatenate(useful), np.concatenate(harmful), lengths).log_likelihoods[0]
    assert chance.gain == pytest.approx(first_step * lengths.sum())
    assert (chance.p * (1 + PERMUTATIONS)) == pytest.approx(round(chance.p * (1 + PERMUTATIONS)))
    assert chance.p >= 1 / (1 + PERMUTATIONS)
    assert chance == against_chance(useful, harmful)
    # To call the rows useful or harmful in another order changes nothing of the gain.
    assert against_chance(useful[::-1], harmful[::-1]).gain == pytest.approx(chance.gain)


def test_the_gain_grows_with_what_a_score_tells_and_is_a_likelihood() -> None:
    """With two scores only, the ratio of the histograms is known, and so is what the start makes of it."""
    useful, harmful = [np.array([0.0, 0.0, 1.0])] * 6, [np.array([0.0, 1.0, 1.0])] * 6
    # Half a token is added to each bin; the empty one below the lowest score is pooled with the next.
    evidence = np.tile(np.log([(0.5 + 6.5) / (0.5 + 12.5), 12.5 / 6.5])[[0, 1, 1]], 6)
    filtered, _ = passes(evidence, np.full(6, 3), START)
    expected = log_evidence(evidence, np.full(6, 3), START, filtered)
    assert against_chance(useful, harmful).gain == pytest.approx(expected)


def test_scores_that_are_all_alike_are_explained_by_chance() -> None:
    same = [np.zeros(20)] * 6
    assert against_chance(same, same).p == 1.0


@pytest.mark.parametrize(("utility", "harmful"), [(40, 4), (4, 40), (1, 1)])
def test_few_rows_pass_no_gate_however_far_apart_they_are(utility: int, harmful: int) -> None:
    chance = against_chance([np.zeros(30)] * utility, [np.full(30, 9.0)] * harmful)
    assert (chance.p, chance.quantile, chance.permutations) == (1.0, None, 0)
    assert chance.explains


def test_five_rows_of_each_set_can_pass() -> None:
    assert not against_chance([np.zeros(30)] * 5, [np.full(30, 9.0)] * 5).explains


def test_bad_scores_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"harmful\[1\] is not finite"):
        against_chance([np.zeros(3)], [np.array([0.0, np.nan])])


def test_what_chance_gives_is_recorded(tmp_path: Path) -> None:
    write_scores(tmp_path, np.random.default_rng(3))
    select_in(tmp_path, evidence="posterior")
    recorded = json.loads((tmp_path / "selection/evidence.json").read_text())["held_out"]["chance"]
    scores = held_out_scores(tmp_path / "scores/round-0/heldout.parquet")
    chance = against_chance(scores["utility"], scores["harmful"])
    assert recorded == {
        "gain": chance.gain,
        "quantile": chance.quantile,
        "p": 1 / (1 + PERMUTATIONS),
        "permutations": PERMUTATIONS,
        "harmful_rows": 60,
        "utility_rows": 60,
        "level": LEVEL,
        "seed": 0,
    }


def test_a_refusal_says_what_was_gained_what_chance_gives_and_what_to_do(tmp_path: Path) -> None:
    write_scores(tmp_path, np.random.default_rng(7), informative=False)
    with pytest.raises(TosslmError) as refused:
        select_in(tmp_path, evidence="posterior")
    scores = held_out_scores(tmp_path / "scores/round-0/heldout.parquet")
    chance = against_chance(scores["utility"], scores["harmful"])
    for said in (
        "do not tell harm from use",
        "60 held-out harmful and 60 utility rows",
        f"gain {chance.gain:.1f} nats",
        f"up to {chance.quantile:.1f}",
        "references.holdout",
    ):
        assert said in str(refused.value)


def test_a_refusal_for_few_rows_says_so(tmp_path: Path) -> None:
    rng = np.random.default_rng(8)
    write_scores(tmp_path, rng)
    rows = np.concatenate([np.full((4, 40), 9.0), np.zeros((60, 40))]).astype("f4")
    columns = {
        "row_id": [f"h{i}" for i in range(64)],
        "position": [list(range(1, 41))] * 64,
        "loss_degraded": list(np.zeros_like(rows)),
        "loss_utility": list(rows),
        "set": ["harmful"] * 4 + ["utility"] * 60,
    }
    write_parquet(tmp_path / "scores/round-0/heldout.parquet", columns, HELDOUT_SCHEMA, "x")
    with pytest.raises(TosslmError, match="do not tell harm from use: there are 4 held-out harmful and 60 utility"):
        select_in(tmp_path, evidence="posterior")
