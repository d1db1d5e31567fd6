"""The proxy study: how agreement is measured, and that its page says what its results say."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from studies.proxy.agreement import Tokens, agreement, ranks, row_means, shuffled
from studies.proxy.page import PAGE, write_page
from studies.proxy.settings import CORPORA, RESULTS

ROOT = Path(__file__).parents[1]


def test_equal_values_share_their_rank() -> None:
    assert ranks(np.array([5.0, 1.0, 5.0, 9.0])).tolist() == [1.5, 0.0, 1.5, 3.0]


def test_a_row_mean_has_no_places_and_a_shuffle_keeps_the_row() -> None:
    assert row_means(np.array([1.0, 3.0, 5.0]), np.array([0, 0, 1])).tolist() == [2.0, 2.0, 5.0]
    values, text = np.arange(40.0), np.arange(40) < 39
    mixed = shuffled(values, text, np.random.default_rng(0))
    assert mixed[39] == 39
    assert sorted(mixed) == values.tolist()
    assert (mixed != values).any()


def test_full_size_scores_agree_with_themselves_and_their_opposite_does_not() -> None:
    random = np.random.default_rng(0)
    full = random.normal(size=400)
    tokens = Tokens(full, full > 1, np.repeat(np.arange(40), 10))
    own, opposite = agreement(tokens, full, 0.1), agreement(tokens, -full, 0.1)
    assert {name: one["value"] for name, one in own.items()} == {
        "spearman": pytest.approx(1.0),
        "overlap": 1.0,
        "average_precision": 1.0,
    }
    assert opposite["spearman"]["value"] == pytest.approx(-1.0)
    assert opposite["overlap"] == {"value": 0.0, "low": 0.0, "high": 0.0}


def test_the_page_is_what_the_study_writes(tmp_path: Path) -> None:
    write_page(ROOT / "studies/proxy" / RESULTS.name, tmp_path / "proxy.md")
    assert (tmp_path / "proxy.md").read_text() == (ROOT / PAGE).read_text(), "python -m studies.proxy.study --page"


def test_what_is_measured_is_the_two_pairs_and_their_controls() -> None:
    found = json.loads((ROOT / "studies/proxy" / RESULTS.name).read_text())
    assert set(found) == set(CORPORA)
    for own in found.values():
        assert [(pair["base"], pair["proxy"]) for pair in own["pairs"]] == [
            ("Gemma-3-270M", "SmolLM2-135M-Instruct"),
            ("SmolLM2-135M-Instruct", "Gemma-3-270M"),
        ]
    for pair in [pair for own in found.values() for pair in own["pairs"]]:
        assert pair["measures"]["full size"]["spearman"]["value"] == pytest.approx(1.0)
        assert pair["tokens"] > 1000
