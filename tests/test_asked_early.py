"""What the chat template would not ask is refused before anything is trained, by whatever would ask it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

import tosslm
from conftest import write_rows
from tosslm.compare import compare
from tosslm.config import Config, load_config
from tosslm.errors import InputError
from tosslm.evaluation.external import evaluate_external
from tosslm.plan import make_plan
from tosslm.progress import SilentReporter

NO_SYSTEM = (
    "{% for m in messages %}{% if m['role'] != 'system' %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + "
    "'<|im_end|>\n' }}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
QUESTION = {"prompt": "How do I wash a jumper?", "system": "Be brief."}
ROW = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "How do I wash a jumper?"},
    {"role": "assistant", "content": "By hand."},
]


@pytest.fixture
def without_system(tiny_config: dict[str, Any], tmp_path: Path) -> dict[str, Any]:
    """A model whose template leaves system messages out."""
    folder = tmp_path / "model"
    shutil.copytree(tiny_config["model"]["name"], folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = NO_SYSTEM
    tokenizer.save_pretrained(folder)
    for source in tiny_config["data"].values():
        rows = [json.loads(line) for line in Path(source["path"]).read_text(encoding="utf-8").splitlines()]
        write_rows(Path(source["path"]), [row for row in rows if row["messages"][0]["role"] != "system"])
    return tiny_config | {"model": {"name": str(folder), "dtype": "float32", "device": "cpu"}}


WAYS: dict[str, Callable[[Config], Any]] = {
    "run": tosslm.run,
    "plan": lambda config: make_plan(config, measure=False, reporter=SilentReporter()),
    "compare": lambda config: compare(config, ["base", "sft"]),
    "evaluate --model": lambda config: evaluate_external(
        config, model=config.model.name, adapter=None, folder=Path(config.run_dir), reporter=SilentReporter()
    ),
}


@pytest.mark.parametrize(
    ("key", "record", "named"),
    [
        ("harmful", QUESTION, "the prompt 'How do I wash a jumper\\?'"),
        ("safe", QUESTION, "the prompt 'How do I wash a jumper\\?'"),
        ("utility_rows", {"messages": ROW}, "asked.jsonl"),
    ],
)
@pytest.mark.parametrize("way", WAYS)
def test_a_system_message_that_the_template_leaves_out(
    way: str, key: str, record: dict[str, Any], named: str, without_system: dict[str, Any], tmp_path: Path
) -> None:
    path = tmp_path / "asked.jsonl"
    path.write_text(json.dumps(record), encoding="utf-8")
    config = load_config(without_system | {"evaluation": {key: {"path": str(path)}, "max_new_tokens": 2}})
    with pytest.raises(InputError, match=rf"(?s)evaluation\.{key}: .*{named}.*has a system message"):
        WAYS[way](config)
    assert not list(tmp_path.glob("run/**/*.safetensors"))


@pytest.mark.long
def test_an_evaluation_that_is_done_is_not_read_again(without_system: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "asked.jsonl"
    path.write_text(json.dumps({"prompt": "How do I wash a jumper?"}), encoding="utf-8")
    asked = {"evaluation": {"harmful": {"path": str(path)}, "max_new_tokens": 2}}
    run = tosslm.run(load_config(without_system | asked), until="evaluate")
    assert (run.path / "evaluation").is_dir()
    assert tosslm.run(load_config(without_system | asked), until="evaluate").stages == run.stages
