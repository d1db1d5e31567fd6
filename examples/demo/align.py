"""Make SmolLM2-135M-Instruct refuse improper requests, by a small LoRA on rows written for this project.

SmolLM2-135M-Instruct answers most improper requests. A demo of keeping safety needs a base that has some, so this
script trains ``examples/demo/safety-adapter`` on ``data/align_refusals.jsonl`` and ``data/align_helpful.jsonl``
and measures, on prompts that are in no training file (``data/prompts.jsonl``), how often it refuses.

    python examples/demo/align.py            # train, then measure; a killed training goes on
    python examples/demo/align.py --measure  # measure the adapter that is there, and the plain model
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from tosslm.config import ModelConfig, TrainingConfig
from tosslm.data.rows import BadRow, read_rows
from tosslm.data.tokenize import RowTokenizer
from tosslm.evaluation.generate import generate_answers
from tosslm.evaluation.prompts import read_prompts
from tosslm.evaluation.refusals import opens_as_refusal
from tosslm.files import atomic_path
from tosslm.model.base import open_base
from tosslm.progress import ConsoleReporter
from tosslm.training.fine_tune import fine_tune
from tosslm.training.labels import training_row
from tosslm.training.train import Recipe

HERE = Path(__file__).parent
ADAPTER = HERE / "safety-adapter"
FILES = [HERE / "data" / f"align_{name}.jsonl" for name in ("refusals", "helpful")]
WORK = Path("runs/align")
MODEL = "builtin:smollm2-135m-instruct"
SETTINGS = {
    "lora": {"r": 8, "alpha": 16, "target_modules": "all-linear"},
    "learning_rate": 1.0e-3,
    "lr_scheduler": "linear",
    "epochs": 3,
    "batch_size": 8,
    "micro_batch_size": 8,
    "checkpoint_steps": 25,
}
NOTE = """# Safety adapter of the demo

A LoRA on {model}, trained by `examples/demo/align.py` on rows written for this project.

Refusal rates, greedy decoding, on 60 improper and 60 harmless prompts that are in no training file:
see `measured.json`.
"""


def align(
    files: Sequence[Path],
    settings: Mapping[str, Any],
    *,
    out: Path,
    work: Path,
    note: str,
    adapter: Path | None = None,
    model: str = MODEL,
) -> None:
    """Train a safety adapter on a plain model; a killed training goes on.

    Args:
        files: rows of refusals and of helpful answers.
        settings: of the training.
        out: the adapter's folder.
        work: a folder for what is unfinished; removed at the end.
        note: the adapter's README.
        adapter: merged into the plain model first.
        model: the plain model.
    """
    base = open_base(ModelConfig(name=model, adapter=str(adapter) if adapter else None))
    tokenizer = RowTokenizer(base.tokenizer)
    rows = []
    for row in read_rows([str(file) for file in files]):
        if isinstance(row, BadRow):
            raise SystemExit(f"{row.origin}: {row.reason}; {row.remedy}")
        tokens = tokenizer(row.messages)
        rows.append(training_row(tokens.input_ids, tokens.response_mask, None))
    facts = fine_tune(
        base,
        rows,
        Recipe(TrainingConfig.model_validate(settings), seed=0),
        name="safety adapter",
        work=work,
        out=out,
        notes={"README.md": note},
        reporter=ConsoleReporter(),
    )
    print(f"{facts['rows']} rows, {facts['steps']} steps, loss {facts['first_loss']:.3f} -> {facts['last_loss']:.3f}")
    # Half the size, and far below what the weights' own noise is worth.
    weights = out / "adapter_model.safetensors"
    halves = {name: value.to(torch.bfloat16) for name, value in load_file(weights).items()}
    with atomic_path(weights) as beside:
        save_file(halves, beside, metadata={"format": "pt"})


def refusal_rates(adapter: str | None) -> dict[str, Any]:
    """Share of answers that begin as a refusal, and what is needed to check them by eye."""
    base = open_base(ModelConfig(name=MODEL, adapter=adapter))
    prompts = read_prompts(str(HERE / "data" / "prompts.jsonl"))
    answers = generate_answers(base.model, base.tokenizer, prompts, max_new_tokens=24, batch_size=30)
    refused: dict[str, list[bool]] = {"unsafe": [], "safe": []}
    for prompt, answer in zip(prompts, answers, strict=True):
        refused[prompt.record["label"]].append(opens_as_refusal(answer.answer))
    return {
        "refused_unsafe": sum(refused["unsafe"]) / len(refused["unsafe"]),
        "refused_safe": sum(refused["safe"]) / len(refused["safe"]),
        "prompts": {label: len(values) for label, values in refused.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measure", action="store_true", help="measure only")
    if not parser.parse_args().measure:
        align(FILES, SETTINGS, out=ADAPTER, work=WORK, note=NOTE.format(model=MODEL))
    rates = {"plain model": refusal_rates(None), "with the safety adapter": refusal_rates(str(ADAPTER))}
    for name, rate in rates.items():
        improper, harmless = rate["refused_unsafe"], rate["refused_safe"]
        print(f"{name}: refuses {improper:.0%} of improper, {harmless:.0%} of harmless prompts")
    (ADAPTER / "measured.json").write_text(json.dumps(rates, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
