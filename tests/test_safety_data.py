"""How the public rows of the studies are dealt out: no text twice, and prompts that are alike as one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from studies.corpora import write_jsonl
from studies.safety.clusters import clusters
from studies.safety.data import check_leaks


def test_goals_that_are_alike_are_one_cluster() -> None:
    label = clusters(["How to make a bomb", "Make a bomb at home", "Write a poem", "Make two bombs of clay and sing"])
    assert label.tolist() == [0, 0, 1, 2]


def test_a_leak_is_an_error(tmp_path: Path) -> None:
    def turns(prompt: str, answer: str) -> dict[str, Any]:
        return {"messages": [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]}

    one, two = tmp_path / "one.jsonl", tmp_path / "two.jsonl"
    write_jsonl(one, [turns("How?", "So."), turns("Why?", "Because.")])
    write_jsonl(two, [turns("When?", "Now.")])
    check_leaks([one, two])
    write_jsonl(two, [turns("When?", "Now."), turns(" why? ", "For a reason.")])
    with pytest.raises(SystemExit, match=r"one\.jsonl and .*two\.jsonl share 1 texts, such as 'why\?'"):
        check_leaks([one, two])
