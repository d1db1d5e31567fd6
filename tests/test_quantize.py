"""A base in four bits: what is refused, what is loaded, and that losses and trainings are those of QLoRA."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from benchmarks.four_bits import agreement, section
from benchmarks.measuring import RESULTS
from benchmarks.sizes import PAGE, four_bit_table, written
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, BitsAndBytesConfig
from typer.testing import CliRunner

import tosslm
from conftest import demo_rows
from support.quantized import need_bitsandbytes
from tosslm import InputError, TosslmError
from tosslm.cli import app
from tosslm.config import Config, ModelConfig, load_config
from tosslm.evaluation.external import evaluate_external
from tosslm.methods import registry, settled
from tosslm.model.adapters import attached_adapters, fresh_adapter
from tosslm.model.base import Base, open_base
from tosslm.model.layers import scaled_layer
from tosslm.model.losses import response_losses
from tosslm.model.quantize import check_quantization, four_bit_layers, quantizable_parameters
from tosslm.model.shape import Shape
from tosslm.planning.sizes import weight_bytes
from tosslm.planning.stages import assumed_of_quantized
from tosslm.progress import SilentReporter

DATA = {name: {"path": f"{name}.jsonl"} for name in ("custom", "harmful", "utility")}
NF4 = {"quantize": "nf4", "dtype": "float32", "device": "cpu"}


class Heard(SilentReporter):
    """Keeps what is said."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)


def config_of(**settings: Any) -> Config:
    return load_config({"data": DATA, **settings})


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(InputError, match=r"model\.quantize"):
        config_of(model={"quantize": "int3"})


def test_a_missing_bitsandbytes_is_named_with_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(InputError, match=r'model\.quantize: nf4 .*`pip install "tosslm\[qlora\]"'):
        check_quantization(ModelConfig(quantize="nf4"), torch.device("cpu"), tmp_path)
    check_quantization(ModelConfig(), torch.device("cpu"), tmp_path)


def test_a_model_from_elsewhere_is_said_to_be_measured_in_four_bits(tmp_path: Path) -> None:
    """Here one that is in four bits already, so that it goes no further."""
    (tmp_path / "config.json").write_text(json.dumps({"quantization_config": {"quant_method": "awq"}}))
    heard = Heard()
    with pytest.raises(InputError, match=r"model\.quantize: nf4"):
        evaluate_external(
            config_of(model=NF4), model=str(tmp_path), adapter=None, folder=tmp_path / "out", reporter=heard
        )
    assert any("is measured in nf4, as model.quantize says" in text for text in heard.said)


def test_a_device_without_kernels_is_refused(tmp_path: Path) -> None:
    need_bitsandbytes()
    with pytest.raises(InputError, match=r"the device is mps; set model\.device: cpu"):
        check_quantization(ModelConfig(quantize="nf4"), torch.device("mps"), tmp_path)


def test_weights_that_are_quantised_already_are_refused(tmp_path: Path) -> None:
    need_bitsandbytes()
    (tmp_path / "config.json").write_text(json.dumps({"quantization_config": {"quant_method": "gptq"}}))
    with pytest.raises(InputError, match=r"quantised already \(gptq\); name the model that it was made of"):
        check_quantization(ModelConfig(quantize="nf4"), torch.device("cpu"), tmp_path)


@pytest.mark.parametrize("name", ["larf", "datashield"])
def test_methods_that_scale_layers_of_the_base_are_refused_by_name(name: str) -> None:
    compare = {"safety": {"path": "safe.jsonl"}}
    with pytest.raises(InputError, match=rf"{name}: .*leave model\.quantize out"):
        settled(config_of(method=name, compare=compare, model={"quantize": "nf4"}))
    settled(config_of(method=name, compare=compare))


@pytest.mark.parametrize("name", ["safemerge", "sft-scaled", "sft-averaged", "toss-pro"])
def test_methods_that_work_on_adapters_alone_are_not(name: str) -> None:
    assert name in registry()
    settled(config_of(method=name, compare={"safety": {"path": "safe.jsonl"}}, model={"quantize": "nf4"}))


def test_memory_is_that_of_the_arithmetic() -> None:
    """A million weights in 4 bits, 128 in 2 bytes: 64 weights share a byte, 256 such bytes share 4 more."""
    shape = Shape(1_048_576 + 128, 1, 8, 16, 2, four_bit=1_048_576)
    assert weight_bytes(shape) == 1_048_576 / 2 + 1_048_576 / 64 + 4 * 1_048_576 / (64 * 256) + 2 * 128
    quantized = config_of(model={"quantize": "nf4", "adapter": "safe"})
    held, loading = assumed_of_quantized(quantized, Shape(8_000_000_000, 1, 8, 16, 2, four_bit=7_000_000_000))
    assert "7,000.0M of 8,000.0M weights in 4 bits, 5.6 GB of weights instead of 16.0 GB" in held
    assert "16.0 GB more lie in the machine's own memory" in loading
    assert assumed_of_quantized(config_of(), shape) == []


def test_the_page_has_what_was_measured_and_worked_out() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert written(page, "sizes in four bits", four_bit_table()) == page
    results = json.loads((RESULTS / "four_bits.json").read_text(encoding="utf-8"))
    assert written(page, "four bits", section(results)) == page


def test_agreement_is_spearmans_and_counts_what_both_drop() -> None:
    """Of twenty tokens two are dropped; here one of the two is the same. Ranks differ by 1 twice."""
    one = [float(i) for i in range(20)]
    other = [*one[:17], one[18], one[17], one[19]]
    assert agreement(one, other) == {"spearman": round(1 - 6 * 2 / (20**3 - 20), 4), "dropped_by_both": 0.5}


def test_a_proxy_stays_whole(tiny_model_folder: Path) -> None:
    from tosslm.model.proxy import open_proxy

    need_bitsandbytes()
    config = config_of(model={**NF4, "name": str(tiny_model_folder)}, references={"model": str(tiny_model_folder)})
    proxy = open_proxy(config, open_base(config.model))
    assert proxy is not None
    assert not four_bit_layers(proxy.base.model)


@pytest.fixture
def base(tiny_model_folder: Path) -> Base:
    need_bitsandbytes()
    return open_base(ModelConfig(name=str(tiny_model_folder), **NF4))


def plain_qlora(folder: Path | str) -> Any:
    """The same base as transformers alone gives it.

    In training mode, which changes nothing in a model without dropout, but that bitsandbytes does not turn its
    weights into those of another kernel.
    """
    quantization = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.float32,
    )
    model = AutoModelForCausalLM.from_pretrained(
        folder, quantization_config=quantization, dtype=torch.float32, device_map={"": "cpu"}
    )
    return model.train()


def row_by_row(model: Any, rows: Sequence[Mapping[str, Any]]) -> list[np.ndarray]:
    losses = []
    with torch.no_grad():
        for row in rows:
            ids = torch.as_tensor(np.asarray(row["input_ids"]))
            log_p = model(input_ids=ids[None]).logits[0].float().log_softmax(-1)
            at = np.flatnonzero(np.asarray(row["response_mask"]))
            losses.append(-log_p[at - 1, ids[at]].numpy())
    return losses


def test_linear_layers_are_in_four_bits_and_the_rest_is_as_it_was(base: Base, tiny_model_folder: Path) -> None:
    model = base.model
    whole = AutoModelForCausalLM.from_pretrained(tiny_model_folder, dtype=torch.float32)
    assert len(four_bit_layers(model)) == 2 * 7
    assert sum(2 * layer.weight.numel() for layer in four_bit_layers(model)) == quantizable_parameters(whole)
    assert model.get_input_embeddings().weight is model.get_output_embeddings().weight
    torch.testing.assert_close(model.get_input_embeddings().weight, whole.get_input_embeddings().weight)
    assert not any("forward" in vars(module) for module in model.modules())
    assert not model.training
    assert not any(weight.requires_grad for weight in model.parameters())


def test_losses_are_those_of_transformers_and_peft(
    base: Base, tiny_model_folder: Path, tiny_adapter_folder: Path
) -> None:
    rows = list(tosslm.tokenize_rows(demo_rows("custom", 6), base.tokenizer))
    with attached_adapters(base, {"one": tiny_adapter_folder}) as adapted:
        found = response_losses(adapted, rows)
    reference = PeftModel.from_pretrained(plain_qlora(tiny_model_folder), tiny_adapter_folder).train()
    for one, other in zip(found, row_by_row(reference, rows), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4, rtol=0)
    whole = open_base(base.config.model_copy(update={"quantize": None}))
    apart = np.concatenate(response_losses(whole.model, rows)) - np.concatenate(response_losses(base.model, rows))
    assert np.abs(apart).max() > 1e-3


def test_reading_leaves_the_weights_and_the_gradients_as_they_are(base: Base) -> None:
    """Some processors have bitsandbytes rewrite weights that are read, after which gradients do not pass them."""
    rows = list(tosslm.tokenize_rows(demo_rows("custom", 2), base.tokenizer))
    ids = torch.as_tensor(np.asarray(rows[0]["input_ids"]))[None]
    before = [layer.weight.data.clone() for layer in four_bit_layers(base.model)]

    def gradients() -> list[torch.Tensor]:
        with fresh_adapter(base, config_of().finetune.lora, 0) as model:
            model.train()
            model(input_ids=ids, labels=ids).loss.backward()
            return [weight.grad.clone() for weight in model.parameters() if weight.grad is not None]

    first = gradients()
    response_losses(base.model, rows)
    for one, other in zip(first, gradients(), strict=True):
        torch.testing.assert_close(one, other, atol=0, rtol=0)
    for layer, weight in zip(four_bit_layers(base.model), before, strict=True):
        assert torch.equal(layer.weight.data, weight)
    assert any(gradient.abs().sum() > 0 for gradient in first)


def test_an_adapter_is_merged_before_the_base_is_quantised(
    tiny_model_folder: Path, tiny_adapter_folder: Path, tmp_path: Path
) -> None:
    need_bitsandbytes()
    merged = AutoModelForCausalLM.from_pretrained(tiny_model_folder, dtype=torch.float32)
    PeftModel.from_pretrained(merged, tiny_adapter_folder).merge_and_unload().save_pretrained(tmp_path / "merged")
    own = open_base(ModelConfig(name=str(tiny_model_folder), adapter=str(tiny_adapter_folder), **NF4))
    rows = list(tosslm.tokenize_rows(demo_rows("custom", 3), own.tokenizer))
    assert own.model.get_input_embeddings().weight is own.model.get_output_embeddings().weight
    expected = row_by_row(plain_qlora(tmp_path / "merged"), rows)
    assert own.model.name_or_path == str(tiny_model_folder)
    for one, other in zip(response_losses(own.model, rows), expected, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4, rtol=0)


def test_the_identity_says_what_the_base_is_quantised_to(base: Base) -> None:
    assert open_base(base.config.model_copy(update={"quantize": None})).identity != base.identity


def test_tensors_that_do_not_fit_are_refused_as_of_a_whole_base(tiny_model_folder: Path, tmp_path: Path) -> None:
    need_bitsandbytes()
    shutil.copytree(tiny_model_folder, tmp_path / "torn")
    weights = load_file(tmp_path / "torn/model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, tmp_path / "torn/model.safetensors", {"format": "pt"})
    with pytest.raises(InputError, match=r"lacks tensors of the model, .*up_proj"):
        _ = open_base(ModelConfig(name=str(tmp_path / "torn"), **NF4)).model


def test_no_layer_in_four_bits_is_scaled(base: Base) -> None:
    with pytest.raises(TosslmError, match="quantised"), scaled_layer(base.model, 0, 1.2):
        pass


@pytest.fixture
def quantized_config(tiny_config: dict[str, Any]) -> dict[str, Any]:
    need_bitsandbytes()
    return {**tiny_config, "model": {**tiny_config["model"], "quantize": "nf4"}}


def weights_of(run_dir: str) -> dict[str, bytes]:
    return {
        str(file.relative_to(run_dir)): file.read_bytes()
        for kind in ("*.safetensors", "*.parquet")
        for file in sorted(Path(run_dir).rglob(kind))
    }


def test_a_run_trains_in_float32_and_resumes_to_the_same_bytes(
    quantized_config: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import Trainer

    calm = tosslm.run(quantized_config, until="finetune")
    adapter = load_file(calm.path / "model/adapter_model.safetensors")
    assert {weight.dtype for weight in adapter.values()} == {torch.float32}
    rounded = {name: weight.bfloat16().float() for name, weight in adapter.items()}
    assert not all(torch.equal(weight, rounded[name]) for name, weight in adapter.items())
    assert calm.manifest["machine"]["quantize"] == "nf4"
    assert "bitsandbytes" in calm.manifest["versions"]
    assert "quantised to nf4" in (calm.path / "model/README.md").read_text(encoding="utf-8")

    steps, real = [0], Trainer.training_step

    def dies_in_the_third_training(self: Any, *args: Any, **kwargs: Any) -> Any:
        steps[0] += 1
        if steps[0] == 23:
            raise KeyboardInterrupt
        return real(self, *args, **kwargs)

    wild = {**quantized_config, "run_dir": str(tmp_path / "wild")}
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "training_step", dies_in_the_third_training)
        with pytest.raises(KeyboardInterrupt):
            tosslm.run(wild, until="finetune")
    assert list((tmp_path / "wild").rglob("checkpoint-*"))
    tosslm.run(wild, until="finetune")
    assert weights_of(wild["run_dir"]) == weights_of(quantized_config["run_dir"])


def test_a_folder_made_with_a_whole_base_is_not_adopted(quantized_config: dict[str, Any]) -> None:
    whole = {**quantized_config, "model": {**quantized_config["model"], "quantize": None}}
    first = tosslm.run(whole, until="references").stages
    again = tosslm.run(quantized_config, until="references").stages
    assert first["references/utility"]["fingerprint"] != again["references/utility"]["fingerprint"]
    assert first["references/utility"]["files"] != again["references/utility"]["files"]


def test_gradient_checkpointing_changes_nothing_but_memory(quantized_config: dict[str, Any], tmp_path: Path) -> None:
    plain = tosslm.run(quantized_config, until="references/utility")
    settings = {**quantized_config["references"], "gradient_checkpointing": True}
    spared = tosslm.run(
        {**quantized_config, "references": settings, "run_dir": str(tmp_path / "spared")}, until="references/utility"
    )
    one, other = (load_file(run.path / "references/utility/adapter_model.safetensors") for run in (plain, spared))
    for name, weight in one.items():
        torch.testing.assert_close(other[name], weight, atol=1e-5, rtol=1e-4)
    assert any(weight.abs().max() > 0 for name, weight in one.items() if "lora_B" in name)


def test_merged_is_whole_and_says_what_the_adapter_was_trained_on(
    quantized_config: dict[str, Any], tmp_path: Path
) -> None:
    run = tosslm.run(quantized_config, until="finetune")
    out = tmp_path / "merged"
    told = CliRunner().invoke(app, ["merge", str(run.path), str(out), "--json"])
    assert told.exit_code == 0, told.output
    assert "merged into its unquantised weights" in json.loads(told.stdout)["note"]
    weights = load_file(out / "model.safetensors")
    assert {weight.dtype for weight in weights.values()} == {torch.float32}
    assert "quantization_config" not in json.loads((out / "config.json").read_text(encoding="utf-8"))
    assert "trained on the base in nf4 (4 bits)" in (out / "README.md").read_text(encoding="utf-8")
    whole = AutoModelForCausalLM.from_pretrained(quantized_config["model"]["name"], dtype=torch.float32)
    aligned = PeftModel.from_pretrained(whole, quantized_config["model"]["adapter"]).merge_and_unload()
    expected = PeftModel.from_pretrained(aligned, run.path / "model").merge_and_unload().state_dict()
    for name, weight in weights.items():
        torch.testing.assert_close(weight, expected[name], atol=1e-6, rtol=1e-5)


def test_a_plan_tells_what_four_bits_save(quantized_config: dict[str, Any]) -> None:
    from tosslm.plan import make_plan
    from tosslm.progress import SilentReporter

    whole = {**quantized_config, "model": {**quantized_config["model"], "quantize": None}}
    plans = [
        make_plan(load_config(config), measure=measure, reporter=SilentReporter())
        for config, measure in ((whole, False), (quantized_config, False), (quantized_config, True))
    ]
    before, after, timed = ({s["stage"]: s["memory_bytes"] for s in plan["stages"]} for plan in plans)
    quantised = 2 * (2 * 32 * 32 + 2 * 16 * 32 + 3 * 32 * 64)
    saved = quantised * (4 - 0.5 - 1 / 64 - 4 / (64 * 256))
    assert before["score"] - after["score"] == pytest.approx(saved, abs=1)
    assert after == timed
    assert plans[1]["model"]["quantize"] == "nf4"
    assert any("weights in 4 bits" in said for said in plans[1]["assumed"])
    assert timed


@pytest.mark.slow
def test_the_real_model_scores_as_transformers_and_peft_do(smollm2_folder: Path, tmp_path: Path) -> None:
    need_bitsandbytes()
    base = open_base(ModelConfig(name=str(smollm2_folder), **NF4))
    rows = list(tosslm.tokenize_rows(demo_rows("harmful", 2), base.tokenizer, max_length=96))
    with fresh_adapter(base, config_of().references.lora, 3) as model:
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if "lora_B" in name:
                    weight.normal_(std=0.02)
        model.save_pretrained(tmp_path / "adapter")
        found = response_losses(model, rows)
    reference = PeftModel.from_pretrained(plain_qlora(smollm2_folder), tmp_path / "adapter").train()
    for one, other in zip(found, row_by_row(reference, rows), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4, rtol=0)
