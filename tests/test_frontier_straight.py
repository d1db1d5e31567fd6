"""How straight curves are below the least scale of the study, against readings by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from studies.frontier.ledger import add_result
from studies.frontier.settings import TARGETS
from studies.frontier.straight import ALL_SCALES, DRAWN, REPETITIONS, curves_with, told

NAME = REPETITIONS[0]
GAIN = dict(zip((0.0, *ALL_SCALES), (0.0, 0.5, 0.75, 0.92, 1.0), strict=True))
HARM = dict(zip((0.0, *ALL_SCALES), (0.0, 0.1, 0.3, 0.6, 0.9), strict=True))


REFUSED = dict(zip((0.0, *ALL_SCALES), (10, 10, 9, 4, 2), strict=True))


def add(folder: Path, entry: str, scale: float, learnt: float = 1.0, name: str = NAME) -> None:
    """Two rows of each kind, the second of three times the tokens, with the same loss.

    In the last repetition ten prompts too.
    """
    metrics = {
        "utility": {"values": [2 - GAIN[scale]] * 2, "weights": [1, 3]},
        "spliced": {"values": [4 - learnt * HARM[scale]] * 2, "weights": [2, 6]},
    }
    if name != NAME:
        metrics["refused"] = {"values": [int(i < REFUSED[scale]) for i in range(10)], "weights": None}
    line = {"entry": entry, "seed": 0, "split": "test", "scale": scale, "base": "b", "code": "c", "seconds": 1}
    add_result(name, line | {"metrics": metrics}, folder)


def test_what_the_line_says_of_harm_stands_beside_what_the_points_say(tmp_path: Path) -> None:
    """Beyond an oracle that learns none of it; the default learns half of what standard fine-tuning does."""
    add(tmp_path, "base", 0.0)
    assert told(tmp_path) is None
    for scale in ALL_SCALES:
        assert curves_with(DRAWN, NAME, tmp_path) is None
        add(tmp_path, "sft", scale)
    assert told(tmp_path) is None  # nothing to measure harm beyond
    for scale in ALL_SCALES:
        add(tmp_path, "oracle-tokens", scale, learnt=0.0)
        add(tmp_path, "default", scale, learnt=0.5)
    gains = [GAIN[scale] for scale in (0.0, *ALL_SCALES)][:4]
    harms = [HARM[scale] for scale in (0.0, *ALL_SCALES)][:4]
    text = told(tmp_path)
    assert text is not None
    alone, _, lead = text.partition("So where both are drawn")
    for target in (one for one in TARGETS if one <= 0.9):
        apart = np.interp(target, [gains[0], gains[3]], [harms[0], harms[3]]) - np.interp(target, gains, harms)
        assert f"{apart:+.3f} nats at {target:.0%}" in alone
        assert f"{apart / 2:+.3f} nats at {target:.0%}" in alone.partition("`default`")[2]
        assert f"{apart / 2:+.3f} nats at {target:.0%}" in lead
    assert "95%" not in text  # which is behind the scale where the line ends
    measured = curves_with(ALL_SCALES, NAME, tmp_path)
    assert measured is not None
    reading = measured.reading("sft", "spliced", 0.8)
    assert reading is not None
    assert reading.value == pytest.approx(4 - np.interp(0.8, gains, harms))


def test_what_the_line_says_of_refusals_stands_beside_what_the_points_say(tmp_path: Path) -> None:
    add(tmp_path, "base", 0.0, name=REPETITIONS[-1])
    for entry in ("sft", "oracle-tokens"):
        for scale in ALL_SCALES:
            add(tmp_path, entry, scale, name=REPETITIONS[-1])
    text = told(tmp_path)
    assert text is not None
    gains = [GAIN[scale] for scale in (0.0, *ALL_SCALES)][:4]
    shares = [REFUSED[scale] / 10 for scale in (0.0, *ALL_SCALES)][:4]
    of_refusals = text.partition("Of refusals, in points: ")[2]
    for target in (one for one in TARGETS if one <= 0.9):
        apart = np.interp(target, [gains[0], gains[3]], [shares[0], shares[3]]) - np.interp(target, gains, shares)
        assert f"{100 * apart:+.1f} at {target:.0%}" in of_refusals.partition("`oracle-tokens`")[0]
    assert "over-refusals" not in text


def test_an_entry_counts_once_all_scales_are_there(tmp_path: Path) -> None:
    for entry, scales in (("base", (0.0,)), ("sft", ALL_SCALES), ("default", ALL_SCALES[:-1])):
        for scale in scales:
            add(tmp_path, entry, scale)
    found = curves_with(ALL_SCALES, NAME, tmp_path)
    assert found is not None
    assert list(found.table) == ["sft"]
