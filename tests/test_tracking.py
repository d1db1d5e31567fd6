"""Scoring logs where trainings do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from accelerate import tracking
from tensorboard.backend.event_processing import event_accumulator  # type: ignore[import-untyped]  # it has no types

import tosslm
from tosslm.compare import compare
from tosslm.config import load_config
from tosslm.errors import InputError
from tosslm.tracking import Trackers, tracked


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


@pytest.mark.long
def test_each_part_is_logged_with_its_means(tiny_config: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    run = tosslm.run(tiny_config, until="references")
    monkeypatch.setitem(tracking.LOGGER_TYPE_TO_CLASS, "recorder", Recorder)
    monkeypatch.setattr("tosslm.stages.before.check_trackers", lambda report_to: None)
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
    with tracked(Trackers((), tmp_path), "scores/round-0") as log:
        log({"loss": 1.0}, 0)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "fault"),
    [("paper", "'paper' is unknown"), ("clearml", "'clearml' is unknown"), ("mlflow", "mlflow is not installed")],
)
def test_what_cannot_log_is_refused_before_anything_is_done(
    tiny_config: dict[str, Any], name: str, fault: str
) -> None:
    config = {**tiny_config, "report_to": [name]}
    with pytest.raises(InputError, match=fault):
        tosslm.run(config)
    asked = {"utility_rows": {"path": config["data"]["utility"]["path"]}}
    with pytest.raises(InputError, match=fault):
        compare(load_config({**config, "evaluation": asked}), ["sft"])
    assert not Path(tiny_config["run_dir"]).exists()


def test_tensorboard_reads_what_was_logged(tiny_config: dict[str, Any]) -> None:
    run = tosslm.run({**tiny_config, "report_to": ["tensorboard"]}, until="score")
    entry = run.folder.stages["references/utility"]

    def scalars(name: str) -> Any:
        (file,) = (run.path / "logs" / name).rglob("events.out.tfevents*")
        return event_accumulator.EventAccumulator(str(file)).Reload()

    losses = [(event.step, event.value) for event in scalars("references-utility").Scalars("train/loss")]
    assert losses == [(step, pytest.approx(loss, rel=1e-3)) for step, loss in entry["losses"]]
    parts = len(list((run.path / "scores/round-0").glob("part-*")))
    assert len(scalars("scores-round-0").Scalars("score")) == parts
