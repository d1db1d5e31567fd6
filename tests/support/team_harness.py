"""Trainings that several processes of a launcher do together, or one by itself: python -m support.team_harness."""

from __future__ import annotations

import os
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import Accelerator

from tosslm.config import ModelConfig, TrainingConfig
from tosslm.exits import end_at_once
from tosslm.model.base import Base, open_base
from tosslm.model.layers import decoder_layers
from tosslm.model.sharded import Shards
from tosslm.progress import SilentReporter
from tosslm.team import assemble, leave, place
from tosslm.training.labels import read_training_rows, training_row, write_training_rows
from tosslm.training.train import Recipe, train_adapter

ROWS, BATCH, EPOCHS = 17, 4, 4
"""20 optimizer steps; the last batch of each epoch is a single row."""
RECIPES: dict[str, dict[str, Any]] = {
    "kept": {"normalize": "kept", "anchor_weight": 0.7},
    "all": {"normalize": "all"},
    "row": {"normalize": "row", "weighed": True, "hold": True},
}


def uneven_rows() -> list[dict[str, Any]]:
    """Rows of 5 to 29 tokens, some dropped, some anchored, each with a weight; one keeps nothing."""
    rng = np.random.default_rng(1)
    rows = []
    for number, length in enumerate(rng.integers(5, 30, ROWS)):
        mask = rng.random(length) < 0.6
        mask[0], mask[1] = False, True
        responses = int(mask.sum())
        keep = rng.random(responses) < (0.7 if number else 0.0)
        anchored, weights = ~keep & (rng.random(responses) < 0.8), rng.random(responses)
        ids = rng.integers(0, 500, length).tolist()
        rows.append(training_row(ids, mask.tolist(), keep.tolist(), anchored.tolist(), weights.tolist()))
    return rows


def main(model: str, folder: Path) -> None:
    """Train each recipe, the first process with the rows that it has written."""
    if os.environ.get("LIKE_GPUS"):  # what accelerate says of several GPUs, and asks before it wraps a model
        Accelerator.multi_device = property(lambda self: self.use_distributed)
    team = assemble(cpu=True)
    base = open_base(ModelConfig(name=model, dtype="float32", device="cpu"))
    if team and team.shards:
        Shards(team, {base.keys.name: base})
    with team.together() if team else nullcontext():
        _train(base, folder)
    if team and team.shards:
        weights: list[Any] = list(decoder_layers(base.model).parameters())
        own = [weight.to_local().numel() for weight in weights]
        (folder / f"held-{team.place.rank}.txt").write_text(str(sum(own)), encoding="utf-8")
    leave()


def _train(base: Base, folder: Path) -> None:
    for name, recipe in RECIPES.items():
        rows = read_training_rows(folder / "rows.arrow")
        if not recipe.get("anchor_weight"):
            rows = rows.remove_columns("anchored")
        if not recipe.get("weighed"):
            rows = rows.remove_columns("weight")
        settings = {"learning_rate": 0.01, "epochs": EPOCHS, "batch_size": BATCH, "micro_batch_size": 1}
        facts = train_adapter(
            base,
            rows,
            Recipe(TrainingConfig.model_validate({**settings, "checkpoint_steps": 7}), seed=3, **recipe),
            name=name,
            work=folder / f"work-{name}",
            out=folder / name,
            notes={},
            reporter=SilentReporter(),
            together=place().count > 1,
        )
        assert (facts["steps"], facts["processes"]) == (20, place().count)
        if place().leads:
            (folder / f"{name}.txt").write_text("\n".join(str(loss) for _, loss in facts["losses"]), encoding="utf-8")


if __name__ == "__main__":
    where = Path(sys.argv[2])
    if sys.argv[3:] == ["write"]:
        write_training_rows(where / "rows.arrow", uneven_rows(), anchored=True, weighed=True)
    main(sys.argv[1], where)
    end_at_once(0)
