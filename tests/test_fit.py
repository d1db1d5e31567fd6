"""What a library would load in part, or leave out, without a word is refused and named."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

import tosslm
from conftest import demo_rows, write_rows
from tosslm.config import ModelConfig, load_config
from tosslm.errors import InputError
from tosslm.model.adapters import attached_adapters
from tosslm.model.base import Base, open_base
from tosslm.plan import make_plan
from tosslm.progress import SilentReporter

Tensors = dict[str, torch.Tensor]


def altered(source: Path, target: Path, change: Callable[[Tensors], Tensors], name: str) -> Path:
    """A copy of a folder with other tensors."""
    shutil.copytree(source, target)
    save_file(change(load_file(source / name)), target / name, metadata={"format": "pt"})
    return target


def opened(**model: Any) -> Base:
    return open_base(ModelConfig.model_validate({"dtype": "float32", "device": "cpu"} | model))


def without(*parts: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {name: value for name, value in tensors.items() if not any(p in name for p in parts)}


def renamed(old: str, new: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {name.replace(old, new): value for name, value in tensors.items()}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            without("layers.1.self_attn.q_proj"),
            r"lacks tensors .* random: model\.layers\.1\.self_attn\.q_proj",
        ),
        (lambda tensors: tensors | {"model.extra.weight": torch.zeros(2)}, r"no place for: model\.extra\.weight"),
        (
            lambda tensors: tensors | {"model.norm.weight": torch.zeros(7)},
            r"other shapes .*: model\.norm\.weight",
        ),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_refused(
    tiny_model_folder: Path, tmp_path: Path, change: Callable[[Tensors], Tensors], said: str
) -> None:
    folder = altered(tiny_model_folder, tmp_path / "model", change, "model.safetensors")
    with pytest.raises(InputError, match=said):
        _ = opened(name=str(folder)).model


def test_a_tied_head_is_not_missing(tiny_model_folder: Path) -> None:
    assert "lm_head.weight" not in load_file(tiny_model_folder / "model.safetensors")
    assert opened(name=str(tiny_model_folder)).model.lm_head.weight.shape[1] == 32


BROKEN_ADAPTERS: list[tuple[Callable[[Tensors], Tensors], str]] = [
    (
        renamed("self_attn.q_proj", "attention.query"),
        r"weights for model\.layers\.\d\.attention\.query, which",
    ),
    (without("layers.1."), r"no weights for model\.layers\.1\."),
    (lambda tensors: {n: v[:, :-1].clone() if "lora_A" in n else v for n, v in tensors.items()}, "is of shape"),
    (without("lora_"), "no weights"),
]


@pytest.mark.long
@pytest.mark.parametrize(("change", "said"), BROKEN_ADAPTERS)
def test_an_adapter_that_does_not_fit_is_refused_wherever_it_is_named(
    tiny_config: dict[str, Any], tmp_path: Path, change: Callable[[Tensors], Tensors], said: str
) -> None:
    whole, name = Path(tiny_config["model"]["adapter"]), tiny_config["model"]["name"]
    folder = altered(whole, tmp_path / "adapter", change, "adapter_model.safetensors")
    with pytest.raises(InputError, match=rf"model\.adapter: .*{said}"):
        _ = opened(name=name, adapter=str(folder)).model
    with (
        pytest.raises(InputError, match=rf"adapter x: .*{said}"),
        attached_adapters(opened(name=name), {"fine": whole, "x": folder}),
    ):
        pass
    # The plan says so without weights.
    config = {**tiny_config, "model": {**tiny_config["model"], "adapter": str(folder)}}
    with pytest.raises(InputError, match=rf"model\.adapter: .*{said}"):
        make_plan(load_config(config), measure=False, reporter=SilentReporter())
    config = {**tiny_config, "diagnosis": {"adapters": {"other": str(folder)}}}
    with pytest.raises(InputError, match=rf"diagnosis\.adapters\.other: .*{said}"):
        make_plan(load_config(config), measure=False, reporter=SilentReporter())


def test_one_misspelt_layer_among_several_is_refused(tiny_config: dict[str, Any]) -> None:
    targets = {"lora": {"target_modules": ["q_proj", "v_porj"]}}
    config = load_config({**tiny_config, "finetune": {**tiny_config["finetune"], **targets}})
    with pytest.raises(InputError, match=r"finetune\.lora\.target_modules: .* called v_porj; there are: .*v_proj"):
        make_plan(config, measure=False, reporter=SilentReporter())
    config = load_config({**tiny_config, "references": {**tiny_config["references"], **targets}})
    with pytest.raises(InputError, match="v_porj"):
        tosslm.run(config, until="references")


def test_token_ids_beyond_the_model_are_bad_rows(
    tiny_config: dict[str, Any], tiny_model_folder: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "grown"
    shutil.copytree(tiny_model_folder, folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["gloxinia"])
    tokenizer.save_pretrained(folder)
    rows = demo_rows("custom", 3)
    rows[1]["messages"][-1]["content"] += " gloxinia"
    write_rows(Path(tiny_config["data"]["custom"]["path"]), rows)
    config = load_config({**tiny_config, "model": {**tiny_config["model"], "name": str(folder)}})
    plan = make_plan(config, measure=False, reporter=SilentReporter())
    (bad,) = plan["bad_rows"]
    assert bad["origin"].endswith("custom.jsonl:2")
    last = len(tokenizer) - 1
    assert bad["reason"] == f"the token id {last} is beyond the model's vocabulary of {last}"
    with pytest.raises(InputError, match=r"custom\.jsonl:2: the token id"):
        tosslm.run(config, until="data")


def settings_changed(source: Path, target: Path, name: str, **changes: Any) -> Path:
    shutil.copytree(source, target)
    settings = json.loads((target / name).read_text()) | changes
    (target / name).write_text(json.dumps(settings))
    return target


def test_rows_longer_than_the_models_positions_are_bad_rows(
    tiny_config: dict[str, Any], tiny_model_folder: Path, tmp_path: Path
) -> None:
    short = settings_changed(tiny_model_folder, tmp_path / "short", "config.json", max_position_embeddings=40)
    config = {**tiny_config, "model": {**tiny_config["model"], "name": str(short)}}
    plan = make_plan(load_config(config), measure=False, reporter=SilentReporter())
    assert plan["bad_rows"]
    assert all("the model has 40 positions" in bad["reason"] for bad in plan["bad_rows"])
    fitting = load_config({**config, "data": {**tiny_config["data"], "max_length": 40, "on_bad_row": "skip"}})
    plan = make_plan(fitting, measure=False, reporter=SilentReporter())
    assert not any("positions" in bad["reason"] for bad in plan["bad_rows"])


def test_a_tokenizer_without_padding_and_end_is_refused(tiny_model_folder: Path, tmp_path: Path) -> None:
    changes = dict.fromkeys(("pad_token", "eos_token", "bos_token", "unk_token"))
    bare = settings_changed(tiny_model_folder, tmp_path / "bare", "tokenizer_config.json", **changes)
    (bare / "special_tokens_map.json").unlink(missing_ok=True)
    with pytest.raises(InputError, match="no padding and no end-of-sequence token"):
        opened(name=str(bare))


def test_a_section_that_stands_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "toss.yaml"
    path.write_text(
        "data:\n  custom: {path: a}\n  harmful: {path: b}\n  utility: {path: c}\n"
        "selection:\n  discard_fraction: 0.3\nfinetune:\n  epochs: 1\nselection:\n  scope: row\n"
    )
    with pytest.raises(InputError, match=r"toss\.yaml:9: .*'selection' stands there twice"):
        load_config(path)
    path.write_text(path.read_text().replace("\nselection:\n  scope: row", "\n  epochs: 2"))
    with pytest.raises(InputError, match=r"toss\.yaml:9: .*'epochs' stands there twice"):
        load_config(path)
