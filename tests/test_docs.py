"""What pages list is what there is."""

from __future__ import annotations

import re
from pathlib import Path

from tosslm.evaluation.measures import MEASURES
from tosslm.methods import registry

PAGE = (Path(__file__).parents[1] / "docs" / "evaluation.md").read_text(encoding="utf-8")


def listed(heading: str) -> list[str]:
    """The names in the first column of the table under a heading."""
    section = PAGE.split(f"## {heading}\n", 1)[1].split("\n## ", 1)[0]
    cells = re.findall(r"^\| (`[^|]*) \|", section, flags=re.MULTILINE)
    return [name for cell in cells for name in re.findall(r"`([^`]+)`", cell)]


def test_every_method_is_listed_in_the_order_of_the_command() -> None:
    assert listed("Comparing methods") == list(registry())


def test_every_measure_is_listed() -> None:
    assert set(listed("Metrics")) - {"lm_eval/TASK/METRIC"} == set(MEASURES)
