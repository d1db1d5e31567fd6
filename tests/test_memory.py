"""A device that is smaller than thought, or another one, is met with a word that helps."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import tosslm
from tosslm.config import ModelConfig, TrainingConfig, load_config
from tosslm.data.tokenize import RowTokenizer
from tosslm.errors import InputError, TosslmError
from tosslm.evaluation.decoding import generated_ids
from tosslm.merge import merge
from tosslm.model.base import Base, open_base
from tosslm.model.device import choose_device
from tosslm.model.layers import decoder_layers
from tosslm.model.memory import device_memory, lowering
from tosslm.progress import SilentReporter
from tosslm.stages.worker import _check_device
from tosslm.training.labels import training_row, write_training_rows
from tosslm.training.train import Recipe, train_adapter


def full(*_: Any, **__: Any) -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


def trained(base: Base, folder: Path, *, checkpointing: bool) -> int:
    """Train one step; how often its first layer was computed for it."""
    folder.mkdir()
    rows = [training_row(list(range(5, 13)), [False] * 2 + [True] * 6, None)] * 2
    passes = []
    first: Any = decoder_layers(base.model)[0]
    hook = first.mlp.register_forward_pre_hook(lambda *_: passes.append(1))
    settings = TrainingConfig(epochs=1, batch_size=2, micro_batch_size=2, gradient_checkpointing=checkpointing)
    train_adapter(
        base,
        write_training_rows(folder / "rows.arrow", rows),
        Recipe(settings, 0),
        name="references/utility",
        work=folder,
        out=folder / "out",
        notes={},
        reporter=SilentReporter(),
    )
    hook.remove()
    return len(passes)


@pytest.fixture
def base(tiny_model_folder: Path) -> Base:
    return open_base(ModelConfig(name=str(tiny_model_folder), dtype="float32", device="cpu"))


def test_checkpointing_of_one_training_is_none_of_the_next(base: Base, tmp_path: Path) -> None:
    asked = (False, True, False, True)
    found = [trained(base, tmp_path / str(i), checkpointing=one) for i, one in enumerate(asked)]
    assert found[0] == found[2] < found[1] == found[3]
    assert len(base.model.get_input_embeddings()._forward_hooks) == 0


def test_a_training_that_does_not_fit_names_the_keys(base: Base, tmp_path: Path) -> None:
    hook = decoder_layers(base.model)[0].register_forward_pre_hook(full)
    says = r"references/utility: .* of 2 rows does not fit .*micro_batch_size.*gradient_checkpointing"
    with pytest.raises(TosslmError, match=says):
        trained(base, tmp_path / "one", checkpointing=False)
    hook.remove()


def test_answers_that_do_not_fit_name_the_keys(base: Base) -> None:
    from transformers import GenerationConfig

    hook = decoder_layers(base.model)[0].register_forward_pre_hook(full)
    settings = GenerationConfig(max_new_tokens=2, pad_token_id=0, eos_token_id=[1])
    with pytest.raises(TosslmError, match=r"answering 2 prompts at once does not fit .* evaluation\.batch_size"):
        generated_ids(base.model, [[5, 6], [7]], settings)
    hook.remove()


def test_other_errors_stay_what_they_are() -> None:
    with pytest.raises(RuntimeError, match="of another kind"), lowering("this", "lower that"):
        raise RuntimeError("of another kind")


def test_a_plan_says_what_the_device_does_not_hold(
    tiny_config: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from tosslm import plan

    def told() -> list[str]:
        made = plan.make_plan(load_config(tiny_config), measure=False, reporter=SilentReporter())
        return [one for one in made["warnings"] if "holds" in one and "memory" in one]

    assert told() == []
    monkeypatch.setattr(plan, "device_memory", lambda device: 1_000_000)
    (warning,) = told()
    assert "finetune" in warning
    assert "gradient_checkpointing" in warning


def test_the_memory_of_this_machine_is_that_of_its_pages() -> None:
    known = device_memory(torch.device("cpu"))
    assert known is not None
    free = subprocess.run(
        [sys.executable, "-c", "import os; print(os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE'))"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert known == int(free.stdout)


def test_a_gpu_that_is_named_is_asked_for_without_touching_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every process of a launcher would else have memory on the first GPU."""
    monkeypatch.setattr(torch, "zeros", full)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert choose_device("cuda") == torch.device("cuda")
    with pytest.raises(InputError, match="CUDA_VISIBLE_DEVICES=1"):
        choose_device("cuda:1")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match="'cuda' cannot be used here"):
        choose_device("cuda")


@pytest.mark.parametrize(("kind", "chosen"), [("cuda", "cuda"), ("xpu", "xpu"), ("mps", "mps"), ("mtia", "cpu")])
def test_auto_takes_the_accelerator_that_there_is(monkeypatch: pytest.MonkeyPatch, kind: str, chosen: str) -> None:
    found = SimpleNamespace(type=kind)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available: found)
    assert choose_device("auto").type == chosen


def test_a_worker_with_a_gpu_that_pytorch_does_not_see_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    order: Any = SimpleNamespace(gpus=1)
    of_none: Any = SimpleNamespace(gpus=0)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available: None)
    with pytest.raises(InputError, match="was lent a GPU, and PyTorch sees none"):
        _check_device(order, "auto")
    _check_device(of_none, "auto")


def test_a_model_that_was_trained_on_a_gpu_is_merged_on_a_machine_without(
    tiny_config: dict[str, Any], tmp_path: Path
) -> None:
    """The config's device is not there, and `auto` would choose another dtype."""
    import json

    tree = {key: value for key, value in tiny_config.items() if key not in ("refinement", "selection")}
    tree["model"] = tree["model"] | {"dtype": "auto", "device": "auto"}
    run = tosslm.run(load_config(tree | {"method": "sft"}), until="finetune")
    path = run.path / "manifest.json"
    manifest = json.loads(path.read_text(encoding="utf-8"))
    manifest["config"]["model"]["device"] = "cuda"
    path.write_text(json.dumps(manifest), encoding="utf-8")
    merge(tosslm.load_run(run.path), tmp_path / "out")
    merged = open_base(ModelConfig(name=str(tmp_path / "out"), dtype="float32", device="cpu"))
    rows = [RowTokenizer(merged.tokenizer)(row["messages"]) for row in conversations()]
    assert all(len(losses) for losses in tosslm.response_losses(merged.model, [vars_of(row) for row in rows]))


def conversations() -> list[dict[str, Any]]:
    return [{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]}]


def vars_of(row: Any) -> dict[str, Any]:
    return {"input_ids": row.input_ids, "response_mask": row.response_mask}
