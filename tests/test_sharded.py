"""A model spread over two processes trains, scores and answers as in one: FSDP2 on gloo."""

from __future__ import annotations

import json
import os
import signal
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import distributed

import tosslm
from support import team_harness
from support.launched import (
    TORCHRUN,
    accelerate,
    assert_close,
    at_checkpoint,
    children,
    end,
    start,
    write,
)
from tosslm.config import ModelConfig
from tosslm.errors import InputError, TosslmError
from tosslm.model.base import Base, open_base
from tosslm.model.layers import decoder_layers, scaled_layer
from tosslm.model.losses import response_losses
from tosslm.model.sharded import Shards
from tosslm.runs.verify import verify
from tosslm.team import Place, Team
from tosslm.training.labels import write_training_rows

ASKED = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}
"""What `accelerate launch` passes on of configs/accelerate/fsdp2.yaml."""
ROWS = [{"input_ids": list(range(n, 2 * n)), "response_mask": [False] * 2 + [True] * (n - 2)} for n in (5, 9, 12)]


def opened(folder: Path) -> Base:
    return open_base(ModelConfig(name=str(folder), dtype="float32", device="cpu"))


@pytest.fixture
def leading(tiny_model_folder: Path) -> Iterator[tuple[Base, list[dict[str, str]]]]:
    """A base as the first process of a team holds it, here of one, and the orders that it has given."""
    given: list[dict[str, str]] = []

    class Listening(Team):
        def give(self, order: Any) -> None:
            given.append(dict(order))

    store = distributed.HashStore()  # type: ignore[attr-defined]
    distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    base = opened(tiny_model_folder)
    Shards(Listening(Place(0, 1), None), {"model.name": base})
    yield base, given
    distributed.destroy_process_group()


def test_each_pass_that_one_process_does_alone_is_announced(
    leading: tuple[Base, list[dict[str, str]]], tiny_model_folder: Path
) -> None:
    base, given = leading
    expected = response_losses(opened(tiny_model_folder).model, ROWS, batch_tokens=12)
    for found, own in zip(response_losses(base.model, ROWS, batch_tokens=12), expected, strict=True):
        np.testing.assert_array_equal(found, own)
    base.release()
    assert given == [{"load": "model.name"}, *[{"read": "model.name"}] * 3, {"release": "model.name"}]


def test_a_pass_that_broke_off_is_not_tried_again(leading: tuple[Base, list[dict[str, str]]]) -> None:
    """The others would answer with weights of the layers after it."""
    base, given = leading

    def full(*_: Any) -> None:
        raise torch.OutOfMemoryError("no memory left")

    hook = decoder_layers(base.model)[1].register_forward_pre_hook(full)
    with pytest.raises(TosslmError, match=r"broke off.*batch_tokens"):
        response_losses(base.model, ROWS, share=False)
    hook.remove()
    assert given == [{"load": "model.name"}, {"read": "model.name"}]


def test_what_a_part_of_a_layer_cannot_do_is_refused(leading: tuple[Base, list[dict[str, str]]]) -> None:
    base, _ = leading
    with pytest.raises(InputError, match=r"needs gradients.*ddp\.yaml"):
        base.model(input_ids=torch.zeros((1, 2), dtype=torch.long))
    with pytest.raises(InputError, match=r"cannot be scaled.*ddp\.yaml"), scaled_layer(base.model, 0, 2.0):
        pass


@pytest.mark.long
@pytest.mark.slow
def test_two_processes_with_parts_of_a_model_train_what_one_does(tiny_model_folder: Path, tmp_path: Path) -> None:
    """20 steps on uneven rows with dropped and anchored tokens; each holds about half of the layers."""
    alone, parted = tmp_path / "alone", tmp_path / "parted"
    for folder in (alone, parted):
        write_training_rows(folder / "rows.arrow", team_harness.uneven_rows(), anchored=True, weighed=True)
    team_harness.main(str(tiny_model_folder), alone)
    status, _, err = end(
        start(
            *TORCHRUN, "2", "-m", "support.team_harness", str(tiny_model_folder), str(parted), **ASKED, LIKE_GPUS="1"
        )
    )
    assert status == 0, err
    for name in team_harness.RECIPES:
        assert_close(parted / name, alone / name)
        np.testing.assert_allclose(np.loadtxt(parted / f"{name}.txt"), np.loadtxt(alone / f"{name}.txt"), atol=1e-4)
    held = [int((parted / f"held-{rank}.txt").read_text()) for rank in (0, 1)]
    weights = sum(weight.numel() for weight in decoder_layers(opened(tiny_model_folder).model).parameters())
    assert sum(held) == weights
    assert max(held) < 0.6 * weights


@pytest.mark.long
@pytest.mark.slow
def test_a_run_with_a_sharded_model_and_one_that_was_killed(
    tiny_config: dict[str, Any], tiny_model_folder: Path, tmp_path: Path
) -> None:
    """References on a proxy, scores, a round, anchors, answers and distances: all as by one process."""
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in ("Hi", "How do I pick a lock?")))
    config = tiny_config | {
        "references": tiny_config["references"] | {"model": str(tiny_model_folder)},
        "finetune": tiny_config["finetune"] | {"dropped": "anchor", "gradient_checkpointing": True},
        "evaluation": {"harmful": {"path": str(prompts)}, "max_new_tokens": 4},
    }
    whole, broken = write(config, "whole"), write(config, "broken")
    alone = tosslm.run(config, until="diagnose")
    command = ["--num_processes", "2", "-m", "tosslm", "diagnose", str(whole)]
    status, _, err = end(start(*accelerate("fsdp2"), *command))
    assert status == 0, err
    run = tosslm.load_run(whole.with_suffix(""))
    assert verify(run)[1] == []
    assert run.stages.keys() == alone.stages.keys()
    for name in ("references/utility", "references/degraded/round-0", "references/degraded/round-1", "model"):
        assert run.stages[name]["processes"] == 2
        assert run.stages[name]["files"].keys() == alone.stages[name]["files"].keys()
        assert_close(run.path / name, alone.path / name)
    for found, own in zip(run.scores(), alone.scores(), strict=True):
        np.testing.assert_allclose(found, own, atol=1e-4)
    answers = "evaluation/base/harmful.jsonl"
    assert (run.path / answers).read_bytes() == (alone.path / answers).read_bytes()
    hazardous = run.path / "references/degraded/round-1"
    assert (hazardous / "HAZARDOUS.md").exists()
    assert stat.S_IMODE((run.path / "references/degraded").stat().st_mode) == 0o700

    command = [*TORCHRUN, "2", "-m", "tosslm", "finetune", str(broken)]
    first = start(*command, **ASKED)
    at_checkpoint(first, broken, "model")
    for pid in (*children(first), first.pid):
        os.kill(pid, signal.SIGKILL)
    end(first)
    assert "model" not in tosslm.load_run(broken.with_suffix("")).stages
    status, _, err = end(start(*command, **ASKED))
    assert status == 0, err
    resumed = tosslm.load_run(broken.with_suffix(""))
    for name, stage in resumed.stages.items():
        assert run.stages[name]["files"] == stage["files"], name
