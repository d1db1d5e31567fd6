"""What pages list is what there is, and their code runs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

import tosslm
from tosslm.measures import MEASURES
from tosslm.methods import registry

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "evaluation.md").read_text(encoding="utf-8")


def listed(heading: str) -> list[str]:
    """The names in the first column of the table under a heading."""
    section = PAGE.split(f"## {heading}\n", 1)[1].split("\n## ", 1)[0]
    cells = re.findall(r"^\| (`[^|]*) \|", section, flags=re.MULTILINE)
    return [name for cell in cells for name in re.findall(r"`([^`]+)`", cell)]


def test_every_method_is_listed_in_the_order_of_the_command() -> None:
    assert listed("Comparing methods") == list(registry())


def test_every_measure_is_listed() -> None:
    assert set(listed("Metrics")) - {"lm_eval/TASK/METRIC"} == set(MEASURES)


def code_blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", (ROOT / page).read_text(encoding="utf-8"), re.M | re.S)


def test_every_public_name_is_on_the_pages_of_the_interface() -> None:
    pages = "\n".join(page.read_text(encoding="utf-8") for page in (ROOT / "docs" / "api").glob("*.md"))
    assert set(re.findall(r"tosslm\.(\w+)\b(?!\.)", pages)) >= set(tosslm.__all__)


@pytest.mark.slow
def test_one_stage_from_a_prompt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The snippet of CONTRIBUTING, twice: what is done is skipped."""
    for name in ("configs", "examples"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    [code] = code_blocks("CONTRIBUTING.md", "python")
    finished = []
    for _ in range(2):
        names: dict[str, Any] = {}
        exec(code, names)
        finished.append(names["bench"].folder.stages)
    assert list(finished[0]) == ["data"]
    assert finished[0]["data"]["sets"]["custom"]["rows"] > 0
    assert finished[1] == finished[0]
