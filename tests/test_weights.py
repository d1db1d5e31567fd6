"""Training in which tokens and rows do not all count the same, and what a weight lacks holds to the base."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from peft import PeftModel
from transformers import AutoModelForCausalLM
from trl import SFTConfig

import tosslm
from test_anchored_trainer import SETTINGS, adapted, one_step, plain
from test_training import base_of
from tosslm.config import TrainingConfig
from tosslm.errors import TosslmError
from tosslm.files import read_tables
from tosslm.methods import registry
from tosslm.methods.method import Method, keep_all
from tosslm.progress import SilentReporter
from tosslm.training.collate import TrainingCollator
from tosslm.training.hooks import TrainingHook
from tosslm.training.labels import training_row, write_training_rows
from tosslm.training.train import Recipe, train_adapter
from tosslm.training.trainer import SelectiveTrainer


def weighed_rows(count: int = 8) -> list[dict[str, Any]]:
    """Rows of unequal lengths; some tokens are dropped, some count nothing, some more than one."""
    rng = np.random.default_rng(5)
    rows = []
    for length in rng.integers(6, 30, count):
        mask = rng.random(length) < 0.7
        mask[0], mask[1] = False, True
        tokens = int(mask.sum())
        keep, weights = rng.random(tokens) < 0.8, rng.choice([0.0, 0.25, 0.7, 1.0, 1.5], tokens)
        rows.append(
            training_row(
                rng.integers(0, 500, length).tolist(), mask.tolist(), keep.tolist(), weights=weights.tolist()
            )
        )
    return rows


class OddRows(TrainingHook):
    """Rows of an even number count nothing, the others twice; keeps what it was told."""

    def __init__(self) -> None:
        self.told: list[tuple[int, float]] = []

    def row_weights(self, trainer: Any, numbers: torch.Tensor, losses: torch.Tensor) -> torch.Tensor:
        self.told += zip(numbers.tolist(), losses.tolist(), strict=True)
        return 2.0 * (numbers % 2)


def train(folder: Path, model_folder: Path, epochs: int, **recipe: Any) -> tuple[float, Path]:
    """Every step sees all rows, in four forward passes; the last step's loss, and the adapter."""
    settings = {
        "lora": {"target_modules": "all-linear"},
        "learning_rate": 0.05,
        "epochs": epochs,
        "batch_size": 8,
        "micro_batch_size": 2,
    }
    folder.mkdir()
    file = folder / "rows.arrow"
    facts = train_adapter(
        base_of(model_folder),
        write_training_rows(file, weighed_rows(), weighed=True, numbered=recipe.get("hook") is not None),
        Recipe(TrainingConfig.model_validate(settings), seed=3, weighed=True, **recipe),
        name="test",
        work=folder,
        out=folder / "out",
        notes={},
        reporter=SilentReporter(),
    )
    return facts["last_loss"], folder / "out"


def by_hand(adapter: Path, model_folder: Path) -> tuple[np.ndarray, ...]:
    """Row number, weight, cross-entropy and KL to the base of every kept token, with full softmaxes in float64."""
    plain = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32)
    base = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32).eval()
    model = PeftModel.from_pretrained(plain, adapter).eval()
    found = []
    for number, row in enumerate(weighed_rows()):
        ids = torch.tensor([row["input_ids"]])
        with torch.no_grad():
            log_m = torch.log_softmax(model(ids).logits[0].double(), -1)
            log_b = torch.log_softmax(base(ids).logits[0].double(), -1)
        for t, label in enumerate(row["labels"]):
            if label != -100:
                kl = (log_b[t - 1].exp() * (log_b[t - 1] - log_m[t - 1])).sum().item()
                found.append((number, row["weight"][t], -log_m[t - 1, label].item(), kl))
    return tuple(np.array(column) for column in zip(*found, strict=True))


def test_a_row_bears_a_weight_for_each_token() -> None:
    row = training_row([9, 1, 2, 8], [False, True, True, False], [True, False], weights=[0.5, 2.0])
    assert row["weight"] == [0.0, 0.5, 2.0, 0.0]
    assert row["labels"] == [-100, 1, -100, -100]


def test_weights_of_tokens_and_rows_and_what_holds_make_one_loss_and_its_gradients(
    tiny_model_folder: Path, smollm2_tokenizer: Any, tmp_path: Path
) -> None:
    """One optimizer batch over four passes, on a model that has moved away from its base; row by row by hand."""
    rows = [row | {"number": number} for number, row in enumerate(weighed_rows())]
    hook = OddRows()
    trainer = SelectiveTrainer(
        adapted(tiny_model_folder, moved=True),
        args=SFTConfig(
            str(tmp_path),
            max_length=None,
            remove_unused_columns=False,
            dataset_kwargs={"skip_prepare_dataset": True},
            **SETTINGS,
        ),
        data_collator=TrainingCollator(pad_token_id=smollm2_tokenizer.pad_token_id),
        train_dataset=Dataset.from_list(rows),
        processing_class=smollm2_tokenizer,
        normalize="kept",
        hold=True,
        hook=hook,
    )
    loss, found = one_step(trainer)
    model, base = adapted(tiny_model_folder, moved=True).eval(), plain(tiny_model_folder).eval()
    parts: dict[str, list[torch.Tensor]] = {"weighed": [], "held": []}
    means = []
    for number, row in enumerate(rows):
        ids, weights = torch.tensor([row["input_ids"]]), torch.tensor(row["weight"])
        kept = [t for t, label in enumerate(row["labels"]) if label != -100]
        before = [t - 1 for t in kept]
        log_m = torch.log_softmax(model(ids).logits[0, before].double(), -1)
        log_b = torch.log_softmax(base(ids).logits[0, before].double(), -1).detach()
        losses = -log_m[range(len(kept)), ids[0, kept]]
        divergences = (log_b.exp() * (log_b - log_m)).sum(-1)
        parts["weighed"] += [2 * (number % 2) * weights[kept] * losses]
        parts["held"] += [(1 - weights[kept]).clamp(min=0) * divergences]
        means.append(losses.mean().item())
    weighed, held = (torch.cat(parts[name]) for name in ("weighed", "held"))
    expected = (weighed.sum() + held.sum()) / len(weighed)
    assert held.mean() > 1e-3
    assert loss == pytest.approx(expected.item(), abs=1e-5)
    assert [mean for _, mean in sorted(hook.told)] == pytest.approx(means, abs=1e-4)
    learnt = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    gradients = torch.autograd.grad(expected, list(learnt.values()))
    assert found.keys() == learnt.keys()
    for name, gradient in zip(learnt, gradients, strict=True):
        torch.testing.assert_close(found[name], gradient, atol=1e-6, rtol=1e-3)


@pytest.mark.long
def test_a_token_counts_by_its_weight_among_all_kept_ones(tiny_model_folder: Path, tmp_path: Path) -> None:
    _, after_two = train(tmp_path / "two", tiny_model_folder, 2)
    loss, _ = train(tmp_path / "three", tiny_model_folder, 3)
    _, weights, losses, _ = by_hand(after_two, tiny_model_folder)
    assert loss == pytest.approx((weights * losses).sum() / len(losses), abs=1e-4)
    assert abs(loss - losses.mean()) > 0.1


@pytest.mark.long
def test_what_a_weight_lacks_holds_to_the_base(tiny_model_folder: Path, tmp_path: Path) -> None:
    _, after_two = train(tmp_path / "two", tiny_model_folder, 2, hold=True)
    loss, _ = train(tmp_path / "three", tiny_model_folder, 3, hold=True)
    _, weights, losses, divergences = by_hand(after_two, tiny_model_folder)
    held = (np.maximum(1 - weights, 0) * divergences).sum()
    assert held / len(losses) > 2e-4
    assert loss == pytest.approx(((weights * losses).sum() + held) / len(losses), abs=1e-4)


@pytest.mark.long
def test_a_hook_weighs_rows_by_their_number_and_loss(tiny_model_folder: Path, tmp_path: Path) -> None:
    _, after_two = train(tmp_path / "two", tiny_model_folder, 2, hook=OddRows())
    hook = OddRows()
    loss, _ = train(tmp_path / "three", tiny_model_folder, 3, hook=hook)
    numbers, weights, losses, _ = by_hand(after_two, tiny_model_folder)
    assert loss == pytest.approx((weights * losses * 2 * (numbers % 2)).sum() / len(losses), abs=1e-4)
    last = dict(hook.told[-8:])
    assert sorted(last) == list(range(8))
    for number, mean in last.items():
        assert mean == pytest.approx(losses[numbers == number].mean(), abs=1e-4)


def halves(material: Any) -> np.ndarray:
    return np.where(material.positions % 2, 0.5, 1.0)


def weighing(**fields: Any) -> Method:
    given: dict[str, Any] = {"choose": keep_all, "token_weights": halves, **fields}
    return Method("weighing", summary="", source="", badge="control", builds_on="data", **given)


@pytest.fixture
def weighed_config(tiny_config: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Any:
    def with_method(**fields: Any) -> dict[str, Any]:
        known = {**registry(), "weighing": weighing(**fields)}
        monkeypatch.setattr("tosslm.methods.registry", lambda: known)
        return tiny_config | {"method": "weighing", "refinement": {}}

    return with_method


@pytest.mark.long
@pytest.mark.slow
def test_weights_of_a_method_reach_the_training_and_change_it(weighed_config: Any, tmp_path: Path) -> None:
    run = tosslm.run(weighed_config(), until="finetune")
    (table,) = read_tables(run.layout.weights)
    lengths = [sum(row["response_mask"]) for row in run.rows]
    assert [len(row) for row in table["weight"].to_pylist()] == lengths
    assert table["weight"][0].as_py()[:3] == [1.0, 0.5, 1.0]
    known = (run.path / "model/adapter_model.safetensors").read_bytes()
    plain = tosslm.run(weighed_config(token_weights=None) | {"run_dir": str(tmp_path / "plain")}, until="finetune")
    assert not plain.layout.weights.exists()
    assert (plain.path / "model/adapter_model.safetensors").read_bytes() != known


@pytest.mark.slow
@pytest.mark.parametrize("wrong", [lambda m: halves(m)[1:], lambda m: -halves(m), lambda m: halves(m) * np.nan])
def test_weights_that_are_none_are_refused(weighed_config: Any, wrong: Any) -> None:
    with pytest.raises(TosslmError, match="token weights are not one number from 0 for each response token"):
        tosslm.run(weighed_config(token_weights=wrong), until="select")


def test_hooks_that_need_each_other() -> None:
    with pytest.raises(ValueError, match="go with choose"):
        weighing(choose=None)
    with pytest.raises(ValueError, match="hold goes with token_weights"):
        weighing(token_weights=None, hold=True)
