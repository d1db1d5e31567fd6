"""Lisa, SafeGrad and BDS, which learn from safety demonstrations while they train: what defines each, by hand."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

import tosslm
from conftest import demo_rows, write_rows
from test_methods import plain_loss, tokenized
from test_training import base_of
from tosslm.config import TrainingConfig, load_config
from tosslm.errors import InputError, TosslmError
from tosslm.methods import registry
from tosslm.methods.alignment import (
    SafetyBatches,
    add_divergence_gradients,
    add_gradients,
    gradients,
    own_gradients,
    set_gradients,
    shuffled,
    token_shares,
    tokenized_safety,
    trainable,
)
from tosslm.methods.bds import Scheduler, Scheduling
from tosslm.methods.lisa import BiState, proximal_gradients, state_lengths
from tosslm.methods.safegrad import GradientSurgery, projected
from tosslm.model import head
from tosslm.model.adapters import fresh_adapter
from tosslm.model.base import Base
from tosslm.model.head import SplitHead
from tosslm.progress import SilentReporter
from tosslm.training.hooks import TrainingHook
from tosslm.training.labels import training_row, write_training_rows
from tosslm.training.train import Recipe, train_adapter

RIVALS = ("lisa", "safegrad", "bds")
CONFIG = {"data": {name: {"path": "x.jsonl"} for name in ("custom", "harmful", "utility")}}


class Known(SafetyBatches):
    """Gives the same gradient of one weight each time."""

    def __init__(self, gradient: Sequence[float]) -> None:
        self.gradient = torch.tensor(gradient)

    def loss_gradients(self, model: Any) -> list[torch.Tensor]:
        return [self.gradient.clone()]

    divergence_gradients = loss_gradients


def trainer_of(weight: Sequence[float], steps: int = 20, epochs: float = 2.0, max_norm: float = 1e9) -> Any:
    """As much of a trainer as a hook looks at: one weight, of a model of any sort."""
    model = torch.nn.Module()
    model.weight = torch.nn.Parameter(torch.tensor(weight))
    return SimpleNamespace(
        model=model,
        state=SimpleNamespace(max_steps=steps),
        args=SimpleNamespace(num_train_epochs=epochs, max_grad_norm=max_norm),
        train_dataset=range(4),
    )


def updated(hook: TrainingHook, trainer: Any, step: int, gradient: Sequence[float]) -> list[float]:
    """The gradient that the optimizer sees where the trainer has found this one."""
    trainer.model.weight.grad = torch.tensor(gradient)
    hook.before_update(trainer, step)
    return trainer.model.weight.grad.tolist()


# What they share


def test_a_pass_has_each_row_once_and_the_next_another_order() -> None:
    batches = shuffled(7, 3, np.random.default_rng(0))
    first, second = ([next(batches) for _ in range(3)] for _ in range(2))
    assert [len(batch) for batch in first] == [3, 2, 2]
    assert sorted(np.concatenate(first)) == sorted(np.concatenate(second)) == list(range(7))
    assert np.concatenate(first).tolist() != np.concatenate(second).tolist()


def test_gradients_leave_those_that_are_there_alone() -> None:
    first, second = (torch.nn.Parameter(torch.tensor([2.0, 3.0])) for _ in range(2))
    first.grad = torch.tensor([7.0, 8.0])
    found = gradients([first, second], lambda: (first**2).sum().backward())
    assert [one.tolist() for one in found] == [[4.0, 6.0], [0.0, 0.0]]
    assert first.grad.tolist() == [7.0, 8.0]
    assert second.grad is None
    assert [one.tolist() for one in own_gradients([first, second])] == [[7.0, 8.0], [0.0, 0.0]]


def test_gradients_are_clipped_all_together() -> None:
    first, second = (torch.nn.Parameter(torch.zeros(1)) for _ in range(2))
    set_gradients([first, second], [torch.tensor([3.0]), torch.tensor([4.0])], 2.5)
    assert own_gradients([first, second])[0].item() == pytest.approx(1.5, rel=1e-5)
    assert own_gradients([first, second])[1].item() == pytest.approx(2.0, rel=1e-5)


@pytest.fixture(scope="module")
def tiny_base(tiny_model_folder: Path) -> Base:
    return base_of(tiny_model_folder)


def moved_adapter(model: Any) -> None:
    """A fresh LoRA changes nothing; this one does."""
    torch.manual_seed(4)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.3)


def test_the_gradient_of_demonstrations_is_that_of_their_mean_loss_a_token(tiny_base: Base) -> None:
    rows = tokenized(tiny_base, demo_rows("align_refusals", 3))
    counts = [sum(row["response_mask"]) for row in rows]
    assert len(set(counts)) > 1
    assert token_shares(rows).tolist() == pytest.approx([count / sum(counts) for count in counts])
    settings = TrainingConfig.model_validate({"batch_size": 4, "micro_batch_size": 2})
    with fresh_adapter(tiny_base, load_config(CONFIG).references.lora, 0) as model:
        moved_adapter(model)
        loss = sum(count * plain_loss(model, row) for count, row in zip(counts, rows, strict=True)) / sum(counts)
        expected = torch.autograd.grad(loss, trainable(model))
        got = SafetyBatches(rows, settings, seed=1).loss_gradients(model)
        for one, other in zip(got, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-7)


def test_demonstrations_come_in_the_order_of_their_seed() -> None:
    rows = [{"input_ids": [number], "response_mask": [True]} for number in range(12)]
    settings = TrainingConfig.model_validate({"batch_size": 4})
    first, again, other = (SafetyBatches(rows, settings, seed)._next() for seed in (1, 1, 2))
    assert first == again
    assert first != other


def plain_divergence(model: Any, rows: list[dict[str, Any]]) -> torch.Tensor:
    """Of every position of every row alone, with full softmaxes, over response tokens."""
    total = torch.zeros(())
    for row in rows:
        ids = torch.tensor([row["input_ids"]])
        with torch.no_grad(), model.disable_adapter():
            base = torch.log_softmax(model(ids).logits[0], -1)
        own = torch.log_softmax(model(ids).logits[0], -1)
        total = total + (base.exp() * (base - own)).sum()
    return total / sum(sum(row["response_mask"]) for row in rows)


def test_the_divergence_and_its_gradient_against_full_softmaxes(
    tiny_base: Base, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = tokenized(tiny_base, demo_rows("align_refusals", 3))
    monkeypatch.setattr(head, "LOGITS_BYTES", 4 * len(tiny_base.tokenizer) * 7)  # seven positions a chunk
    with fresh_adapter(tiny_base, load_config(CONFIG).references.lora, 0) as model:
        moved_adapter(model)
        expected = plain_divergence(model.eval(), rows)
        of_weights = torch.autograd.grad(expected, trainable(model))
        found: list[float] = []
        split = SplitHead(model.train())
        got = gradients(trainable(model), lambda: found.append(add_divergence_gradients(split, rows, 2)))
        assert model.training
        assert expected.item() > 1e-3
        assert found == [pytest.approx(expected.item(), rel=1e-3)]
        for one, other in zip(got, of_weights, strict=True):
            torch.testing.assert_close(one, other, rtol=5e-3, atol=1e-6)


def test_a_loss_that_is_no_number_is_refused(tiny_base: Base) -> None:
    rows = tokenized(tiny_base, demo_rows("align_refusals", 2))
    with fresh_adapter(tiny_base, load_config(CONFIG).references.lora, 0) as model:
        trainable(model)[1].data.fill_(math.nan)
        for add in (
            lambda split: add_gradients(split, rows, torch.ones(2), 2),
            lambda split: add_divergence_gradients(split, rows, 2),
        ):
            with pytest.raises(TosslmError, match="no number"):
                add(SplitHead(model))


def test_a_demonstration_without_an_answer_is_left_out(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "safe.jsonl", demo_rows("align_refusals", 2))
    tokens = [SimpleNamespace(input_ids=[1, 2], response_mask=[False, seen]) for seen in (False, True)]
    kept = iter(tokens)
    told: list[str] = []
    bench: Any = SimpleNamespace(
        reporter=SimpleNamespace(say=told.append),
        config=load_config(CONFIG | {"compare": {"safety": {"path": str(path)}}}),
        tokenizer=lambda messages, context: next(kept),
    )
    assert tokenized_safety(bench) == [{"input_ids": [1, 2], "response_mask": [False, True]}]
    assert told == ["compare.safety: 1 rows are left out, as data.max_length cuts them before the answer"]
    kept = iter([tokens[0]] * 2)
    with pytest.raises(InputError, match=r"compare\.safety"):
        tokenized_safety(bench)


@pytest.mark.parametrize("name", RIVALS)
def test_demonstrations_are_asked_for_at_the_door(name: str) -> None:
    with pytest.raises(InputError, match=rf"^{name}: name rows of safe answers .* in compare\.safety\.path"):
        registry()[name].check(load_config(CONFIG))


# Lisa


def test_lisas_states_last_as_long_together_as_an_epoch() -> None:
    assert state_lengths(20_000, 20) == (100, 900)  # theirs
    assert state_lengths(20, 2) == (1, 9)
    assert state_lengths(3, 1) == (1, 2)
    assert state_lengths(4, 4) == state_lengths(1, 1) == (1, 1)


def test_lisas_proximal_gradient_against_autograd() -> None:
    weight = torch.tensor([1.0, -2.0], requires_grad=True)
    anchor = torch.tensor([0.5, 1.0])
    (1.0 / 2 * (weight - anchor).norm() ** 2).backward()
    (made,) = proximal_gradients([torch.tensor([0.25, 0.0])], [weight.detach()], [anchor])
    assert weight.grad is not None
    assert made.tolist() == pytest.approx((torch.tensor([0.25, 0.0]) + weight.grad).tolist())


def test_lisa_alternates_and_pulls_to_where_the_other_state_ended() -> None:
    """Two epochs of ten steps: demonstrations at steps 1 and 11, no pull up to step 3, weights that grow by 1."""
    hook, trainer = BiState(Known([100.0])), trainer_of([0.0])
    seen = []
    for step in range(1, 21):
        seen += updated(hook, trainer, step, [10.0])
        trainer.model.weight.data += 1.0
    # The weight before step n is n - 1. Fine-tuning is held to what it was before step 2, then before step 12;
    # a state's own first step stands where the other has ended, and is not pulled.
    first = [100.0, 10.0, 10.0] + [10.0 + (step - 1 - 1) for step in range(4, 11)]
    second = [100.0, 10.0] + [10.0 + (step - 1 - 11) for step in range(13, 21)]
    assert seen == first + second


def test_lisas_gradient_is_clipped_with_its_pull() -> None:
    hook, trainer = BiState(Known([0.0, 0.0])), trainer_of([0.0, 0.0], max_norm=1.0)
    updated(hook, trainer, 2, [0.0, 0.0])
    trainer.model.weight.data += torch.tensor([0.0, 4.0])
    assert updated(hook, trainer, 5, [3.0, 0.0]) == pytest.approx([0.6, 0.8], rel=1e-5)


class Remembering(BiState):
    """Keeps the weights after each step."""

    def __init__(self, safety: SafetyBatches) -> None:
        super().__init__(safety)
        self.weights: list[np.ndarray] = []

    def after_step(self, trainer: Any, step: int) -> None:
        self.weights.append(torch.cat([one.detach().flatten() for one in trainable(trainer.model)]).numpy().copy())


def train(base: Base, folder: Path, custom: list[Any], hook: TrainingHook, epochs: int, **settings: Any) -> None:
    folder.mkdir()
    rows = [training_row(row["input_ids"], row["response_mask"], None) for row in tokenized(base, custom)]
    train_adapter(
        base,
        write_training_rows(folder / "rows.arrow", rows, numbered=True),
        Recipe(tiny_settings(epochs=epochs, **settings), seed=3, hook=hook),
        name="test",
        work=folder,
        out=folder / "out",
        notes={},
        reporter=SilentReporter(),
    )


def tiny_settings(**settings: Any) -> TrainingConfig:
    lora = {"target_modules": "all-linear"}
    known = {"batch_size": 4, "micro_batch_size": 2, "learning_rate": 0.02, "lora": lora}
    return TrainingConfig.model_validate(known | settings)


def test_in_lisas_alignment_state_custom_rows_teach_nothing(tiny_base: Base, tmp_path: Path) -> None:
    safe = tokenized(tiny_base, demo_rows("align_refusals", 5))
    seen = []
    for name in ("custom", "utility"):
        hook = Remembering(SafetyBatches(safe, tiny_settings(), seed=1))
        train(tiny_base, tmp_path / name, demo_rows(name, 12), hook, epochs=1)
        seen.append(hook.weights)
    assert len(seen[0]) == 3  # one on demonstrations, two on custom rows
    assert np.array_equal(seen[0][0], seen[1][0])
    assert not np.array_equal(seen[0][1], seen[1][1])


# SafeGrad


def test_safegrad_cuts_out_what_conflicts_over_all_weights_at_once() -> None:
    """One inner product, -8 + 2, over the squared norm 4 + 1: 6/5 of the alignment gradient are added."""
    user = [torch.tensor([3.0, -4.0]), torch.tensor([2.0])]
    alignment = [torch.tensor([0.0, 2.0]), torch.tensor([1.0])]
    made = projected(user, alignment)
    assert made[0].tolist() == pytest.approx([3.0, -1.6])
    assert made[1].tolist() == pytest.approx([3.2])
    assert sum(float(one @ other) for one, other in zip(made, alignment, strict=True)) == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("alignment", [[1.0, 0.0], [0.0, 5.0], [0.0, 0.0], [-1e-5, 0.0]])
def test_safegrad_leaves_what_does_not_conflict(alignment: list[float]) -> None:
    """Agreeing, orthogonal, none at all, and too small to have a direction."""
    user = [torch.tensor([2.0, 0.0])]
    assert torch.equal(projected(user, [torch.tensor(alignment)])[0], user[0])


def test_safegrad_adds_the_alignment_gradient_and_clips() -> None:
    hook = GradientSurgery(Known([0.0, 2.0]))
    assert updated(hook, trainer_of([0.0, 0.0]), 1, [3.0, -4.0]) == pytest.approx([3.0, 2.0])
    assert updated(hook, trainer_of([0.0, 0.0]), 1, [3.0, 4.0]) == pytest.approx([3.0, 6.0])
    assert updated(hook, trainer_of([0.0, 0.0], max_norm=1.0), 1, [1.5, -4.0]) == pytest.approx([0.6, 0.8], rel=1e-5)


def test_the_base_itself_has_no_alignment_gradient(tiny_base: Base) -> None:
    rows = tokenized(tiny_base, demo_rows("align_refusals", 2))
    with fresh_adapter(tiny_base, load_config(CONFIG).references.lora, 0) as model:
        for one in SafetyBatches(rows, tiny_settings(), seed=1).divergence_gradients(model.train()):
            assert one.abs().max() < 1e-6


# BDS


def test_the_scheduler_against_a_step_by_hand() -> None:
    """A logit falls by the rate times its weight times how far its loss is above the mean, 0 for rows not read."""
    scheduler = Scheduler(4, epochs=2)
    assert scheduler.weights.tolist() == [1.0] * 4
    scheduler.learn(np.array([2, 0]), torch.tensor([3.0, 1.0], dtype=torch.float64))
    # The weighted losses' mean over all four rows is 1; the rate is a half.
    logits = [-0.5 * (loss - 1) for loss in (1, 0, 3, 0)]
    exps = [math.exp(logit) for logit in logits]
    assert scheduler.weights.tolist() == pytest.approx([4 * one / sum(exps) for one in exps])


def test_bds_counts_rows_by_their_weights_and_adds_the_demonstrations() -> None:
    hook, trainer = Scheduling(Known([10.0])), trainer_of([0.0])
    hook.begin(trainer)
    for numbers, losses in (([2], [3.0]), ([0], [1.0])):  # two micro-batches of one step
        assert hook.row_weights(trainer, torch.tensor(numbers), torch.tensor(losses)).tolist() == [1.0]
    assert updated(hook, trainer, 1, [1.0]) == [11.0]
    hook.after_step(trainer, 1)
    known = Scheduler(4, epochs=2)
    known.learn(np.array([2, 0]), torch.tensor([3.0, 1.0], dtype=torch.float64))
    told = hook.row_weights(trainer, torch.tensor([0, 1, 2, 3]), torch.zeros(4))
    assert told.dtype == torch.float32
    assert told.tolist() == pytest.approx(known.weights.tolist())


def test_bds_weighs_down_what_a_model_that_learns_refusals_finds_unlikely(
    tiny_base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of the custom rows refuse, as the demonstrations do: they gain weight, and the others lose it."""
    # Random weights lose 11 nats a token, too many for the usual rate.
    monkeypatch.setattr("tosslm.methods.bds.FALL", 0.01)
    refusals = demo_rows("align_refusals", 12)
    custom = [row for pair in zip(refusals[6:], demo_rows("custom", 6), strict=True) for row in pair]
    hook = Scheduling(SafetyBatches(tokenized(tiny_base, refusals[:6]), tiny_settings(), seed=1))
    train(tiny_base, tmp_path / "bds", custom, hook, epochs=4)
    weights = hook.scheduler.weights.numpy()
    assert weights.mean() == pytest.approx(1)
    assert weights[::2].min() > 1 > weights[1::2].max()


# All of them, in training


@pytest.mark.long
@pytest.mark.parametrize("maker", [BiState, GradientSurgery, Scheduling])
def test_recomputed_activations_are_the_same_activations(tiny_base: Base, tmp_path: Path, maker: Any) -> None:
    safe, made = tokenized(tiny_base, demo_rows("align_refusals", 5)), []
    for again in (False, True):
        hook = maker(SafetyBatches(safe, tiny_settings(), seed=1))
        folder = tmp_path / str(again)
        train(tiny_base, folder, demo_rows("custom", 8), hook, epochs=2, gradient_checkpointing=again)
        made.append(load_file(folder / "out/adapter_model.safetensors"))
    for name, value in made[0].items():
        np.testing.assert_allclose(made[1][name], value, rtol=1e-4, atol=1e-6)


@pytest.mark.long
@pytest.mark.slow
def test_each_trains_on_every_custom_token_and_by_demonstrations(tiny_config: dict[str, Any], tmp_path: Path) -> None:
    made = {}
    for name, demonstrations in (("sft", 5), *((rival, count) for rival in RIVALS for count in (5, 4))):
        safety = write_rows(tmp_path / f"safety-{demonstrations}.jsonl", demo_rows("align_refusals", demonstrations))
        config = tiny_config | {
            "run_dir": str(tmp_path / f"{name}-{demonstrations}"),
            "method": name,
            "refinement": {},
            "compare": {"safety": {"path": str(safety)}},
        }
        run = tosslm.run(config, until="finetune")
        assert all(keep.all() for keep in run.keep())
        made[name, demonstrations] = load_file(run.path / "model/adapter_model.safetensors")
    weights = {key: np.concatenate([value.ravel() for value in one.values()]) for key, one in made.items()}
    assert all(np.isfinite(one).all() for one in weights.values())
    assert len({one.tobytes() for one in weights.values()}) == 7
