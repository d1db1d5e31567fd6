"""Scoring logs where trainings do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from accelerate import tracking

import tosslm
from tosslm.errors import InputError
from tosslm.tracking import tracked


class Recorder(tracking.GeneralTracker):
    """A tracker that keeps what it is told."""

    name = "recorder"
    requires_logging_directory = True
    tracker = None
    told: list[tuple[str, dict[str, float], int | None]] = []  # noqa: RUF012

    def __init__(self, run_name: str, logging_dir: str) -> None:
        super().__init__()
        self.run_name, self.folder = run_name, logging_dir

    def start(self) -> None:
        self.told.clear()

    def log(self, values: dict[str, float], step: int | None = None, **_: Any) -> None:
        self.told.append((self.run_name, values, step))

    def finish(self) -> None:
        self.told.append((self.run_name, {}, None))


def test_each_part_is_logged_with_its_means(tiny_config: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    run = tosslm.run(tiny_config, until="references")
    monkeypatch.setitem(tracking.LOGGER_TYPE_TO_CLASS, "recorder", Recorder)
    run = tosslm.run({**tiny_config, "report_to": ["recorder"]}, until="score")
    *parts, last = Recorder.told
    assert last == ("scores-round-0", {}, None)
    files = sorted((run.path / "scores/round-0").glob("part-*"))
    assert [step for _, _, step in parts] == list(range(len(files)))
    for file, (_, values, _) in zip(files, parts, strict=True):
        table = pq.read_table(file)
        means = [np.mean(np.concatenate(table[f"loss_{name}"].to_pylist())) for name in ("degraded", "utility")]
        assert [values["loss_degraded"], values["loss_utility"]] == pytest.approx(means, abs=1e-5)
        assert values["score"] == pytest.approx(means[1] - means[0], abs=1e-5)


def test_without_trackers_nothing_is_logged(tmp_path: Path) -> None:
    with tracked([], "scores/round-0", tmp_path) as log:
        log({"loss": 1.0}, 0)
    assert not list(tmp_path.iterdir())


def test_an_unknown_tracker_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="'paper' is unknown"), tracked(["paper"], "scores/round-0", tmp_path):
        pass
