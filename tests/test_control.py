"""`discard_fraction: auto`: what is more likely unsafe than not goes, and no more useful text than allowed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.benches import select_in
from test_evidence import flat_column, write_scores
from test_found import clean_set
from tosslm.config import load_config
from tosslm.errors import InputError
from tosslm.findings.found import threshold_told
from tosslm.methods import registry, settled
from tosslm.runs.ranking import cross_fitted_log_odds, learn_ranking
from tosslm.runs.tables import held_out_scores
from tosslm.selection.control import (
    Loss,
    controlled_threshold,
    cut_above,
    estimated_threshold,
    mean_shares,
    rows_needed,
    sets_threshold,
    useful_loss,
)
from tosslm.selection.cut import discard_count, share_of
from tosslm.selection.kinds import KINDS

odds = st.integers(-3, 3).map(float)
rows = st.lists(st.lists(odds, min_size=1, max_size=6).map(np.array), min_size=1, max_size=30)


def much(loss: Loss) -> np.ndarray:
    """Of a custom set that loses twice what any useful row can, so that this is never what holds back."""
    return np.full(len(loss.thresholds), 2.0)


def bound_at(useful: list[np.ndarray], threshold: float) -> float:
    shares = [sum(value > threshold for value in row) / len(row) for row in useful]
    return (sum(shares) + 1) / (len(useful) + 1)


@given(rows, st.floats(0.03, 0.9))
def test_the_threshold_is_the_lowest_from_even_odds_up_that_keeps_the_bound(
    useful: list[np.ndarray], allowed: float
) -> None:
    loss = useful_loss(useful)
    found = controlled_threshold(loss, allowed, much(loss))
    if 1 / (len(useful) + 1) > allowed + 1e-12:
        assert found is None
        return
    assert found is not None
    assert found.rows == len(useful)
    assert found.bound == pytest.approx(bound_at(useful, found.threshold))
    assert found.bound is not None
    assert found.bound <= allowed + 1e-9
    for lower in (value for value in (0.0, 1.0, 2.0) if value < found.threshold):
        assert bound_at(useful, lower) > allowed


def test_a_new_row_loses_no_more_than_allowed_on_average() -> None:
    """Rows of unlike kinds, some of which lose much; the mean is over draws of held-out rows and of the new one."""
    rng, allowed = np.random.default_rng(0), 0.05

    def row() -> np.ndarray:
        return rng.normal(rng.choice([-3.0, -1.0, 0.5], p=[0.7, 0.25, 0.05]), 1.0, size=rng.integers(1, 20))

    lost = []
    for _ in range(3000):
        loss = useful_loss([row() for _ in range(60)])
        found = controlled_threshold(loss, allowed, much(loss))
        assert found is not None
        lost.append((row() > found.threshold).mean())
    error = np.std(lost) / np.sqrt(len(lost))
    assert np.mean(lost) <= allowed + 2 * error
    assert np.mean(lost) > allowed / 2  # it is no empty promise


@given(rows, st.floats(0.03, 0.9))
def test_an_estimate_is_the_same_without_the_correction(useful: list[np.ndarray], allowed: float) -> None:
    loss = useful_loss(useful)
    found = estimated_threshold(loss, allowed, much(loss))

    def lost(threshold: float) -> float:
        return float(np.mean([np.mean(row > threshold) for row in useful]))

    assert (found.rows, found.bound) == (len(useful), None)
    assert found.risk == pytest.approx(lost(found.threshold))
    assert found.risk <= allowed + 1e-9
    for lower in (value for value in (0.0, 1.0, 2.0) if value < found.threshold):
        assert lost(lower) > allowed


@given(rows, rows, st.floats(0.03, 0.9))
def test_of_what_goes_at_most_half_is_lost_by_useful_rows_too(
    useful: list[np.ndarray], custom: list[np.ndarray], allowed: float
) -> None:
    """The lowest threshold from even odds up that keeps both, by trying all of them."""

    def lost(some: list[np.ndarray], threshold: float) -> float:
        return float(np.mean([np.mean(row > threshold) for row in some]))

    loss = useful_loss(useful)
    halves = (custom[: len(custom) // 2], custom[len(custom) // 2 :])
    streamed = [(np.concatenate(some), np.array([len(row) for row in some])) for some in halves if some]
    found = estimated_threshold(loss, allowed, mean_shares(streamed, loss.thresholds))
    tried = sorted({0.0, *(float(value) for row in useful for value in row if value > 0)})
    kept = [t for t in tried if lost(useful, t) <= allowed + 1e-9]
    assert found.sooner == kept[0]
    assert found.threshold == next(t for t in kept if lost(useful, t) <= lost(custom, t) / 2 + 1e-9)
    assert found.dropped == pytest.approx(lost(custom, found.threshold))


def test_rows_without_tokens_have_no_share() -> None:
    shares = mean_shares([(np.array([1.0, -1.0, 3.0]), np.array([2, 0, 1]))], np.array([0.0, 2.0]))
    np.testing.assert_allclose(shares, [(0.5 + 1) / 2, (0 + 1) / 2])


def test_forty_nine_rows_are_the_least_for_two_percent_and_twice_as_many_are_asked_for() -> None:
    assert rows_needed(0.02) == 99
    assert rows_needed(0.05) == 39
    for number, enough in ((48, False), (49, True)):
        loss = useful_loss([np.array([-1.0])] * number)
        assert (controlled_threshold(loss, 0.02, much(loss)) is not None) == enough


def test_about_half_of_the_rows_set_the_threshold_and_copies_go_together() -> None:
    ids = [f"{number:016x}" for number in range(4000)]
    assert np.mean([sets_threshold(one) for one in ids]) == pytest.approx(0.5, abs=0.03)


@given(st.lists(st.lists(odds, max_size=8).map(lambda row: np.array(row, dtype=np.float32)), max_size=6))
def test_what_is_above_is_counted_over_chunks(chunks: list[np.ndarray]) -> None:
    values = np.concatenate([*chunks, np.zeros(0, dtype=np.float32)])
    above = values[values > 0]
    lowest = float(above.min()) if len(above) else None
    expected = (len(values), len(above), lowest, int((above == lowest).sum()) if len(above) else 0)
    assert cut_above(chunks, 0.0) == expected


@settings(max_examples=500)
@given(st.integers(1, 10**9), st.data())
def test_the_share_that_is_told_drops_as_many(tokens: int, data: st.DataObject) -> None:
    discarded = data.draw(st.integers(0, tokens - 1))
    assert discard_count(tokens, share_of(discarded, tokens)) == discarded


def test_what_is_dropped_is_above_a_threshold_that_other_rows_set(tmp_path: Path) -> None:
    unsafe, _ = write_scores(tmp_path, np.random.default_rng(3), held_out=160)
    facts = select_in(tmp_path, evidence="posterior", discard_fraction="auto", false_discard=0.05)
    auto, evidence = facts["auto"], flat_column(tmp_path / "selection/evidence.parquet", "evidence")
    keep = flat_column(tmp_path / "selection/keep.parquet", "keep").astype(bool)
    assert np.array_equal(keep, evidence <= auto["threshold"])
    assert auto["threshold"] >= 0
    assert auto["bound"] <= 0.05
    assert facts["discard_fraction"] == pytest.approx((~keep).mean())
    assert json.loads((tmp_path / "selection/selection.json").read_text())["auto"] == auto
    assert unsafe.ravel()[~keep].mean() > 0.6
    every = held_out_scores(tmp_path / "scores/round-0/heldout.parquet")
    setting = held_out_scores(tmp_path / "scores/round-0/heldout.parquet", sets_threshold)
    assert auto["rows"] == len(setting["utility"])
    learnt = json.loads((tmp_path / "selection/evidence.json").read_text())["held_out"]["chance"]
    assert learnt["utility_rows"] == len(every["utility"]) - len(setting["utility"])
    assert learnt["harmful_rows"] == len(every["harmful"]) - len(setting["harmful"])


def test_with_too_few_rows_for_a_bound_what_goes_is_estimated_and_it_is_said(tmp_path: Path) -> None:
    write_scores(tmp_path, np.random.default_rng(3))
    facts = select_in(tmp_path, evidence="posterior", discard_fraction="auto")
    auto, evidence = facts["auto"], flat_column(tmp_path / "selection/evidence.parquet", "evidence")
    assert facts["discarded"] == int((evidence > auto["threshold"]).sum()) > 0
    assert (auto["rows"], auto["bound"], auto["rows_needed"]) == (60, None, 78)
    assert auto["risk"] <= 0.05
    learnt = json.loads((tmp_path / "selection/evidence.json").read_text())["held_out"]["chance"]
    assert learnt["utility_rows"] == 60  # none is spared
    told = threshold_told(facts)[0]
    assert f"about {auto['risk']:.1%} of a useful row goes, which 60 held-out utility rows give" in told
    assert "takes about 78" in told


def test_each_row_is_judged_by_what_the_other_half_gives(tmp_path: Path) -> None:
    write_scores(tmp_path, np.random.default_rng(3))
    folder = tmp_path / "scores/round-0"
    every = held_out_scores(folder / "heldout.parquet")["utility"]
    own = held_out_scores(folder / "heldout.parquet", sets_threshold)["utility"]
    _, of_others = learn_ranking(KINDS["posterior"], folder, seed=0, of=lambda one: not sets_threshold(one))
    expected = [of_others(row, np.array([len(row)])) for row in own]
    found = cross_fitted_log_odds(folder, seed=0)
    assert len(found) == len(every)
    for row, by_hand in zip(found, expected, strict=False):
        np.testing.assert_allclose(row, by_hand, rtol=1e-5, atol=1e-5)


def test_where_no_estimate_can_be_had_even_odds_decide_and_it_is_said(tmp_path: Path) -> None:
    """Eight rows of a set are enough to learn from, a half of them is not."""
    write_scores(tmp_path, np.random.default_rng(3), held_out=8)
    facts = select_in(tmp_path, evidence="posterior", discard_fraction="auto")
    evidence = flat_column(tmp_path / "selection/evidence.parquet", "evidence")
    assert facts["discarded"] == int((evidence > 0).sum()) > 0
    assert (facts["auto"]["threshold"], facts["auto"]["rows"], facts["auto"]["bound"]) == (0.0, None, None)
    assert "even odds alone" in threshold_told(facts)[0]


def test_a_clean_set_loses_next_to_nothing(tmp_path: Path) -> None:
    clean_set(tmp_path, np.random.default_rng(5))
    facts = select_in(tmp_path, evidence="posterior", discard_fraction="auto")
    assert facts["discarded"] / facts["tokens"] < 0.01
    assert facts["auto"]["risk"] <= facts["auto"]["dropped"] / 2
    assert facts["unsafe_found"]["share"] == pytest.approx(facts["discarded"] / facts["tokens"])


def test_a_threshold_that_lets_unsafe_tokens_stay_is_said() -> None:
    facts: dict[str, Any] = {
        "auto": {"rows": 60, "bound": 0.02, "false_discard": 0.02, "rows_needed": 198},
        "tokens": 100,
    }
    found = {"share": 0.3, "chain_share": 0.3}
    (told,) = threshold_told({**facts, "discarded": 20, "unsafe_found": found})
    assert told.startswith("Unsafe tokens may stay: the posterior finds 30.0%")
    assert "20.0% are dropped" in told
    assert threshold_told({**facts, "discarded": 29, "unsafe_found": found}) == []


def test_a_threshold_that_rose_since_little_is_unlike_useful_text_is_said() -> None:
    auto: dict[str, Any] = {
        "rows": 80,
        "bound": 0.03,
        "false_discard": 0.05,
        "rows_needed": 78,
        "threshold": 4.26,
        "sooner": 1.36,
    }
    auto |= {"dropped": 0.009, "risk": 0.004}
    facts = {"auto": auto, "tokens": 100, "discarded": 1}
    (told,) = threshold_told(facts)
    assert "Tokens go from log-odds 4.3 up, not from 1.4: 0.9% of a custom row, 0.4% of a useful one" in told
    assert threshold_told({**facts, "auto": auto | {"sooner": 4.26}}) == []


DATA = {name: {"path": f"{name}.jsonl"} for name in ("custom", "harmful", "utility")}


@pytest.mark.parametrize(
    ("selection", "said"),
    [
        ({"evidence": "token"}, "auto goes by the posterior"),
        ({"discard_fraction": "auto", "evidence": "posterior", "scope": "row"}, "auto goes by the posterior"),
        ({"discard_fraction": "some"}, "discard_fraction"),
        ({"discard_fraction": -0.1}, "from 0 up to 1"),
        ({"discard_fraction": float("nan")}, "finite number"),
        ({"false_discard": 0}, "false_discard"),
    ],
)
def test_what_does_not_go_together_is_refused(selection: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        load_config({"data": DATA, "selection": selection})


DROP_A_SHARE = ("random", "first-k", "rows", "degraded-only", "utility-only", "dsir", "seal", "larf", "datashield")


@pytest.mark.parametrize("name", DROP_A_SHARE)
def test_a_method_that_drops_a_share_refuses_auto_at_the_door(tmp_path: Path, name: str) -> None:
    safety = {"path": str(tmp_path / "safety.jsonl")}
    auto = {"discard_fraction": "auto", "evidence": "posterior"}
    config = load_config({"data": DATA, "compare": {"safety": safety}, "selection": auto, "method": name})
    assert registry()[name].drops_share
    with pytest.raises(InputError, match=rf"method {name} sets 0\.1, the config says \"auto\"; leave the key out"):
        settled(config)


@pytest.mark.parametrize("name", DROP_A_SHARE)
def test_without_a_word_of_how_much_a_method_that_drops_a_share_drops_the_papers(tmp_path: Path, name: str) -> None:
    safety = {"path": str(tmp_path / "safety.jsonl")}
    config = load_config({"data": DATA, "compare": {"safety": safety}, "method": name})
    assert config.selection.discard_fraction == "auto"
    assert settled(config)[0].selection.discard_fraction == 0.1


def test_a_folder_made_with_a_share_is_known_as_before() -> None:
    config = load_config({"data": DATA, "selection": {"discard_fraction": 0.1, "evidence": "token"}})
    assert "false_discard" not in config.selection.covered()
    auto = load_config({"data": DATA, "selection": {"discard_fraction": "auto", "evidence": "posterior"}})
    assert auto.selection.covered()["false_discard"] == 0.05
