"""The anchored loss in trainers of one's own is the pipeline's, and what would make it another is refused."""

from __future__ import annotations

import doctest
import re
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
import pytest
import torch
from datasets import Dataset, IterableDataset
from peft import LoraConfig, get_peft_model
from safetensors.numpy import load_file
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    DataCollatorForLanguageModeling,
    DataCollatorForSeq2Seq,
    Trainer,
    TrainingArguments,
)
from trl import SFTConfig
from typer.testing import CliRunner

import tosslm
from test_anchor import anchored_rows
from tosslm.cli import app
from tosslm.errors import InputError
from tosslm.model.head import SplitHead
from tosslm.training.anchorable import check_rows, refuse_setup
from tosslm.training.anchored import AnchoredCollator
from tosslm.training.collate import TrainingCollator
from tosslm.training.masked import selective_rows
from tosslm.training.trainer import SelectiveTrainer

WEIGHT = 20.0  # the very small model is nearly uniform, and its divergences are a hundredth of a nat
PAGE = Path(__file__).parents[1] / "docs" / "anchored-trainer.md"
SETTINGS: dict[str, Any] = {
    "per_device_train_batch_size": 2,
    "gradient_accumulation_steps": 4,
    "learning_rate": 0.05,
    "num_train_epochs": 3,
    "lr_scheduler_type": "constant",
    "logging_steps": 1,
    "save_strategy": "no",
    "report_to": "none",
    "use_cpu": True,
    "bf16": False,
    "disable_tqdm": True,
    "seed": 3,
}
PLAIN_COLUMNS = ("input_ids", "labels", "anchored")


class AnchoredPlainTrainer(tosslm.AnchoredLoss, Trainer):
    """The trainer of transformers with the mixin."""


Divisor = Literal["all", "anchored"]


def rows_of(count: int = 8) -> Dataset:
    return Dataset.from_list([{name: row[name] for name in PLAIN_COLUMNS} for row in anchored_rows(count)])


def plain(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def adapted(folder: Path, *, moved: bool = False, **settings: Any) -> Any:
    """The tiny model with an adapter; ``moved`` as after some training."""
    torch.manual_seed(2)
    defaults: dict[str, Any] = {"target_modules": "all-linear", "task_type": "CAUSAL_LM"}
    model = get_peft_model(plain(folder), LoraConfig(**{**defaults, **settings}))
    if moved:
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if "lora_B" in name:
                    weight.normal_(std=0.1)
    return model


def of_pipeline(
    model: Any, rows: list[dict[str, Any]], tokenizer: Any, out: Path, *, divisor: Divisor = "all", **settings: Any
) -> Any:
    return SelectiveTrainer(
        model,
        args=SFTConfig(
            str(out),
            max_length=None,
            remove_unused_columns=False,
            dataset_kwargs={"skip_prepare_dataset": True},
            **{**SETTINGS, **settings},
        ),
        data_collator=TrainingCollator(pad_token_id=tokenizer.pad_token_id),
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        normalize="kept",
        anchor_weight=WEIGHT,
        anchor_normalize=divisor,
    )


def of_users(
    model: Any,
    tokenizer: Any,
    out: Path,
    *,
    rows: Any = None,
    base_model: Any = None,
    divisor: Divisor = "all",
    **settings: Any,
) -> Any:
    return tosslm.AnchoredTrainer(
        model,
        SFTConfig(str(out), **{"max_length": None, **SETTINGS, **settings}),
        train_dataset=rows_of() if rows is None else rows,
        processing_class=tokenizer,
        anchor_weight=WEIGHT,
        anchor_normalize=divisor,
        base_model=base_model,
    )


def of_transformers(
    model: Any, tokenizer: Any, out: Path, *, base_model: Any = None, divisor: Divisor = "all", **settings: Any
) -> Any:
    return AnchoredPlainTrainer(
        model,
        TrainingArguments(str(out), **{**SETTINGS, **settings}),
        DataCollatorForSeq2Seq(tokenizer),
        rows_of(),
        anchor_weight=WEIGHT,
        anchor_normalize=divisor,
        base_model=base_model,
    )


def one_step(trainer: Any) -> tuple[float, dict[str, torch.Tensor]]:
    """Loss and gradients of an optimizer batch of all rows, over as many passes as the trainer makes."""
    model = trainer.model.eval()  # no dropout: rows may come in another order
    passes = len(trainer.train_dataset) // trainer.args.per_device_train_batch_size
    batches, count = trainer.get_batch_samples(iter(trainer.get_train_dataloader()), passes, torch.device("cpu"))
    model.zero_grad()
    total = 0.0
    for batch in batches:
        loss = trainer.compute_loss(model, batch, num_items_in_batch=count)
        loss.backward()
        total += loss.item()
    return total, {name: value.grad.clone() for name, value in model.named_parameters() if value.grad is not None}


def independent_loss(model: Any, base: Any, divisor: Divisor = "all") -> float:
    """Both parts row by row, from full softmaxes in double precision."""
    losses, divergences = [], []
    for row in anchored_rows():
        ids = torch.tensor([row["input_ids"]])
        with torch.no_grad():
            log_m = torch.log_softmax(model.eval()(ids).logits[0].double(), -1)
            log_b = torch.log_softmax(base.eval()(ids).logits[0].double(), -1)
        for t in range(1, len(row["input_ids"])):
            if row["labels"][t] != -100:
                losses.append(-log_m[t - 1, row["labels"][t]].item())
            if row["anchored"][t]:
                divergences.append((log_b[t - 1].exp() * (log_b[t - 1] - log_m[t - 1])).sum().item())
    assert np.mean(divergences) > 0.002
    over = len(divergences) + (len(losses) if divisor == "all" else 0)
    return float(np.mean(losses) + WEIGHT * np.sum(divergences) / over)


@pytest.mark.parametrize("made", [of_users, of_transformers], ids=["trl", "transformers"])
@pytest.mark.parametrize(("size", "divisor"), [(1, "all"), (2, "anchored"), (8, "all")])
@pytest.mark.filterwarnings("ignore:with its adapter on")
def test_loss_and_gradients_are_the_pipelines_whatever_the_passes(
    made: Callable[..., Any],
    size: int,
    divisor: Divisor,
    tiny_model_folder: Path,
    smollm2_tokenizer: Any,
    tmp_path: Path,
) -> None:
    """On a model that has moved away from its base."""
    model = adapted(tiny_model_folder, moved=True)
    wanted, gradients = one_step(of_pipeline(model, anchored_rows(), smollm2_tokenizer, tmp_path, divisor=divisor))
    assert wanted == pytest.approx(independent_loss(model, plain(tiny_model_folder), divisor), abs=1e-5)
    other = adapted(tiny_model_folder, moved=True)
    trainer = made(other, smollm2_tokenizer, tmp_path, divisor=divisor, per_device_train_batch_size=size)
    loss, found = one_step(trainer)
    assert loss == pytest.approx(wanted, abs=1e-6)
    assert found.keys() == gradients.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(found[name], gradient, atol=1e-6, rtol=1e-4)


def test_a_whole_training_is_the_pipelines_up_to_rounding(
    tiny_model_folder: Path, smollm2_tokenizer: Any, tmp_path: Path
) -> None:
    """The same optimizer batches; which rows go together in a pass is the pipeline's own, and Adam magnifies it."""
    trainers = [
        of_pipeline(adapted(tiny_model_folder), anchored_rows(12), smollm2_tokenizer, tmp_path),
        of_users(adapted(tiny_model_folder), smollm2_tokenizer, tmp_path, rows=rows_of(12)),
    ]
    weights, curves = [], []
    for number, trainer in enumerate(trainers):
        trainer.train()
        trainer.model.save_pretrained(tmp_path / str(number))
        weights.append(load_file(tmp_path / str(number) / "adapter_model.safetensors"))
        curves.append([entry["loss"] for entry in trainer.state.log_history if "loss" in entry])
    assert len(curves[0]) == 6  # 12 rows by 8, three times: the last step of an epoch has fewer passes
    assert curves[0] == pytest.approx(curves[1], abs=1e-4)
    for name, weight in weights[0].items():
        np.testing.assert_allclose(weight, weights[1][name], atol=5e-3)


@pytest.mark.parametrize("made", [of_users, of_transformers], ids=["trl", "transformers"])
def test_a_base_model_does_what_the_adapter_switched_off_does(
    made: Callable[..., Any], tiny_model_folder: Path, smollm2_tokenizer: Any, tmp_path: Path
) -> None:
    """All weights trained: the base stays as it was."""
    model, base = plain(tiny_model_folder), plain(tiny_model_folder)
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.05 * torch.randn_like(weight)
    before = {name: value.clone() for name, value in base.state_dict().items()}
    trainer = made(model, smollm2_tokenizer, tmp_path, base_model=base)
    assert one_step(trainer)[0] == pytest.approx(independent_loss(model, plain(tiny_model_folder)), abs=1e-4)
    trainer.train()
    assert all(torch.equal(value, before[name]) for name, value in base.state_dict().items())


@pytest.mark.filterwarnings("ignore:with its adapter on")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_mixed_precision_and_checkpointing_reach_about_the_same_loss(
    dtype: torch.dtype,
    tiny_model_folder: Path,
    smollm2_tokenizer: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The head, which runs outside the model's forward, computes as it would within."""
    mixed = []
    logits = SplitHead.logits

    def watch(self: SplitHead, hidden: torch.Tensor) -> torch.Tensor:
        mixed.append(torch.is_autocast_enabled("cpu"))
        return logits(self, hidden)

    model = adapted(tiny_model_folder, moved=True)
    wanted = independent_loss(model, plain(tiny_model_folder))
    settings: dict[str, Any] = {
        "bf16": True,
        "gradient_checkpointing": True,
        "num_train_epochs": 1,
        "learning_rate": 0.0,
    }
    for parameter in model.parameters():
        if not parameter.requires_grad:
            parameter.data = parameter.data.to(dtype)
    trainer = of_users(model, smollm2_tokenizer, tmp_path, **settings)
    monkeypatch.setattr(SplitHead, "logits", watch)
    trainer.train()
    assert trainer.state.log_history[0]["loss"] == pytest.approx(wanted, rel=0.02)
    assert all(mixed)


@pytest.mark.filterwarnings("ignore:with its adapter on")
@pytest.mark.parametrize("made", [of_users, of_transformers], ids=["trl", "transformers"])
def test_a_model_that_takes_no_count_of_tokens_is_not_divided_by_passes(
    made: Callable[..., Any], tiny_model_folder: Path, smollm2_tokenizer: Any, tmp_path: Path
) -> None:
    """A trainer divides the losses of such models by the passes of a step, as these would be means."""
    model = adapted(tiny_model_folder, moved=True)
    wanted = independent_loss(model, plain(tiny_model_folder))
    trainer = made(model, smollm2_tokenizer, tmp_path, num_train_epochs=1)
    trainer.model_accepts_loss_kwargs = False
    trainer.train()
    assert trainer.state.log_history[0]["loss"] == pytest.approx(wanted, abs=1e-4)


@pytest.mark.filterwarnings("ignore:with its adapter on")
def test_an_evaluation_takes_each_batch_by_itself(
    tiny_model_folder: Path, smollm2_tokenizer: Any, tmp_path: Path
) -> None:
    model = adapted(tiny_model_folder, moved=True)
    for made in (of_users, of_transformers):
        trainer = made(model, smollm2_tokenizer, tmp_path, per_device_eval_batch_size=8)
        found = trainer.evaluate(rows_of())["eval_loss"]
        assert found == pytest.approx(independent_loss(model, plain(tiny_model_folder)), abs=1e-4)
        with pytest.raises(InputError, match="anchored: a row has none"):
            trainer.evaluate(rows_of().remove_columns("anchored"))


def test_rows_padded_on_the_left_have_their_anchors_in_place(
    tiny_model_folder: Path, smollm2_tokenizer: Any, tmp_path: Path
) -> None:
    left = AutoTokenizer.from_pretrained(tiny_model_folder, padding_side="left")
    batch = of_transformers(adapted(tiny_model_folder), left, tmp_path).data_collator(list(rows_of()))
    for row, ids, real, anchored in zip(
        rows_of(), batch["input_ids"], batch["attention_mask"].bool(), batch["anchored"], strict=True
    ):
        assert ids[real].tolist() == row["input_ids"]
        assert anchored[real].tolist() == row["anchored"]
        assert not anchored[~real].any()


def test_rows_may_come_as_a_stream(tiny_model_folder: Path, smollm2_tokenizer: Any, tmp_path: Path) -> None:
    def stream() -> Any:
        yield from rows_of()

    rows = IterableDataset.from_generator(stream)
    trainer = of_users(adapted(tiny_model_folder), smollm2_tokenizer, tmp_path, rows=rows, max_steps=2)
    trainer.train()
    whole = of_users(adapted(tiny_model_folder), smollm2_tokenizer, tmp_path, max_steps=1)
    whole.train()
    assert trainer.state.log_history[0]["loss"] == pytest.approx(whole.state.log_history[0]["loss"], abs=1e-5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"packing": True, "max_length": 64}, r"packing=True: .*set packing=False"),
        ({"eval_packing": True}, r"eval_packing=True: .*set eval_packing=False"),
        ({"padding_free": True}, r"padding_free=True: .*set padding_free=False"),
        ({"max_length": 1024}, r"max_length=1024: rows would be cut.*set max_length=None"),
        ({"loss_type": "dft"}, r"loss_type='dft'"),
        ({"label_smoothing_factor": 0.1}, r"label_smoothing_factor=0.1"),
        ({"completion_only_loss": True}, r"completion_only_loss=True: .*put -100 into the labels"),
        ({"torch_compile": True}, r"torch_compile=True: .*set it to False"),
    ],
)
def test_what_would_make_it_another_loss_is_refused(
    settings: dict[str, Any], message: str, tiny_model_folder: Path, smollm2_tokenizer: Any, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=message):
        of_users(adapted(tiny_model_folder), smollm2_tokenizer, tmp_path, **settings)


@pytest.mark.parametrize("key", ["compute_loss_func", "compute_metrics"])
def test_what_asks_for_another_loss_or_logits_is_refused(
    key: str, tiny_model_folder: Path, smollm2_tokenizer: Any, tmp_path: Path
) -> None:
    wanted: dict[str, Any] = {key: print}
    with pytest.raises(InputError, match=f"{key}: .*leave it out"):
        tosslm.AnchoredTrainer(
            adapted(tiny_model_folder),
            SFTConfig(str(tmp_path), max_length=None, **SETTINGS),
            train_dataset=rows_of(),
            processing_class=smollm2_tokenizer,
            **wanted,
        )


@pytest.mark.parametrize(
    ("processes", "devices", "balance", "message"),
    [
        (2, 1, {}, "in one process"),
        (1, 2, {}, "on one device"),
        (1, 1, {"aux_loss_enabled": True}, "router_aux_loss_coef=0.0"),
        (1, 1, {"router": 0.001}, "router_aux_loss_coef=0.0"),  # of a trainer that is not TRL's
        (1, 1, {"router": 0.0}, None),
    ],
)
def test_a_setup_with_which_gradients_would_be_wrong_is_refused(
    processes: int, devices: int, balance: dict[str, Any], message: str | None
) -> None:
    routes = {"output_router_logits": "router" in balance, "router_aux_loss_coef": balance.pop("router", 0.001)}
    trainer = SimpleNamespace(
        accelerator=SimpleNamespace(num_processes=processes),
        args=SimpleNamespace(n_gpu=devices),
        model=SimpleNamespace(config=SimpleNamespace(**routes)),
        **balance,
    )
    with pytest.raises(InputError, match=message) if message else nullcontext():
        refuse_setup(trainer)


def test_what_of_the_adapter_is_frozen_stays_so(
    tiny_model_folder: Path, smollm2_tokenizer: Any, tmp_path: Path
) -> None:
    model = adapted(tiny_model_folder)
    for name, weight in model.named_parameters():
        if "lora_A" in name:
            weight.requires_grad_(False)
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    trained = {name for name, weight in model.named_parameters() if weight.requires_grad}
    of_users(model, smollm2_tokenizer, tmp_path, max_steps=2).train()
    changed = {name for name, weight in model.named_parameters() if not torch.equal(weight, before[name])}
    assert changed == trained


def test_a_base_that_holds_the_adapter_in_training_is_refused(
    tiny_model_folder: Path, smollm2_tokenizer: Any, tmp_path: Path
) -> None:
    """Freezing the base would freeze the adapter that lies in its layers, and nothing would be trained."""
    base = plain(tiny_model_folder)
    model = get_peft_model(base, LoraConfig(target_modules="all-linear", task_type="CAUSAL_LM"))
    with pytest.raises(InputError, match="base_model: it shares weights with the model in training"):
        of_users(model, smollm2_tokenizer, tmp_path, base_model=base)
    assert any(weight.requires_grad for weight in model.parameters())


def test_a_base_that_shares_one_weight_with_the_model_is_refused(
    tiny_model_folder: Path, smollm2_tokenizer: Any, tmp_path: Path
) -> None:
    base, model = plain(tiny_model_folder), plain(tiny_model_folder)
    base.model.norm.weight = model.model.norm.weight
    with pytest.raises(InputError, match="base_model: it shares weights with the model in training"):
        of_users(model, smollm2_tokenizer, tmp_path, base_model=base)
    assert all(weight.requires_grad for weight in model.parameters())


def test_a_collator_that_writes_labels_of_its_own_is_refused(smollm2_tokenizer: Any) -> None:
    rows = [{"input_ids": [5, 6, 7], "labels": [-100, -100, 7], "anchored": [False, True, False]}] * 2
    longer = [*rows, {"input_ids": [8, 9], "labels": [-100, 9], "anchored": [False, False]}]
    batch = AnchoredCollator(DataCollatorForSeq2Seq(smollm2_tokenizer))(longer)
    assert batch["labels"].tolist() == [[-100, -100, 7], [-100, -100, 7], [-100, 9, -100]]
    with pytest.raises(InputError, match="data_collator: DataCollatorForLanguageModeling writes labels of its own"):
        AnchoredCollator(DataCollatorForLanguageModeling(smollm2_tokenizer, mlm=False))(rows)


def test_trls_own_defaults_are_refused_too(tiny_model_folder: Path, smollm2_tokenizer: Any, tmp_path: Path) -> None:
    arguments = TrainingArguments(str(tmp_path), **SETTINGS)
    with pytest.raises(InputError, match=r"max_length=1024"):
        tosslm.AnchoredTrainer(
            adapted(tiny_model_folder), arguments, train_dataset=rows_of(), processing_class=smollm2_tokenizer
        )


def test_a_model_without_a_base_in_it_is_refused_with_the_remedy(
    tiny_model_folder: Path, tiny_adapter_folder: Path, smollm2_tokenizer: Any, tmp_path: Path
) -> None:
    def refused(model: Any, message: str, **others: Any) -> None:
        with pytest.raises(InputError, match=message):
            of_users(model, smollm2_tokenizer, tmp_path, **others)

    model = plain(tiny_model_folder)
    refused(model, r"LlamaForCausalLM has no adapter: .*peft\.get_peft_model.*base_model")
    refused(model, r"base_model: it is the model in training itself", base_model=model)
    smaller = plain(tiny_model_folder)
    smaller.resize_token_embeddings(1000)
    refused(model, r"base_model: its vocabulary has 1000 tokens", base_model=smaller)
    two = adapted(tiny_model_folder)
    two.load_adapter(tiny_adapter_folder, "safety")
    refused(two, r"2 adapters \(default, safety\).*merge")


def test_weights_that_train_beside_the_adapter_are_refused(
    tiny_model_folder: Path, smollm2_tokenizer: Any, tmp_path: Path
) -> None:
    model = adapted(tiny_model_folder)
    model.get_base_model().model.norm.weight.requires_grad_(True)
    with pytest.raises(InputError, match=r"norm\.weight is trained and no part of the adapter"):
        of_users(model, smollm2_tokenizer, tmp_path)
    saved_whole = adapted(tiny_model_folder, modules_to_save=["norm"], target_modules=["q_proj"])
    of_users(saved_whole, smollm2_tokenizer, tmp_path)


@pytest.mark.parametrize("start", ["moved", "pissa"])
def test_an_adapter_that_leaves_another_base_is_warned_of(
    start: str, tiny_model_folder: Path, smollm2_tokenizer: Any, tmp_path: Path
) -> None:
    settings = {"moved": True} if start == "moved" else {"init_lora_weights": "pissa"}
    with pytest.warns(UserWarning, match="merge it first and train a new one, or pass base_model"):
        of_users(adapted(tiny_model_folder, **settings), smollm2_tokenizer, tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda row: {"input_ids": row["input_ids"], "labels": row["labels"]}, r"no column anchored.*masked_dataset"),
        (lambda row: {"input_ids": row["input_ids"], "anchored": row["anchored"]}, r"no column labels"),
        (lambda row: {**row, "anchored": row["anchored"][:-1]}, r"row 0 has .*; each needs one a token"),
        (lambda row: {**row, "labels": row["labels"] + [-100]}, r"row 0 has .*; each needs one a token"),
        (lambda row: {**row, "anchored": [int(place) for place in row["anchored"]]}, r"anchored holds int64"),
        (lambda row: {**row, "anchored": [False] * len(row["anchored"])}, r"no token is anchored"),
        (lambda row: {**row, "labels": [*row["labels"][1:], -100]}, r"row 0 has labels that stand one place before"),
        (lambda row: {**row, "labels": [-100, *row["labels"][:-1]]}, r"row 0 has labels that stand one place after"),
        (lambda row: {**row, "labels": [-1, *row["labels"][1:]]}, r"row 0 has labels below 0 that are not -100"),
    ],
)
def test_rows_that_cannot_be_anchored_are_refused(
    change: Callable[[dict[str, Any]], dict[str, Any]],
    message: str,
    tiny_model_folder: Path,
    smollm2_tokenizer: Any,
    tmp_path: Path,
) -> None:
    rows = Dataset.from_list([change(row) for row in rows_of()])
    with pytest.raises(InputError, match=message):
        of_users(adapted(tiny_model_folder), smollm2_tokenizer, tmp_path, rows=rows)


def test_one_row_of_shifted_labels_is_found_wherever_it_stands() -> None:
    """The row is the 1,201st, past the first thousand that are looked at together, and rows differ in length."""
    good = {"input_ids": [5, 6, 7, 8], "labels": [-100, 6, 7, 8], "anchored": [False, True, False, False]}
    short = {"input_ids": [5], "labels": [-100], "anchored": [False]}
    shifted = {"input_ids": [5, 6, 7, 8], "labels": [6, 7, 8, -100], "anchored": [False] * 4}
    other = {"input_ids": [5, 6, 7, 8], "labels": [-100, 6, 9, 8], "anchored": [False] * 4}  # another target is meant
    sound = Dataset.from_list([good, short, other] * 400)
    check_rows("train_dataset", sound)
    with pytest.raises(InputError, match=r"train_dataset: row 1200 has labels that stand one place before"):
        check_rows("train_dataset", Dataset.from_list([*sound, shifted, good]))


def test_a_weight_that_is_none_is_refused(tiny_model_folder: Path, smollm2_tokenizer: Any, tmp_path: Path) -> None:
    for weight in (-1.0, float("nan"), float("inf")):
        with pytest.raises(InputError, match="anchor_weight"):
            tosslm.AnchoredTrainer(
                adapted(tiny_model_folder),
                SFTConfig(str(tmp_path), max_length=None, **SETTINGS),
                train_dataset=rows_of(),
                processing_class=smollm2_tokenizer,
                anchor_weight=weight,
            )


@pytest.mark.long
def test_the_masked_dataset_has_the_pipelines_own_anchors(tiny_config: dict[str, Any]) -> None:
    """And says where a run has none, and how it gets them with the mask as it is."""
    run = tosslm.run(tiny_config, until="select")
    with pytest.raises(InputError, match=r"finetune.dropped: ignore.*`toss select .* --set finetune.dropped=anchor"):
        tosslm.masked_dataset(run, anchored=True)
    mask = run.layout.keep.read_bytes()
    change = ["--set", "finetune.dropped=anchor", "--set", "finetune.anchor_weight=1"]
    assert CliRunner().invoke(app, ["select", str(run.path), *change]).exit_code == 0
    tosslm.masked_dataset(tosslm.load_run(run.path), anchored=True)
    run = tosslm.run({**tiny_config, "finetune": {**tiny_config["finetune"], "dropped": "anchor", "anchor_first": 2}})
    assert run.layout.keep.read_bytes() == mask
    masked = tosslm.masked_dataset(run, anchored=True)
    assert masked.column_names == ["input_ids", "attention_mask", "labels", "anchored"]
    for row, wanted in zip(masked, selective_rows(run.layout, anchor_first=2), strict=True):
        assert {name: row[name] for name in PLAIN_COLUMNS} == {name: wanted[name] for name in PLAIN_COLUMNS}
    for row, stored, keep in zip(masked, run.rows, run.keep(), strict=True):
        assert len({message for message, *_ in stored["offsets"] if message >= 0}) == 1  # one answer a row
        places = np.flatnonzero(stored["response_mask"])
        assert np.flatnonzero(row["anchored"]).tolist() == sorted({*places[~keep], *places[:2]})
        assert all(row["labels"][place] == -100 for place in np.flatnonzero(row["anchored"]))
    assert sum(map(sum, masked["anchored"])) == run.stages["model"]["anchored_tokens"]
    assert tosslm.masked_dataset(run).column_names == ["input_ids", "attention_mask", "labels"]
    masked.to_parquet(run.path / "rows.parquet")
    elsewhere = Dataset.from_parquet(str(run.path / "rows.parquet"), cache_dir=str(run.path / "cache"))
    assert elsewhere.features == masked.features
    assert elsewhere[:] == masked[:]
    run.layout.weights.touch()
    with pytest.raises(InputError, match="weighs tokens"):
        tosslm.masked_dataset(run, anchored=True)


def test_a_run_whose_method_sets_no_anchors_names_one_that_does(tiny_config: dict[str, Any]) -> None:
    run = tosslm.run({**tiny_config, "method": "random", "refinement": {"rounds": 0}}, until="select")
    with pytest.raises(InputError, match=r"method random says so; choose one that anchors, such as toss-anchor"):
        tosslm.masked_dataset(run, anchored=True)


@pytest.mark.long
def test_the_script_of_the_page_runs(
    tiny_config: dict[str, Any], tiny_model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_config["model"]["adapter"] = None
    tosslm.run({**tiny_config, "finetune": {**tiny_config["finetune"], "dropped": "anchor"}}, until="select")
    script, mixin = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.M | re.S)
    monkeypatch.chdir(tmp_path)
    script = script.replace("HuggingFaceTB/SmolLM2-135M-Instruct", str(tiny_model_folder)).replace(
        "runs/my-run", "run"
    )
    names: dict[str, Any] = {}
    exec(script, names)
    losses = [entry["train_loss"] for entry in names["trainer"].state.log_history if "train_loss" in entry]
    assert np.isfinite(losses).all()
    assert (tmp_path / "anchored" / "adapter_model.safetensors").is_file()
    exec(mixin, names)
    assert names["AnchoredPlainTrainer"].__mro__[1:] == AnchoredPlainTrainer.__mro__[1:]


def test_the_example_of_the_docstring_runs(
    tiny_model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    text = (tosslm.AnchoredTrainer.__doc__ or "").replace(
        "HuggingFaceTB/SmolLM2-135M-Instruct", str(tiny_model_folder)
    )
    names: dict[str, Any] = {}
    for example in doctest.DocTestParser().get_examples(text):
        exec(compile(example.source, "docstring", "single"), names)
    assert names["trainer"].state.global_step == 1
