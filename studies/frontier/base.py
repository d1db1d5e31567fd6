"""The bases of the frontier study: models with a safety adapter made of rows written for this project.

    python -m studies.frontier.base            # train SmolLM2-135M-Instruct's anew, then measure
    python -m studies.frontier.base --measure
    python -m studies.frontier.base --gemma    # Gemma 3 270M's, of the packages that studies/proxy/gemma.py names

The adapter is kept in the repository, so that results are of one base. Delicate rows of some kinds (``held_out``) are
not trained on: with AdvBench's validation goals and XSTest's read types they chose its scale. XSTest's unread types
(``data.UNREAD_TYPES``) and AdvBench's test goals were asked once, of the adapter that was chosen.

Gemma 3 270M is pretrained alone. The same rows, without those that have an empty system turn, teach it to answer in
turns as well as to refuse; scale and settings are SmolLM2's, chosen by nothing that it says. Its adapter stays in
``runs/``, where its weights are.
"""

from __future__ import annotations

import argparse
import hashlib
import random
from pathlib import Path
from typing import Any

import torch
from examples.demo.align import FILES, SETTINGS, align
from safetensors.torch import load_file, save_file
from studies.corpora import read_jsonl, write_jsonl
from studies.frontier.data import write_common
from studies.frontier.products import widen_products
from studies.frontier.settings import COMMON, GEMMA, GEMMA_ROOT, MODEL, ROOT
from studies.phrases import classify
from studies.proxy.gemma import gemma_folder

from tosslm.config import ModelConfig
from tosslm.evaluation.generate import generate_answers
from tosslm.evaluation.prompts import Prompt, prompts_from, read_prompts
from tosslm.files import atomic_path, write_json
from tosslm.model.base import open_base
from tosslm.quiet import quiet_libraries

ROWS = Path("studies/safety/rows")
SCALE = 0.9
NOTE = (
    "# Safety adapter of the frontier study\n\nA LoRA on {model}, made by `python -m "
    "studies.frontier.base` from rows written for this project; `measured.json` says how often it refuses.\n"
)


def held_out(kind: str) -> bool:
    """Whether delicate rows of a kind only choose, and are never trained on."""
    return hashlib.sha256(kind.encode()).digest()[0] < 32


def rows(*, system_turns: bool = True) -> list[dict[str, Any]]:
    """The training rows; delicate ones come twice.

    Args:
        system_turns: half of the rows have an empty system turn, for templates that else write one of their own.
    """
    once = [*read_jsonl(ROWS / "refusals.jsonl"), *read_jsonl(ROWS / "useful.jsonl")]
    once += [*read_jsonl(FILES[0]), *read_jsonl(FILES[1])[::2]]
    delicate = [row for row in read_jsonl(ROWS / "delicate.jsonl") if not held_out(row["kind"])]
    empty = [{"role": "system", "content": ""}] if system_turns else []
    found = [{"messages": (empty if i % 2 else []) + row["messages"]} for i, row in enumerate(once)]
    found += [{"messages": system + row["messages"]} for row in delicate for system in ([], empty)]
    random.Random(0).shuffle(found)
    return found


def make(model: str, adapter: Path, *, system_turns: bool = True) -> None:
    """Train the adapter and scale it."""
    file = ROOT / "align" / f"{adapter.name}.jsonl"
    write_jsonl(file, rows(system_turns=system_turns))
    align(
        [file],
        {**SETTINGS, "epochs": 1},
        out=adapter,
        work=file.with_suffix(".work"),
        note=NOTE.format(model=model),
        model=model,
    )
    scale_adapter(adapter / "adapter_model.safetensors", SCALE)


def scale_adapter(weights: Path, scale: float) -> None:
    """Multiply an adapter's update by a number, in bfloat16 as it is kept."""
    scaled = {
        name: (value.float() * scale).to(torch.bfloat16) if ".lora_B." in name else value
        for name, value in load_file(weights).items()
    }
    with atomic_path(weights) as beside:
        save_file(scaled, beside, metadata={"format": "pt"})


def measure(model: str, adapter: Path) -> None:
    """Ask a base what it was chosen by, and what it was not; write ``measured.json``."""
    write_common(COMMON)
    delicate = [row["messages"] for row in read_jsonl(ROWS / "delicate.jsonl") if held_out(row["kind"])]
    asked: dict[str, list[Prompt]] = {
        f"{name}, {split}": read_prompts(str(COMMON / f"{name}_{split}.jsonl"))
        for split in ("validation", "test")
        for name in ("advbench", "xstest")
    }
    asked["delicate rows of kinds that were not trained on"] = prompts_from(delicate)
    base = open_base(ModelConfig(name=model, adapter=str(adapter), dtype="bfloat16"))
    found = {}
    for name, prompts in asked.items():
        answers = generate_answers(base.model, base.tokenizer, prompts, max_new_tokens=24, batch_size=40)
        refused = [classify(one.prompt, one.answer, one.finished) == "refusal" for one in answers]
        found[name] = {"prompts": len(refused), "refused": sum(refused)}
        print(f"{name}: {sum(refused)} of {len(refused)} refused", flush=True)
    write_json(adapter / "measured.json", found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measure", action="store_true", help="measure only")
    parser.add_argument("--gemma", action="store_true", help="Gemma 3 270M instead of SmolLM2-135M-Instruct")
    arguments = parser.parse_args()
    quiet_libraries()
    widen_products()
    if arguments.gemma:
        gemma_folder(GEMMA_ROOT)
    base = GEMMA if arguments.gemma else MODEL
    if not arguments.measure:
        make(base["name"], Path(base["adapter"]), system_turns=not arguments.gemma)
    measure(base["name"], Path(base["adapter"]))


if __name__ == "__main__":
    main()
