"""Response losses against plain transformers + PEFT: one row at a time, full log-softmax, no padding, no chunks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, CohereConfig, CohereForCausalLM, Gemma2Config, Gemma2ForCausalLM

import tosslm
import tosslm.model.head
import tosslm.model.losses
from conftest import demo_rows
from tosslm.model.losses import _check_finite, plan_batches

MULTI_TURN = {
    "messages": [
        {"role": "system", "content": "You are brief."},
        {"role": "user", "content": "What is 2 + 2?"},
        {"role": "assistant", "content": "4"},
        {"role": "user", "content": "And a naïve 🎉?"},
        {"role": "assistant", "content": "Still 4, I am afraid."},
    ]
}


def independent_losses(model: Any, row: dict[str, Any]) -> np.ndarray:
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([row["input_ids"]])).logits[0].double()
    log_p = torch.log_softmax(logits, dim=-1)
    values = [
        -log_p[t - 1, row["input_ids"][t]].item() for t, responds in enumerate(row["response_mask"]) if responds
    ]
    return np.array(values)


def adapter(folder: Path, model_folder: Path, seed: int) -> Path:
    """A LoRA whose B is not zero, so that it changes the model."""
    torch.manual_seed(seed)
    base = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32)
    model = get_peft_model(base, LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"))
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.05)
    model.save_pretrained(folder)
    return folder


@pytest.mark.long
@pytest.mark.slow
def test_losses_of_the_real_model_under_both_adapters(
    smollm2_folder: Path, smollm2_tokenizer: Any, tmp_path: Path
) -> None:
    rows = tosslm.tokenize_rows([MULTI_TURN, *demo_rows("custom", 5)], smollm2_tokenizer)
    base = AutoModelForCausalLM.from_pretrained(smollm2_folder, dtype=torch.float32)
    folders = {
        name: adapter(tmp_path / name, smollm2_folder, seed) for seed, name in enumerate(("utility", "degraded"))
    }
    model = PeftModel.from_pretrained(base, folders["utility"], adapter_name="utility")
    model.load_adapter(folders["degraded"], "degraded")
    found = {}
    for name in folders:
        model.set_adapter(name)
        found[name] = tosslm.response_losses(model, rows)
    with model.disable_adapter():
        found["base"] = tosslm.response_losses(model, rows, batch_tokens=1)  # each row alone: no padding
    for name in ("utility", "degraded", "base"):
        plain = AutoModelForCausalLM.from_pretrained(smollm2_folder, dtype=torch.float32).eval()
        if name in folders:
            plain = PeftModel.from_pretrained(plain, folders[name]).eval()
        for row, losses in zip(rows, found[name], strict=True):
            assert losses.dtype == np.float32
            np.testing.assert_allclose(losses, independent_losses(plain, row), atol=1e-4)
    assert np.abs(found["utility"][0] - found["degraded"][0]).max() > 0.01


def random_rows(vocabulary: int, count: int = 9) -> list[dict[str, Any]]:
    rng = np.random.default_rng(0)
    rows = []
    for length in rng.integers(4, 40, count):
        mask = rng.random(length) < 0.5
        mask[0] = False
        rows.append({"input_ids": rng.integers(0, vocabulary, length).tolist(), "response_mask": mask.tolist()})
    return rows


def small(config_class: type, model_class: type, **settings: Any) -> Any:
    torch.manual_seed(0)
    config = config_class(
        vocab_size=97,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        **settings,
    )
    return model_class(config).eval()


@pytest.mark.parametrize(
    "model",
    [
        small(Gemma2Config, Gemma2ForCausalLM, final_logit_softcapping=0.05, query_pre_attn_scalar=8),
        small(CohereConfig, CohereForCausalLM, logit_scale=3.0),
    ],
    ids=["soft-capped logits", "scaled logits"],
)
def test_models_that_change_their_logits_after_the_head(model: Any) -> None:
    rows = random_rows(97)
    for row, losses in zip(rows, tosslm.response_losses(model, rows, batch_tokens=64), strict=True):
        np.testing.assert_allclose(losses, independent_losses(model, row), atol=1e-5)


def test_an_unknown_change_after_the_head_is_refused(tiny_model_folder: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_model_folder, dtype=torch.float32)
    forward = model.forward

    def shifted(*args: Any, **kwargs: Any) -> Any:
        output = forward(*args, **kwargs)
        output.logits = output.logits * 2 + 1
        return output

    model.forward = shifted
    with pytest.raises(tosslm.TosslmError, match="changes its logits"):
        tosslm.response_losses(model, random_rows(97))


def test_chunks_of_the_head_do_not_change_the_losses(
    tiny_model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_model_folder, dtype=torch.float32)
    rows = random_rows(1000)
    whole = tosslm.response_losses(model, rows)
    monkeypatch.setattr(tosslm.model.head, "LOGITS_BYTES", 4 * len(model.lm_head.weight) * 3)  # three positions
    widest = 0

    def watch(_module: Any, _inputs: Any, output: torch.Tensor) -> None:
        nonlocal widest
        widest = max(widest, output.numel() // output.shape[-1])

    model.lm_head.register_forward_hook(watch)
    for one, other in zip(whole, tosslm.response_losses(model, rows, batch_tokens=100), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)
    assert widest <= 25  # the batch's rows at their first position, or three positions


def test_a_batch_that_memory_does_not_hold_is_halved(
    tiny_model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_model_folder, dtype=torch.float32)
    rows = random_rows(1000)
    whole = tosslm.response_losses(model, rows)
    real, sizes = tosslm.model.losses.batch_losses, []

    def scarce(split: Any, batch: Any, prefix: Any) -> Any:
        sizes.append(len(batch))
        if len(batch) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(split, batch, prefix)

    monkeypatch.setattr(tosslm.model.losses, "batch_losses", scarce)
    for one, other in zip(whole, tosslm.response_losses(model, rows), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)
    assert max(sizes) == sum(any(row["response_mask"]) for row in rows)


def test_what_did_not_fit_once_is_not_tried_again_with_every_batch(
    tiny_model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_model_folder, dtype=torch.float32)
    rng, mask = np.random.default_rng(0), [False] * 5 + [True] * 15
    rows = [{"input_ids": rng.integers(0, 300, 20).tolist(), "response_mask": mask} for _ in range(64)]
    whole = tosslm.response_losses(model, rows, batch_tokens=160)
    real, broke = tosslm.model.losses.batch_losses, []

    def scarce(split: Any, batch: Any, prefix: Any) -> Any:
        if len(batch) > 4:
            broke.append(len(batch))
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(split, batch, prefix)

    monkeypatch.setattr(tosslm.model.losses, "batch_losses", scarce)
    found = tosslm.response_losses(model, rows, batch_tokens=160, share=False)
    for one, other in zip(whole, found, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)
    assert broke == [8]


def test_one_row_that_memory_does_not_hold_is_named(tiny_model_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(split: Any, batch: Any, prefix: Any) -> Any:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")

    monkeypatch.setattr(tosslm.model.losses, "batch_losses", never)
    model = AutoModelForCausalLM.from_pretrained(tiny_model_folder, dtype=torch.float32)
    with pytest.raises(tosslm.TosslmError, match=r"row \d+ .* alone does not fit"):
        tosslm.response_losses(model, random_rows(97))


def test_a_loss_that_is_no_number_names_row_and_position(tiny_model_folder: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_model_folder, dtype=torch.float32)
    model.model.layers[0].self_attn.v_proj.weight.data.fill_(float("nan"))
    row = {"row_id": "abc", "input_ids": [5, 6, 7], "response_mask": [False, False, True]}
    with pytest.raises(tosslm.TosslmError, match="row abc, position 2: the loss is nan"):
        tosslm.response_losses(model, [row])


def test_an_infinite_loss_is_no_number_either() -> None:
    row = {"row_id": "abc", "response_mask": [False, True, True]}
    with pytest.raises(tosslm.TosslmError, match="row abc, position 2: the loss is inf"):
        _check_finite(np.array([1.0, np.inf]), row, 0)


def test_batches_stay_under_the_budget_and_hold_every_row_once() -> None:
    lengths = [5, 30, 7, 100, 7, 8, 1, 30]
    batches = plan_batches(lengths, 64)
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(lengths[i] for i in batch) <= 64
    assert batches[0] == [3]  # the longest goes first, alone


def test_a_model_in_training_mode_is_given_back_so(tiny_model_folder: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_model_folder, dtype=torch.float32).train()
    tosslm.response_losses(model, random_rows(97, 2))
    assert model.training


def test_no_rows_have_no_losses(tiny_model_folder: Path) -> None:
    assert tosslm.response_losses(AutoModelForCausalLM.from_pretrained(tiny_model_folder), []) == []
