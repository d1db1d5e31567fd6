"""Sets that ought to be apart: contents that stand in several of them are counted and told, by plan and run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import tosslm
from conftest import demo_rows, write_rows
from tosslm.config import load_config
from tosslm.data.shared import Shared
from tosslm.findings.apart import shared_told
from tosslm.findings.warnings import run_warnings
from tosslm.plan import make_plan
from tosslm.progress import SilentReporter


def test_copies_count_once_and_only_what_is_shared_is_counted() -> None:
    shared = Shared()
    for name, ids in (("harmful", ["a", "b", "b-2"]), ("utility", ["c", "b"]), ("custom", ["c", "c-2", "d"])):
        for row_id in ids:
            shared.add(name, row_id)
    assert shared.counts() == {"utility": 1, "both": 1}
    assert len(shared_told(shared.counts())) == 2
    assert Shared().counts() == {}
    assert shared_told({}) == []


def test_plan_and_run_tell_of_a_file_that_is_two_sets(tiny_config: dict[str, Any], tmp_path: Path) -> None:
    write_rows(tmp_path / "utility.jsonl", [*demo_rows("utility", 10), *demo_rows("custom", 3)])
    planned = make_plan(load_config(tiny_config), measure=False, reporter=SilentReporter())["warnings"]
    run = tosslm.run(tiny_config, until="data")
    (told,) = shared_told({"utility": 3})
    assert told.startswith("3 contents of the utility set stand in the custom set too")
    assert told in planned
    assert told in run_warnings(run)
    assert told in json.loads(run.layout.manifest.read_text())["warnings"]


@pytest.mark.parametrize("source", [{"path": "c"}, {"from": "custom"}])
def test_nothing_is_told_of_sets_that_are_apart(
    tiny_config: dict[str, Any], tmp_path: Path, source: dict[str, str]
) -> None:
    if "from" in source:
        tiny_config["data"]["utility"] = source
    run = tosslm.run(tiny_config, until="data")
    assert "shared" not in run.stages["data"]
    assert not [
        told
        for told in make_plan(load_config(tiny_config), measure=False, reporter=SilentReporter())["warnings"]
        if "stand in" in told
    ]
