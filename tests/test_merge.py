"""A base and an adapter as one ordinary model folder. What `toss merge` checks of a run is in test_pipeline."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from tosslm import InputError
from tosslm.config import ModelConfig
from tosslm.merge import save_merged
from tosslm.model.base import Base, open_base


@pytest.fixture
def base(tiny_model_folder: Path) -> Base:
    return open_base(ModelConfig(name=str(tiny_model_folder), dtype="float32", device="cpu"))


def test_the_folder_computes_what_base_and_adapter_do(
    base: Base, tiny_model_folder: Path, tiny_adapter_folder: Path, tmp_path: Path
) -> None:
    save_merged(base, tiny_adapter_folder, tmp_path / "merged")
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32).eval()
    plain = AutoModelForCausalLM.from_pretrained(tiny_model_folder, dtype=torch.float32).eval()
    ids = torch.tensor([AutoTokenizer.from_pretrained(tmp_path / "merged")("How are you?")["input_ids"]])
    with torch.no_grad():
        untouched = plain(ids).logits
        adapted = PeftModel.from_pretrained(plain, tiny_adapter_folder).eval()(ids).logits
        torch.testing.assert_close(merged(ids).logits, adapted, atol=1e-5, rtol=1e-5)
    assert (adapted - untouched).abs().max() > 0.01


def test_a_scale_takes_that_much_of_the_update(base: Base, tiny_adapter_folder: Path, tmp_path: Path) -> None:
    for scale in (1.0, 0.25):
        save_merged(base, tiny_adapter_folder, tmp_path / f"{scale}", scale)
    plain, whole, part = (
        model.state_dict()
        for model in (
            base.model,
            AutoModelForCausalLM.from_pretrained(tmp_path / "1.0", dtype=torch.float32),
            AutoModelForCausalLM.from_pretrained(tmp_path / "0.25", dtype=torch.float32),
        )
    )
    changed = [name for name, value in plain.items() if not torch.equal(value, whole[name])]
    assert changed
    for name in changed:
        expected = plain[name] + 0.25 * (whole[name] - plain[name])
        torch.testing.assert_close(part[name], expected, atol=1e-6, rtol=1e-5)
    with pytest.raises(InputError, match="--scale 0: choose a number above 0"):
        save_merged(base, tiny_adapter_folder, tmp_path / "none", 0.0)


@pytest.mark.parametrize("targets", [["q_proj", "lm_head"], ["embed_tokens"]])
def test_an_update_of_a_tied_head_or_embedding_stays_its_own(
    base: Base, tiny_model_folder: Path, tmp_path: Path, targets: list[str]
) -> None:
    plain = AutoModelForCausalLM.from_pretrained(tiny_model_folder, dtype=torch.float32).eval()
    assert plain.lm_head.weight is plain.model.embed_tokens.weight
    adapted = get_peft_model(plain, LoraConfig(r=2, target_modules=targets, task_type="CAUSAL_LM")).eval()
    torch.manual_seed(3)
    for name, weight in adapted.named_parameters():
        if "lora" in name:
            torch.nn.init.normal_(weight, std=0.1)
    adapted.save_pretrained(tmp_path / "adapter", save_embedding_layers=False)
    ids = torch.arange(20, 40)[None]
    with torch.no_grad():
        expected = adapted(ids).logits
    save_merged(base, tmp_path / "adapter", tmp_path / "merged")
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32).eval()
    on_top = open_base(base.config.model_copy(update={"adapter": str(tmp_path / "adapter")})).model
    for model in (merged, on_top):
        with torch.no_grad():
            torch.testing.assert_close(model(ids).logits, expected, atol=1e-5, rtol=1e-5)


def test_an_update_that_head_and_embedding_share_is_refused(
    base: Base, tiny_model_folder: Path, tmp_path: Path
) -> None:
    """Merged into both it would not be what was trained, and into one of them alone neither."""
    plain = AutoModelForCausalLM.from_pretrained(tiny_model_folder, dtype=torch.float32)
    as_one = LoraConfig(r=2, target_modules=["embed_tokens"], ensure_weight_tying=True, task_type="CAUSAL_LM")
    get_peft_model(plain, as_one).save_pretrained(tmp_path / "adapter", save_embedding_layers=False)
    with pytest.raises(
        InputError, match=r"adapter: .*adapter was trained with ensure_weight_tying.*train it without"
    ):
        save_merged(base, tmp_path / "adapter", tmp_path / "merged")
    assert not (tmp_path / "merged").exists()
    with pytest.raises(InputError, match=r"model\.adapter: .*was trained with ensure_weight_tying"):
        open_base(base.config.model_copy(update={"adapter": str(tmp_path / "adapter")})).model  # noqa: B018


def test_the_weights_of_the_base_stay_as_they_are(base: Base, tiny_adapter_folder: Path, tmp_path: Path) -> None:
    before = {name: value.clone() for name, value in base.model.state_dict().items()}
    save_merged(base, tiny_adapter_folder, tmp_path / "merged")
    after = base.model.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], value) for name, value in before.items())


@pytest.mark.parametrize("marked", ["adapter", "."])
def test_a_hazardous_adapter_is_never_merged(
    base: Base, tiny_adapter_folder: Path, tmp_path: Path, marked: str
) -> None:
    adapter = tmp_path / "adapter"
    shutil.copytree(tiny_adapter_folder, adapter)
    (tmp_path / marked / "HAZARDOUS.md").touch()
    with pytest.raises(InputError, match=r"HAZARDOUS\.md"):
        save_merged(base, adapter, tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


def test_a_folder_that_is_there_is_not_written_over(base: Base, tiny_adapter_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.txt").write_text("mine")
    with pytest.raises(InputError, match="exists already"):
        save_merged(base, tiny_adapter_folder, tmp_path / "mine")
    assert (tmp_path / "mine/notes.txt").read_text() == "mine"


def test_what_is_no_adapter_or_of_another_model_is_refused(
    base: Base, tiny_adapter_folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"no adapter_config\.json"):
        save_merged(base, tmp_path / "empty", tmp_path / "merged")
    other = tmp_path / "other"
    shutil.copytree(tiny_adapter_folder, other)
    weights = load_file(other / "adapter_model.safetensors")
    wider = {name: torch.cat([value, value], dim=-1) for name, value in weights.items()}
    save_file(wider, other / "adapter_model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match="does not fit"):
        save_merged(base, other, tmp_path / "merged")
    assert not (tmp_path / "merged").exists()
