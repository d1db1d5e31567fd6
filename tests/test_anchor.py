"""Anchored training: dropped tokens hold the model to the base instead of teaching nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from datasets import Dataset
from peft import PeftModel
from safetensors.numpy import load_file
from transformers import AutoModelForCausalLM

import tosslm
from conftest import write_rows
from support.dying import DyingReporter, KilledError
from test_training import base_of
from tosslm.config import LoraConfig, TrainingConfig, load_config
from tosslm.errors import InputError
from tosslm.model.adapters import fresh_adapter
from tosslm.model.head import SplitHead
from tosslm.progress import Reporter, SilentReporter
from tosslm.training.held import base_states
from tosslm.training.labels import anchored_tokens, training_row, write_training_rows
from tosslm.training.masked import selective_rows
from tosslm.training.train import Recipe, train_adapter

WEIGHT = 20.0  # the very small model is nearly uniform, and its divergences are a hundredth of a nat


def anchored_rows(count: int = 8) -> list[dict[str, Any]]:
    """Rows of unequal lengths; the last has no anchor."""
    rng = np.random.default_rng(5)
    rows = []
    for number, length in enumerate(rng.integers(6, 30, count)):
        mask = rng.random(length) < 0.7
        mask[0], mask[1] = False, True
        keep = rng.random(int(mask.sum())) < 0.6
        anchored = (
            anchored_tokens(keep, np.arange(len(keep)), first=2)
            if number < count - 1
            else np.zeros(len(keep), dtype=bool)
        )
        rows.append(training_row(rng.integers(0, 500, length).tolist(), mask.tolist(), keep.tolist(), anchored))
    return rows


def train(
    folder: Path,
    model_folder: Path,
    *,
    rows: list[dict[str, Any]] | None = None,
    reporter: Reporter | None = None,
    anchor_normalize: Literal["all", "anchored"] = "all",
    **settings: Any,
) -> tuple[dict[str, Any], Path]:
    defaults: dict[str, Any] = {
        "learning_rate": 0.05,
        "epochs": 3,
        "batch_size": 8,
        "micro_batch_size": 2,
        "checkpoint_steps": 2,
    }
    defaults["lora"] = {"target_modules": "all-linear"}
    folder.mkdir(exist_ok=True)
    facts = train_adapter(
        base_of(model_folder),
        write_training_rows(folder / "rows.arrow", anchored_rows() if rows is None else rows, anchored=True),
        Recipe(
            TrainingConfig.model_validate({**defaults, **settings}),
            seed=3,
            anchor_weight=WEIGHT,
            anchor_normalize=anchor_normalize,
        ),
        name="test",
        work=folder,
        out=folder / "out",
        notes={},
        reporter=reporter or SilentReporter(),
    )
    return facts, folder / "out"


def independent_loss(adapter: Path, model_folder: Path, rows: list[dict[str, Any]]) -> tuple[float, float]:
    """Mean cross-entropy over labels and mean KL over anchors, row by row with full softmaxes in double precision."""
    plain = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32)
    base = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32).eval()
    model = PeftModel.from_pretrained(plain, adapter).eval()
    losses, divergences = [], []
    for row in rows:
        ids = torch.tensor([row["input_ids"]])
        with torch.no_grad():
            log_m = torch.log_softmax(model(ids).logits[0].double(), -1)
            log_b = torch.log_softmax(base(ids).logits[0].double(), -1)
        for t in range(1, len(row["input_ids"])):
            if row["labels"][t] != -100:
                losses.append(-log_m[t - 1, row["labels"][t]].item())
            if row["anchored"][t]:
                divergences.append((log_b[t - 1].exp() * (log_b[t - 1] - log_m[t - 1])).sum().item())
    return float(np.mean(losses)), float(np.mean(divergences))


def test_dropped_and_first_tokens_are_anchored_and_have_no_label() -> None:
    keep = np.array([True, True, False, True])
    row = training_row(
        [9, 1, 2, 3, 4], [False, True, True, True, True], keep, anchored_tokens(keep, np.arange(len(keep)), first=1)
    )
    assert row["anchored"] == [False, True, False, True, False]
    assert row["labels"] == [-100, -100, 2, -100, 4]
    assert row["response_tokens"] == 4


def test_more_first_tokens_than_a_row_has_anchor_all_of_it() -> None:
    assert anchored_tokens(np.array([True, False]), np.arange(2), first=5).tolist() == [True, True]
    assert anchored_tokens(np.array([True, False]), np.arange(2), first=0).tolist() == [False, True]


@pytest.mark.long
@pytest.mark.parametrize("divisor", ["all", "anchored"])
def test_the_loss_is_exact_after_steps_that_moved_the_model(
    divisor: Literal["all", "anchored"], tiny_model_folder: Path, tmp_path: Path
) -> None:
    """Every step sees all rows, in four forward passes; the third step's loss is that of the adapter after two."""
    rows = anchored_rows()
    _, after_two = train(tmp_path / "two", tiny_model_folder, epochs=2, anchor_normalize=divisor)
    facts, _ = train(tmp_path / "three", tiny_model_folder, epochs=3, anchor_normalize=divisor)
    loss, divergence = independent_loss(after_two, tiny_model_folder, rows)
    trained = sum(label != -100 for row in rows for label in row["labels"])
    anchored = sum(map(sum, (row["anchored"] for row in rows)))
    assert divergence > 0.002
    share = anchored / (anchored + trained) if divisor == "all" else 1.0
    assert facts["last_loss"] == pytest.approx(loss + WEIGHT * share * divergence, abs=1e-4)
    assert (facts["trained_tokens"], facts["anchored_tokens"]) == (trained, anchored)


@pytest.mark.long
def test_the_update_does_not_depend_on_passes_or_chunks(
    tiny_model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def update(name: str, micro_batch_size: int) -> dict[str, Any]:
        _, out = train(tmp_path / name, tiny_model_folder, micro_batch_size=micro_batch_size, learning_rate=0.02)
        return dict(load_file(out / WEIGHTS))

    updates = [update("whole", 8), update("single", 1)]
    monkeypatch.setattr("tosslm.model.head.LOGITS_BYTES", 4 * 49152 * 3)
    updates.append(update("chunks", 8))
    for other in updates[1:]:
        for name, weight in updates[0].items():
            np.testing.assert_allclose(weight, other[name], atol=5e-3)


WEIGHTS = "adapter_model.safetensors"


def test_the_anchor_holds_the_model_back(tiny_model_folder: Path, tmp_path: Path) -> None:
    rows = anchored_rows()
    free = [{**row, "anchored": [False] * len(row["anchored"])} for row in rows]
    _, held = train(tmp_path / "held", tiny_model_folder, epochs=8, learning_rate=0.005, anchor_normalize="anchored")
    _, loose = train(tmp_path / "loose", tiny_model_folder, epochs=8, learning_rate=0.005, rows=free)
    assert (
        independent_loss(held, tiny_model_folder, rows)[1] < 0.5 * independent_loss(loose, tiny_model_folder, rows)[1]
    )


def test_the_base_reads_only_rows_with_anchors_and_no_further_than_the_last(
    tiny_model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[tuple[bool, torch.Size]] = []
    hidden_states = SplitHead.hidden_states

    def watch(
        self: SplitHead, input_ids: torch.Tensor, attention_mask: torch.Tensor | None, through: Any = None
    ) -> torch.Tensor:
        read.append((torch.is_grad_enabled(), input_ids.shape))
        return hidden_states(self, input_ids, attention_mask, through=through)

    monkeypatch.setattr(SplitHead, "hidden_states", watch)
    rows = anchored_rows()
    train(tmp_path, tiny_model_folder, epochs=1, micro_batch_size=8)
    last = max(max(np.flatnonzero(row["anchored"]), default=0) for row in rows)
    taught = max(max(np.flatnonzero(np.array(row["labels"]) != -100), default=0) for row in rows)
    assert [shape for trains, shape in read if trains] == [(8, max(last, taught))]
    assert [shape for trains, shape in read if not trains] == [(7, last)]


def test_what_the_base_says_is_held_over_several_epochs(
    tiny_model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same training as where memory is too little and the base reads in every step."""
    rows = anchored_rows()
    _, held = train(tmp_path / "held", tiny_model_folder, batch_size=4, rows=rows)
    monkeypatch.setattr("tosslm.training.held.MOST_BYTES", 0)
    _, anew = train(tmp_path / "anew", tiny_model_folder, batch_size=4, rows=rows)
    for name, weight in load_file(held / WEIGHTS).items():
        np.testing.assert_allclose(weight, load_file(anew / WEIGHTS)[name], atol=5e-3)
    with fresh_adapter(base_of(tiny_model_folder), LoraConfig.model_validate({}), 0) as model:
        states = base_states(SplitHead(model), Dataset.from_list(rows))
        plain = AutoModelForCausalLM.from_pretrained(tiny_model_folder, dtype=torch.float32)
        for number, row in enumerate(rows):
            with torch.no_grad():
                ids = torch.tensor([row["input_ids"]])
                wanted = plain.model(ids).last_hidden_state[0, :-1][torch.tensor(row["anchored"][1:])]
            torch.testing.assert_close(states.of([number], wanted.device), wanted, atol=1e-4, rtol=1e-3)


def test_a_killed_anchored_training_ends_with_the_same_bytes(tiny_model_folder: Path, tmp_path: Path) -> None:
    _, whole = train(tmp_path / "whole", tiny_model_folder, batch_size=4)
    with pytest.raises(KilledError):
        train(tmp_path / "killed", tiny_model_folder, reporter=DyingReporter(3), batch_size=4)
    _, resumed = train(tmp_path / "killed", tiny_model_folder, batch_size=4)
    assert (resumed / WEIGHTS).read_bytes() == (whole / WEIGHTS).read_bytes()


@pytest.mark.long
def test_a_weight_of_zero_is_plain_selective_training_to_the_bit(tiny_config: dict[str, Any]) -> None:
    adapter = Path(tiny_config["run_dir"]) / "model" / WEIGHTS
    made = {}
    for name, change in {
        "plain": {},
        "zero": {"dropped": "anchor", "anchor_weight": 0.0, "anchor_first": 3},
        "anchored": {"dropped": "anchor", "anchor_first": 3},
    }.items():
        run = tosslm.run({**tiny_config, "finetune": {**tiny_config["finetune"], **change}})
        made[name] = adapter.read_bytes()
    assert made["plain"] == made["zero"]
    assert made["plain"] != made["anchored"]
    dropped, rows = run.manifest["stages"]["selection"]["discarded"], len(run.keep())
    assert dropped < run.manifest["stages"]["model"]["anchored_tokens"] <= dropped + 3 * rows


def test_options_that_do_not_go_together_are_refused(tiny_config: dict[str, Any]) -> None:
    wrong = {**tiny_config, "finetune": {**tiny_config["finetune"], "dropped": "anchor", "normalize": "all"}}
    with pytest.raises(InputError, match=r"normalize: all does not go with dropped: anchor"):
        load_config(wrong)
    wrong["finetune"]["anchor_weight"] = 0.0
    load_config(wrong)


def test_every_answer_of_a_conversation_is_anchored_at_its_beginning(tiny_config: dict[str, Any]) -> None:
    """The labels of a run's training rows, against the turns of the conversation."""
    turns = [{"role": role, "content": f"{role} says this and that"} for role in ("user", "assistant") * 3]
    write_rows(Path(tiny_config["data"]["custom"]["path"]), [{"messages": turns}])
    config = {**tiny_config, "selection": {"discard_fraction": 0.0, "evidence": "token"}, "refinement": {"rounds": 0}}
    run = tosslm.run(config, until="select")
    (row,) = selective_rows(run.layout, anchor_first=2)
    offsets = run.rows["offsets"][0]
    places = [place for place, responds in enumerate(run.rows["response_mask"][0]) if responds]
    expected = [False] * len(row["input_ids"])
    for message in (1, 3, 5):
        for place in [p for p, offset in zip(places, offsets, strict=True) if offset[0] == message][:2]:
            expected[place] = True
    assert sum(expected) == 6
    assert row["anchored"] == expected
    assert all(row["labels"][place] == -100 for place, held in enumerate(expected) if held)


def of_an_earlier_version(folder: Path) -> None:
    """A run folder as it was before there was ``anchor_normalize``: what is fingerprinted is the same."""
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["config"]["finetune"].pop("anchor_normalize") == "anchored"
    (folder / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.long
@pytest.mark.slow
def test_a_folder_of_an_earlier_version_keeps_its_anchor(tiny_config: dict[str, Any]) -> None:
    """Going on from the folder changes nothing; a config file of then means another anchor, and that is said."""
    then = {"dropped": "anchor", "anchor_weight": 0.5}
    config = {**tiny_config, "refinement": {"rounds": 0}, "finetune": {**tiny_config["finetune"], **then}}
    made = tosslm.run(
        {**config, "finetune": {**config["finetune"], "anchor_normalize": "anchored"}}, until="finetune"
    )
    stages, bytes_ = made.stages, (made.path / "model" / WEIGHTS).read_bytes()
    of_an_earlier_version(made.path)
    assert tosslm.load_run(made.path).config.finetune.anchor_normalize == "anchored"
    again = tosslm.run(tosslm.load_run(made.path).config_to_go_on(), until="finetune")
    assert again.stages == stages
    assert (again.path / "model" / WEIGHTS).read_bytes() == bytes_
    of_an_earlier_version(made.path)
    assert tosslm.run(config, until="finetune").stages["model"] != stages["model"]
    said = "anchor_weight 0.5 of the mean KL over anchored tokens, as older versions do it; now it is 0.5"
    assert again.layout.log.read_text().count(said) == 1
