"""The built-in model, bases, and adapters."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from conftest import DEMO
from tosslm.config import ModelConfig
from tosslm.errors import InputError
from tosslm.model import base as models
from tosslm.model import builtin, device
from tosslm.model.builtin import SMOLLM2, builtin_folder
from tosslm.model.folders import check_adapter


def test_the_builtin_model_is_an_ordinary_folder_that_speaks(smollm2_folder: Path, smollm2_tokenizer: Any) -> None:
    config = json.loads((smollm2_folder / "config.json").read_text())
    assert "quantization_config" not in config
    model = AutoModelForCausalLM.from_pretrained(smollm2_folder, dtype=torch.float32)
    assert model.num_parameters() == 134_515_008
    ids = smollm2_tokenizer("The capital of France is", return_tensors="pt").input_ids
    with torch.no_grad():
        assert smollm2_tokenizer.decode(model(ids).logits[0, -1].argmax()) == " Paris"


def test_a_damaged_cache_is_noticed(smollm2_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    converted: list[Path] = []

    def convert(source: Path, folder: Path) -> None:
        converted.append(folder)
        (folder / "config.json").write_text("{}")

    monkeypatch.setenv("TOSSLM_CACHE", str(tmp_path))
    monkeypatch.setattr(builtin, "convert", convert)
    folder = builtin_folder(SMOLLM2)
    assert folder == builtin_folder(SMOLLM2)
    assert len(converted) == 1
    (folder / "config.json").write_text("{ ")
    builtin_folder(SMOLLM2)
    assert len(converted) == 2
    assert not [path for path in tmp_path.iterdir() if "unfinished" in path.name]


@pytest.mark.slow
def test_two_processes_convert_once(tmp_path: Path) -> None:
    script = (
        "import time; from tosslm.model import builtin\n"
        "def convert(source, folder):\n"
        "    print('converted'); time.sleep(1); (folder / 'config.json').write_text('{}')\n"
        "builtin.convert = convert\n"
        "builtin.builtin_folder(builtin.SMOLLM2)\n"
    )
    command, environment = [sys.executable, "-c", script], {"TOSSLM_CACHE": str(tmp_path), "PATH": ""}
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) for _ in range(2)]
    assert "".join(process.communicate()[0] for process in both) == "converted\n"
    assert [process.returncode for process in both] == [0, 0]


def test_an_unknown_builtin_is_refused() -> None:
    with pytest.raises(InputError, match="'builtin:gpt' is no built-in model"):
        builtin_folder("builtin:gpt")


def test_dtype_auto_asks_the_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    for answer, dtype in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr(device, "multiplies_bfloat16_fast", lambda answer=answer: answer)
        assert device.choose_dtype("auto", cpu) is dtype
    assert device.choose_dtype("float16", cpu) is torch.float16


def test_the_identity_of_a_base_depends_on_its_files_alone(tiny_model_folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(tiny_model_folder, copy)
    settings = {"dtype": "float32", "device": "cpu"}
    first, second = (models.open_base(ModelConfig(name=str(f), **settings)) for f in (tiny_model_folder, copy))
    assert first.identity == second.identity
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"rope_theta": 1.0}))
    assert models.open_base(ModelConfig(name=str(copy), **settings)).identity != first.identity


def test_pickled_weights_are_refused(tiny_model_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "pickled"
    shutil.copytree(tiny_model_folder, folder)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(InputError, match=r"no \.safetensors weights; pickled weights are never loaded"):
        _ = models.open_base(ModelConfig(name=str(folder))).model


def test_an_adapter_that_is_none_or_does_not_fit_is_refused(tiny_model_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"no adapter_config\.json there"):
        models.open_base(ModelConfig(name=str(tiny_model_folder), adapter=str(tmp_path / "empty")))
    safety = DEMO / "safety-adapter"
    with pytest.raises(InputError, match=r"model\.adapter: .* does not fit"):
        _ = models.open_base(ModelConfig(name=str(tiny_model_folder), adapter=str(safety))).model


def test_a_model_that_is_nowhere_is_refused() -> None:
    with pytest.raises(InputError, match=r"model\.name: 'no/such folder' is neither a folder here nor a model"):
        models.open_base(ModelConfig(name="no/such folder"))


def test_a_revision_of_what_is_no_hub_id_is_refused(smollm2_folder: Path) -> None:
    for name in (str(smollm2_folder), "builtin:smollm2-135m-instruct"):
        with pytest.raises(InputError, match=r"model\.name: .* lies here, and a revision \('v2'\) is of a hub id"):
            models.open_base(ModelConfig(name=name, revision="v2"))


def test_the_shipped_safety_adapter_is_small_and_safe_to_load() -> None:
    weights = DEMO / "safety-adapter" / "adapter_model.safetensors"
    assert weights.stat().st_size <= 8_000_000
    check_adapter(weights.parent)
