"""The study of doing without a utility set: its folds and trims, and what its page says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from studies.own.cross_fit import folds, trimmed
from studies.own.page import CANDIDATES, LABELS, verdict, write_page

from tosslm.data.rows import content_id

ROOT = Path(__file__).parents[1]


def ids(count: int) -> list[str]:
    return [content_id([{"role": "user", "content": str(number)}]) for number in range(count)]


def test_folds_are_halves_by_content_and_copies_stay_together() -> None:
    rows = ids(40)
    found = folds([*rows, f"{rows[0]}-2", f"{rows[1]}-3"])
    assert np.bincount(found[:40]).tolist() == [20, 20]
    assert found[40:].tolist() == found[:2].tolist()
    assert folds(rows[::-1])[::-1].tolist() == folds(rows).tolist()


def test_rows_of_the_lowest_mean_score_stay() -> None:
    scores = [np.array(row, dtype=np.float32) for row in ([3, -3], [9], [-1, -1, -1], [0.5], [0, 0])]
    # Means: 0, 9, -1, 0.5, 0; of the equal ones the first.
    assert trimmed(scores, 0.4).tolist() == [True, False, True, False, False]
    assert trimmed(scores, 0.6).tolist() == [True, False, True, False, True]
    assert trimmed(scores, 0.01).sum() == 1


def results(**auroc: float) -> dict[str, Any]:
    """Results with these AUROCs, each 0.05 more or less; AP the same."""
    signals = {}
    for name in LABELS:
        value = auroc[name.replace(" ", "_").replace("-", "_")]
        lost = auroc["utility_set"] - value
        one = {
            "value": value,
            "interval": [value - 0.05, value + 0.05],
            "less_than_utility_set": [lost - 0.05, lost + 0.05] if lost else [0.0, 0.0],
            "more_than_base": [value - auroc["base"] - 0.05, value - auroc["base"] + 0.05],
        }
        signals[name] = {"auroc": one, "average_precision": one}
    trims = {name: {"rows": 5, "unsafe_rows": 2} for name in ("all rows", *CANDIDATES)}
    facts = {"rows": 10, "tokens": 100, "unsafe_share": 0.25, "keep": 0.5}
    return facts | {"signals": signals, "trims": trims}


LEVEL = {"utility_set": 0.9, "trimmed_by_base": 0.6, "cross_fitted": 0.6, "all_rows": 0.55, "base": 0.65}


@pytest.mark.parametrize(
    ("best", "told"),
    [(0.69, "does not hold here"), (0.8, "worse than a utility set"), (0.87, "Here it holds")],
)
def test_the_page_recommends_what_beats_its_controls_alone(best: float, told: str, tmp_path: Path) -> None:
    found = results(**LEVEL, trimmed_by_scores=best)
    assert told in verdict(found)
    write_page(found, tmp_path / "page.md")
    page = (tmp_path / "page.md").read_text()
    assert f"| {LABELS['trimmed by scores']} | {best:.3f} ({best - 0.05:.3f} to {best + 0.05:.3f}) |" in page


def test_the_page_is_that_of_the_results(tmp_path: Path) -> None:
    write_page(json.loads((ROOT / "studies/own/results.json").read_text()), tmp_path / "page.md")
    assert (ROOT / "docs/own-utility.md").read_text() == (tmp_path / "page.md").read_text()
