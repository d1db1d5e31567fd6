"""The training path: which loss, over which tokens, and how it goes on after a kill."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from datasets import Dataset
from safetensors.numpy import load_file
from transformers import AutoModelForCausalLM

import tosslm.training.train
from support.dying import DyingReporter, KilledError
from tosslm.config import ModelConfig, TrainingConfig, covered
from tosslm.errors import InputError, TosslmError
from tosslm.model.adapters import fresh_adapter
from tosslm.model.base import Base, open_base
from tosslm.model.folders import HAZARD_MARK, adapter_folder, check_adapter
from tosslm.progress import Reporter, SilentReporter
from tosslm.tracking import Trackers
from tosslm.training.collate import TrainingCollator
from tosslm.training.fine_tune import fine_tune
from tosslm.training.hooks import TrainingHook
from tosslm.training.labels import read_lengths, training_row, write_training_rows
from tosslm.training.train import Recipe, train_adapter
from tosslm.training.trainer import SelectiveTrainer


def make_rows(count: int = 10) -> list[dict[str, Any]]:
    rng = np.random.default_rng(1)
    rows = []
    for length in rng.integers(5, 30, count):
        mask = rng.random(length) < 0.6
        mask[0] = False
        keep = rng.random(int(mask.sum())) < 0.7
        rows.append(training_row(rng.integers(0, 500, length).tolist(), mask.tolist(), keep.tolist()))
    return rows


def base_of(folder: Path) -> Base:
    return open_base(ModelConfig(name=str(folder), dtype="float32", device="cpu"))


def train(
    base: Base,
    rows: list[dict[str, Any]],
    folder: Path,
    normalize: Literal["kept", "all", "row"] = "kept",
    reporter: Reporter | None = None,
    **settings: Any,
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    defaults = {"learning_rate": 0.01, "epochs": 1, "batch_size": 4, "micro_batch_size": 2, "checkpoint_steps": 2}
    recipe = Recipe(TrainingConfig.model_validate({**defaults, **settings}), seed=3, normalize=normalize)
    facts = train_by(recipe, base, write_training_rows(folder / "rows.arrow", rows), folder, reporter)
    return facts, load_file(folder / "out" / "adapter_model.safetensors")


def train_by(
    recipe: Recipe, base: Base, rows: Dataset, folder: Path, reporter: Reporter | None = None
) -> dict[str, Any]:
    return train_adapter(
        base,
        rows,
        recipe,
        name="test",
        work=folder,
        out=folder / "out",
        notes={"README.md": "a note"},
        reporter=reporter or SilentReporter(),
    )


def test_labels_are_the_kept_response_tokens() -> None:
    row = training_row([1, 2, 3, 4, 5], [False, False, True, True, True], [True, False, True])
    assert row == {"input_ids": [1, 2, 3, 4, 5], "labels": [-100, -100, 3, -100, 5], "response_tokens": 3}


@pytest.mark.parametrize("normalize", ["kept", "all", "row"])
def test_the_loss_of_a_step_is_exact(
    tiny_model_folder: Path, tmp_path: Path, normalize: Literal["kept", "all", "row"]
) -> None:
    """One optimizer batch of unequal rows over several forward passes, against a loop with a full softmax."""
    rows = [*make_rows(7), training_row([1, 2, 3], [False, True, True], [False, False])]  # the last keeps nothing
    model = AutoModelForCausalLM.from_pretrained(tiny_model_folder, dtype=torch.float32)
    losses: list[list[float]] = []
    for row in rows:
        with torch.no_grad():
            log_p = torch.log_softmax(model(torch.tensor([row["input_ids"]])).logits[0].double(), -1)
        losses.append([-log_p[t - 1, label].item() for t, label in enumerate(row["labels"]) if label != -100])
    total, kept = sum(map(sum, losses)), sum(map(len, losses))
    expected = {
        "kept": total / kept,
        "all": total / sum(row["response_tokens"] for row in rows),
        "row": float(np.mean([np.mean(own) for own in losses if own])),
    }
    facts, _ = train(base_of(tiny_model_folder), rows, tmp_path, normalize, batch_size=8, micro_batch_size=2)
    assert facts["steps"] == 1
    assert facts["trained_tokens"] == kept
    assert facts["first_loss"] == pytest.approx(expected[normalize], abs=1e-4)


def test_the_mean_over_rows_is_the_authors_loop_of_one_row_at_a_time(tiny_model_folder: Path, tmp_path: Path) -> None:
    """Their trainer takes the mean over each row's own labels, and means over rows by accumulating them."""
    rows = [row for row in make_rows(4) if any(label != -100 for label in row["labels"])]
    base = base_of(tiny_model_folder)
    _, made = train(base, rows, tmp_path, "row", batch_size=4, micro_batch_size=2)
    with fresh_adapter(base, TrainingConfig.model_validate({}).lora, 3) as model:
        learnt = [weight for weight in model.parameters() if weight.requires_grad]
        for row in rows:
            labels = torch.tensor([row["labels"]])
            (model(input_ids=torch.tensor([row["input_ids"]]), labels=labels).loss / len(rows)).backward()
        torch.nn.utils.clip_grad_norm_(learnt, 1.0)
        torch.optim.AdamW(learnt, lr=0.01, weight_decay=0.0).step()
        expected = {
            name.replace(".default", ""): weight.detach().numpy().copy()
            for name, weight in model.named_parameters()
            if weight.requires_grad
        }
    for name, value in expected.items():
        np.testing.assert_allclose(made[name], value, atol=2e-3)


def test_a_loss_of_tokens_is_told_the_place_of_each(tiny_model_folder: Path, tmp_path: Path) -> None:
    """The loss is the place itself, and the places are any numbers, of tokens without a label too."""
    rng = np.random.default_rng(2)
    rows = [row | {"place": rng.integers(0, 50, len(row["labels"])).tolist()} for row in make_rows(12)]
    settings = TrainingConfig.model_validate({"epochs": 1, "batch_size": 12, "micro_batch_size": 2})
    recipe = Recipe(settings, seed=3, token_loss=lambda own, base, places: own * 0 + places)
    written = write_training_rows(tmp_path / "rows.arrow", rows, placed=True)
    facts = train_by(recipe, base_of(tiny_model_folder), written, tmp_path)
    told = [p for row in rows for p, label in zip(row["place"], row["labels"], strict=True) if label != -100]
    assert facts["first_loss"] == pytest.approx(np.mean(told), abs=1e-4)


class Told(TrainingHook):
    """Keeps the numbers of the rows that are trained on, in their order, and weighs none."""

    def __init__(self) -> None:
        self.numbers: list[int] = []

    def row_weights(self, trainer: Any, numbers: torch.Tensor, losses: torch.Tensor) -> None:
        self.numbers += numbers.tolist()


def test_the_order_of_rows_is_that_of_the_seed(tiny_model_folder: Path, tmp_path: Path) -> None:
    base, batches = base_of(tiny_model_folder), []
    rows = write_training_rows(tmp_path / "rows.arrow", make_rows(12), numbered=True)
    settings = TrainingConfig.model_validate({"epochs": 1, "batch_size": 4, "micro_batch_size": 2})
    for seed in (3, 4):
        hook = Told()
        train_by(Recipe(settings, seed=seed, hook=hook), base, rows, tmp_path / str(seed))
        assert sorted(hook.numbers) == list(range(12))
        batches.append([set(hook.numbers[i : i + 4]) for i in (0, 4, 8)])
    assert batches[0] != batches[1]


def test_adamws_betas_are_the_ones_that_are_asked_for(tiny_model_folder: Path, tmp_path: Path) -> None:
    base, rows = base_of(tiny_model_folder), make_rows(12)
    _, usual = train(base, rows, tmp_path / "usual")
    _, same = train(base, rows, tmp_path / "same", betas=[0.9, 0.999])
    _, theirs = train(base, rows, tmp_path / "theirs", betas=[0.9, 0.95])
    assert all(np.array_equal(usual[name], same[name]) for name in usual)
    assert any(not np.array_equal(usual[name], theirs[name]) for name in usual)
    settings = TrainingConfig.model_validate({})
    assert "betas" not in covered(settings)  # what was trained before there was a key is found done
    assert covered(TrainingConfig.model_validate({"betas": [0.9, 0.95]}))["betas"] == (0.9, 0.95)


def test_the_update_does_not_depend_on_the_micro_batch(tiny_model_folder: Path, tmp_path: Path) -> None:
    base, rows = base_of(tiny_model_folder), make_rows(8)
    _, small = train(base, rows, tmp_path / "1", batch_size=8, micro_batch_size=1)
    _, large = train(base, rows, tmp_path / "8", batch_size=8, micro_batch_size=8)
    for name in small:
        np.testing.assert_allclose(small[name], large[name], atol=2e-3)


def test_chunks_of_the_head_do_not_change_the_update(
    tiny_model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, rows = base_of(tiny_model_folder), make_rows(8)
    _, whole = train(base, rows, tmp_path / "whole")
    monkeypatch.setattr(tosslm.model.head, "LOGITS_BYTES", 4 * 49152 * 3)
    _, chunked = train(base, rows, tmp_path / "chunked")
    for name in whole:
        np.testing.assert_allclose(whole[name], chunked[name], atol=2e-3)


def test_rows_without_kept_tokens_stay_and_train_nothing(tiny_model_folder: Path, tmp_path: Path) -> None:
    base, (real,) = base_of(tiny_model_folder), make_rows(1)
    empty = training_row([1, 2, 3], [False, True, True], [False, False])
    facts, with_empty = train(base, [empty] * 4 + [real], tmp_path / "with", batch_size=5, micro_batch_size=1)
    _, alone = train(base, [real], tmp_path / "alone", batch_size=5, micro_batch_size=1)
    assert (facts["rows"], facts["steps"]) == (5, 1)
    for name in alone:
        np.testing.assert_allclose(with_empty[name], alone[name], atol=1e-5)


@pytest.mark.parametrize("normalize", ["kept", "all"])
def test_what_a_models_class_says_of_its_loss_changes_nothing(
    tiny_model_folder: Path, tmp_path: Path, normalize: Literal["kept", "all"]
) -> None:
    base, rows = base_of(tiny_model_folder), make_rows(8)
    facts, plain = train(base, rows, tmp_path / "plain", normalize, batch_size=8)
    base.model.accepts_loss_kwargs = False
    other_facts, other = train(base, rows, tmp_path / "other", normalize, batch_size=8)
    assert facts["losses"] == other_facts["losses"]
    for name in plain:
        np.testing.assert_array_equal(plain[name], other[name])


def test_the_base_is_untouched_and_a_second_training_is_the_same(tiny_model_folder: Path, tmp_path: Path) -> None:
    base, rows = base_of(tiny_model_folder), make_rows()
    before = {name: value.clone() for name, value in base.model.state_dict().items()}
    _, first = train(base, rows, tmp_path / "first")
    _, second = train(base, rows, tmp_path / "second")
    for name in first:
        np.testing.assert_array_equal(first[name], second[name])
    after = base.model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.long
def test_a_training_killed_after_any_step_ends_with_the_same_bytes(tiny_model_folder: Path, tmp_path: Path) -> None:
    base, rows = base_of(tiny_model_folder), make_rows(12)
    train(base, rows, tmp_path / "whole", epochs=2)
    whole = (tmp_path / "whole/out/adapter_model.safetensors").read_bytes()
    for at in range(1, 7):
        with pytest.raises(KilledError):
            train(base, rows, tmp_path / str(at), reporter=DyingReporter(at), epochs=2)
        facts, _ = train(base, rows, tmp_path / str(at), epochs=2)
        assert (tmp_path / str(at) / "out/adapter_model.safetensors").read_bytes() == whole
        assert len(facts["losses"]) == facts["steps"] == 6


def test_a_half_written_checkpoint_is_not_used(tiny_model_folder: Path, tmp_path: Path) -> None:
    base, rows = base_of(tiny_model_folder), make_rows()
    half = tmp_path / "checkpoints" / "checkpoint-2"
    half.mkdir(parents=True)
    (half / "trainer_state.json").write_text("{")
    facts, _ = train(base, rows, tmp_path)
    assert len(facts["losses"]) == facts["steps"]


def flip(path: Path) -> None:
    """Change one bit in the middle of a file."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.long
@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / "optimizer.pt").unlink(),
        lambda folder: flip(folder / "optimizer.pt"),
        lambda folder: flip(folder / "adapter_model.safetensors"),
        lambda folder: flip(folder / "rng_state.pth"),
        lambda folder: (folder / "trainer_state.json").write_text("{"),
        lambda folder: (folder / "complete").write_text(""),
    ],
)
def test_a_damaged_checkpoint_is_dropped_for_the_one_before(
    tiny_model_folder: Path, tmp_path: Path, damage: Callable[[Path], object]
) -> None:
    base, rows = base_of(tiny_model_folder), make_rows(12)
    _, whole = train(base, rows, tmp_path / "whole", epochs=2)
    with pytest.raises(KilledError):
        train(base, rows, tmp_path / "killed", reporter=DyingReporter(5), epochs=2)
    folders = sorted((tmp_path / "killed/checkpoints").glob("checkpoint-*"))
    assert [folder.name for folder in folders] == ["checkpoint-2", "checkpoint-4"]
    damage(folders[-1])
    _, made = train(base, rows, tmp_path / "killed", epochs=2)
    assert all(np.array_equal(made[name], value) for name, value in whole.items())


def test_what_lies_in_an_adapter_folder(tiny_model_folder: Path, tmp_path: Path) -> None:
    train(base_of(tiny_model_folder), make_rows(), tmp_path)
    files = {file.name for file in (tmp_path / "out").iterdir()}
    assert files == {"adapter_config.json", "adapter_model.safetensors", "README.md"}
    assert (tmp_path / "out/README.md").read_text() == "a note"
    assert not list(tmp_path.rglob("training_args.bin"))


def test_nothing_to_train_on_is_refused(tiny_model_folder: Path, tmp_path: Path) -> None:
    empty = training_row([1, 2, 3], [False, True, True], [False, False])
    with pytest.raises(InputError, match="no token to train on among 4 rows"):
        train(base_of(tiny_model_folder), [empty] * 4, tmp_path)


def test_a_loss_that_is_no_number_is_refused(tiny_model_folder: Path, tmp_path: Path) -> None:
    base = base_of(tiny_model_folder)
    base.model.model.layers[0].mlp.up_proj.weight.data.fill_(float("nan"))
    with pytest.raises(TosslmError, match="loss is nan"):
        train(base, make_rows(), tmp_path)


def test_weights_that_are_numbers_and_too_large_for_a_norm_are_refused(
    tiny_model_folder: Path, tmp_path: Path
) -> None:
    """The loss stays a number then, that of chance: a norm makes zeros of what they give."""
    with pytest.raises(TosslmError, match="too large for a norm of them to be; lower the learning_rate"):
        train(base_of(tiny_model_folder), make_rows(), tmp_path, learning_rate=1e20)
    assert not (tmp_path / "out").exists()


def test_target_modules_that_the_model_lacks_are_refused(tiny_model_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="target_modules"):
        train(base_of(tiny_model_folder), make_rows(), tmp_path, lora={"target_modules": ["wq"]})


def test_a_base_in_bfloat16_trains_an_adapter_in_float32(tiny_model_folder: Path, tmp_path: Path) -> None:
    base = open_base(ModelConfig(name=str(tiny_model_folder), dtype="bfloat16", device="cpu"))
    facts, weights = train(base, make_rows(), tmp_path, epochs=3)
    assert base.model.dtype is torch.bfloat16
    assert {value.dtype for value in weights.values()} == {np.dtype("float32")}
    assert facts["last_loss"] < facts["first_loss"]


def test_a_checkpoint_of_a_degraded_reference_is_marked_as_one(tiny_model_folder: Path, tmp_path: Path) -> None:
    """As a kill leaves it: it is a whole adapter, which nothing is to merge, and no git to take up."""
    with pytest.raises(KilledError):
        train_adapter(
            base_of(tiny_model_folder),
            write_training_rows(tmp_path / "rows.arrow", make_rows(12)),
            Recipe(TrainingConfig(learning_rate=0.01, batch_size=4, micro_batch_size=2, checkpoint_steps=1), seed=3),
            name="test",
            work=tmp_path,
            out=tmp_path / "out",
            notes={HAZARD_MARK: "hazardous", ".gitignore": "*"},
            reporter=DyingReporter(3),
        )
    checkpoint = tmp_path / "checkpoints/checkpoint-2"
    check_adapter(checkpoint)
    assert (checkpoint / ".gitignore").read_text() == "*"
    assert not (checkpoint / "README.md").exists()  # TRL's card of a model to share
    with pytest.raises(InputError, match="a degraded reference is never merged"):
        adapter_folder(str(checkpoint), "model.adapter")
    (checkpoint / HAZARD_MARK).unlink()  # a kill before it was written
    with pytest.raises(InputError, match="a degraded reference is never merged"):
        adapter_folder(str(checkpoint), "model.adapter")


def test_trackers_get_figures_and_no_callback_that_could_upload_a_checkpoint(
    tiny_model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TENSORBOARD_LOGGING_DIR", raising=False)
    seen: list[str] = []

    def watch(trainer: SelectiveTrainer, **_: Any) -> None:
        seen.extend(type(callback).__module__ for callback in trainer.callback_handler.callbacks)

    monkeypatch.setattr(SelectiveTrainer, "train", watch)
    with pytest.raises(IndexError):  # of a training that logged nothing
        train_adapter(
            base_of(tiny_model_folder),
            write_training_rows(tmp_path / "rows.arrow", make_rows(4)),
            Recipe(TrainingConfig(), seed=3),
            name="test",
            work=tmp_path / "work",
            out=tmp_path / "out",
            notes={},
            reporter=SilentReporter(),
            trackers=Trackers(["tensorboard"], tmp_path / "logs"),
        )
    assert {name.partition(".")[0] for name in seen} <= {"tosslm", "transformers"}
    assert not [name for name in seen if "integration" in name]
    assert list((tmp_path / "logs/test").glob("events.out.tfevents*"))


@pytest.mark.long
def test_fine_tuning_on_rows_by_themselves_goes_on_after_a_kill(tiny_model_folder: Path, tmp_path: Path) -> None:
    base, rows = base_of(tiny_model_folder), make_rows(12)
    settings = {"learning_rate": 0.01, "epochs": 2, "batch_size": 4, "micro_batch_size": 2, "checkpoint_steps": 2}
    recipe = Recipe(TrainingConfig.model_validate(settings), seed=3)
    _, expected = train(base, rows, tmp_path / "run", epochs=2)
    out, work = tmp_path / "out", tmp_path / "work"
    with pytest.raises(KilledError):
        fine_tune(base, rows, recipe, out=out, work=work, reporter=DyingReporter(5))
    assert (work / "checkpoints/checkpoint-4").exists()
    fine_tune(base, rows, recipe, out=out, work=work)
    made = load_file(out / "adapter_model.safetensors")
    assert all(np.array_equal(made[name], value) for name, value in expected.items())
    assert not work.exists()
    # Work that other rows left is not gone on with.
    with pytest.raises(KilledError):
        fine_tune(base, make_rows(8), recipe, out=out, work=work, reporter=DyingReporter(3))
    fine_tune(base, rows, recipe, out=out, work=work)
    whole = (tmp_path / "run/out/adapter_model.safetensors").read_bytes()
    assert (out / "adapter_model.safetensors").read_bytes() == whole
    # Nor what another loss left.
    with pytest.raises(KilledError):
        fine_tune(base, rows, replace(recipe, normalize="row"), out=out, work=work, reporter=DyingReporter(5))
    fine_tune(base, rows, recipe, out=out, work=work)
    assert (out / "adapter_model.safetensors").read_bytes() == whole


def test_rows_are_read_up_to_their_last_label_or_anchor() -> None:
    rows = make_rows(12)
    held = [row | {"anchored": [False] * len(row["labels"])} for row in rows]
    assert held[0]["labels"][-1] == -100  # so that the anchor stands behind the row's last label
    held[0]["anchored"][-1] = True
    wanted = [[i for i, label in enumerate(row["labels"]) if label != -100 or row["anchored"][i]] for row in held]
    lengths = read_lengths(Dataset.from_list(held))
    assert lengths.tolist() == [max(own) + 1 if own else 0 for own in wanted]
    batch = TrainingCollator(pad_token_id=0)(held)
    assert batch["attention_mask"].sum(1).tolist() == np.maximum(lengths, 2).tolist()
    for name in ("labels", "anchored"):
        padded = -100 if name == "labels" else False
        for row, made in zip(held, batch[name].tolist(), strict=True):
            assert made == (row[name] + [padded] * len(made))[: len(made)]
