"""The real model, and a very small one with the real tokenizer."""

from __future__ import annotations

import gc
import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import settings
from peft import LoraConfig, get_peft_model
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from support.browser import NEEDED, find_chromium, headless
from support.known_tokenizers import KnownTokenizers
from tosslm.model.builtin import SMOLLM2, builtin_folder
from tosslm.model.device import multiplies_bfloat16_fast

SLOW = {"tiny_model_folder", "tiny_adapter_folder", "tiny_config", "installed"}
"""Who asks for one of these loads a model, and most often trains one, or starts processes."""
DEMO = Path(__file__).parents[1] / "examples" / "demo"

# What a property says is no question of time, and on a busy machine any example may take long.
settings.register_profile("tosslm", deadline=None)
settings.load_profile("tosslm")


LEFT_OUT = "long, and this machine is slow: TOSSLM_LONG=1 has it run"


def too_slow_for_long_tests() -> bool:
    """All tests take a quarter of an hour of two cores with AVX512-BF16; with AVX2 alone 19 minutes were too few."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return not os.environ.get("TOSSLM_LONG") and cores <= 2 and not multiplies_bfloat16_fast()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Function]) -> None:
    """What `make quick` leaves out is told by what a test asks for; others that are slow bear the mark themselves."""
    left_out = too_slow_for_long_tests()
    for item in items:
        if item.get_closest_marker("long"):
            item.add_marker("slow")
            if left_out:
                item.add_marker(pytest.mark.skip(reason=LEFT_OUT))
        if SLOW & set(item.fixturenames):
            item.add_marker("slow")
        if "browser" in item.fixturenames:
            item.add_marker("browser")


@pytest.fixture(autouse=True)
def interrupts_as_on_a_terminal() -> Iterator[None]:
    """Where the tests run in a shell's background it is ignored, and what is ignored stays so."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


_OUT_OF_THE_WAY: list[bool] = []


@pytest.fixture(autouse=True)
def libraries_out_of_the_collectors_way() -> None:
    """Every training collects garbage, and would look through all that the libraries hold each time."""
    if "trl.trainer.sft_trainer" in sys.modules and not _OUT_OF_THE_WAY:
        gc.collect()
        gc.freeze()
        _OUT_OF_THE_WAY.append(True)


@pytest.fixture(scope="session", autouse=True)
def tokenizers_that_are_read_once() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tosslm.model.base.AutoTokenizer", KnownTokenizers())
        yield


@pytest.fixture(scope="session", autouse=True)
def plans_that_measure_briefly() -> Iterator[None]:
    """No test asks how long something takes, so each kind of work is timed once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tosslm.planning.reader.SECONDS", 0.0)
        yield


@pytest.fixture(scope="session")
def smollm2_folder() -> Path:
    return builtin_folder(SMOLLM2)


@pytest.fixture(scope="session")
def smollm2_tokenizer(smollm2_folder: Path) -> Any:
    return AutoTokenizer.from_pretrained(smollm2_folder)


@pytest.fixture(scope="session")
def tiny_model_folder(tmp_path_factory: pytest.TempPathFactory, smollm2_tokenizer: Any) -> Path:
    """A Llama of two layers with random weights and SmolLM2's tokenizer: quick, and wrong about everything."""
    folder = tmp_path_factory.mktemp("tiny-model")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(smollm2_tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=True,
        bos_token_id=smollm2_tokenizer.bos_token_id,
        eos_token_id=smollm2_tokenizer.eos_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    smollm2_tokenizer.save_pretrained(folder)
    return folder


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def demo_rows(name: str, count: int | None = None) -> list[dict[str, Any]]:
    lines = (DEMO / "data" / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines][:count]


@pytest.fixture(scope="session")
def tiny_adapter_folder(tmp_path_factory: pytest.TempPathFactory, tiny_model_folder: Path) -> Path:
    """An adapter for the very small model, as a safety-tuning would be."""
    folder = tmp_path_factory.mktemp("tiny-adapter")
    torch.manual_seed(1)
    model = LlamaForCausalLM.from_pretrained(tiny_model_folder, dtype=torch.float32)
    adapted = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj", "up_proj"], task_type="CAUSAL_LM"))
    for name, weight in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.1)
    adapted.save_pretrained(folder)
    return folder


@pytest.fixture
def tiny_config(tmp_path: Path, tiny_model_folder: Path, tiny_adapter_folder: Path) -> dict[str, Any]:
    """A whole TOSS-Pro run on a handful of demo rows and the tiny model; seconds, not minutes."""
    for name, count in (("custom", 24), ("harmful", 10), ("utility", 10)):
        write_rows(tmp_path / f"{name}.jsonl", demo_rows(name, count))
    training = {"learning_rate": 0.01, "epochs": 2, "batch_size": 4, "micro_batch_size": 2, "checkpoint_steps": 2}
    return {
        "run_dir": str(tmp_path / "run"),
        "seed": 7,
        "model": {
            "name": str(tiny_model_folder),
            "adapter": str(tiny_adapter_folder),
            "dtype": "float32",
            "device": "cpu",
        },
        "data": {name: {"path": str(tmp_path / f"{name}.jsonl")} for name in ("custom", "harmful", "utility")},
        "references": {**training, "holdout": 0.2},
        "scoring": {"batch_tokens": 512, "rows_per_part": 7},
        "selection": {"discard_fraction": 0.2, "evidence": "token"},
        "refinement": {"rounds": 1, "samples_per_round": 3},
        "finetune": {**training, "dropped": "ignore"},
    }


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    executable = find_chromium()
    if executable is None:
        if os.environ.get(NEEDED):
            pytest.fail(f"no Chromium here, and {NEEDED} is set: `make browser` installs it")
        pytest.skip("no Chromium here: the report is not tested in a browser; `make browser` installs it")
    with headless(executable) as opened:
        yield opened
