"""Evidence of a token in its row, or of the token alone: whichever is rarer in useful text."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import given
from hypothesis import strategies as st

from support.benches import select_in
from test_evidence import flat_column, write_scores
from tosslm.selection.either import OWN_SHARE, OwnLevels, learn_own_levels

_finite = st.floats(-50, 50, width=32)
tokens = st.lists(st.tuples(_finite, _finite), min_size=1, max_size=60, unique_by=lambda one: one[0])


@given(tokens, _finite)
def test_a_score_stands_for_the_log_odds_that_are_as_rare(pairs: list[tuple[float, float]], score: float) -> None:
    scores, log_odds = np.array(pairs).T
    above = int((scores > score).sum())
    allowed = math.floor(above / OWN_SHARE)
    expected = sorted(log_odds)[::-1][allowed] if allowed < len(pairs) else -np.inf
    assert learn_own_levels(scores, log_odds)(np.array([score]))[0] == expected


@given(tokens)
def test_no_threshold_loses_more_useful_tokens_by_their_own_score_than_a_share(
    pairs: list[tuple[float, float]],
) -> None:
    scores, log_odds = np.array(pairs).T
    own = learn_own_levels(scores, log_odds)(scores)
    for threshold in log_odds:
        assert (own > threshold).sum() <= math.ceil(OWN_SHARE * (log_odds > threshold).sum())


def test_of_many_tokens_steps_are_kept_that_are_never_too_high() -> None:
    scores, log_odds = np.random.default_rng(0).normal(size=(2, 50_000))
    levels = learn_own_levels(scores, log_odds)
    assert len(levels.scores) < 600
    some = np.random.default_rng(1).normal(size=200)
    above = (scores > some[:, None]).sum(axis=1)
    descending = np.sort(np.concatenate([np.full(50_001, -np.inf), log_odds]))[::-1]
    exact = descending[np.floor(above / OWN_SHARE).astype(int)]
    found = levels(some)
    assert (found <= exact).all()
    near = (above > 100) & (above < 20_000)
    assert np.abs(found[near] - exact[near]).max() < 0.1


def test_a_token_whose_score_stands_out_goes_though_its_row_speaks_for_use(tmp_path: Path) -> None:
    write_scores(tmp_path, np.random.default_rng(3))
    part = tmp_path / "scores/round-0/part-00000.parquet"
    table = pq.read_table(part)
    scores = np.array(table["loss_utility"].to_pylist(), dtype=np.float32)
    scores[0] = -1
    scores[0, 20] = 4.5  # no useful token of the held-out rows has as much
    column = pa.array(list(scores), type=table.schema.field("loss_utility").type)
    pq.write_table(table.set_column(table.schema.get_field_index("loss_utility"), "loss_utility", column), part)

    def dropped(evidence: str) -> np.ndarray:
        select_in(tmp_path, evidence=evidence, discard_fraction="auto")
        return flat_column(tmp_path / "selection/keep.parquet", "keep")[:40] == 0

    assert not dropped("posterior").any()
    assert np.flatnonzero(dropped("either")).tolist() == [20]


def test_what_was_learnt_is_written_down(tmp_path: Path) -> None:
    _, scores = write_scores(tmp_path, np.random.default_rng(3))
    select_in(tmp_path, evidence="posterior", discard_fraction="auto")
    in_context = flat_column(tmp_path / "selection/evidence.parquet", "evidence")
    select_in(tmp_path, evidence="either", discard_fraction="auto")
    learnt = json.loads((tmp_path / "selection/evidence.json").read_text())
    assert (learnt["evidence"], learnt["own"]["share"]) == ("either", OWN_SHARE)
    own = OwnLevels(*(np.array(learnt["own"][name]) for name in ("scores", "log_odds")))
    expected = np.maximum(in_context, own(scores.ravel())).astype(np.float32)
    np.testing.assert_allclose(flat_column(tmp_path / "selection/evidence.parquet", "evidence"), expected, rtol=1e-6)
