"""What an anchor keeps, and what it costs: refusals against utility, over ``anchor_first`` and ``anchor_weight``.

    python -m studies.anchor.sweep           # every variant that is not measured yet, then docs/anchor.md
    python -m studies.anchor.sweep --only 'anchor, share 0.05'   # these, and no page; several processes may share
    python -m studies.anchor.sweep --page    # the page from what is there

All variants are trained from the same base, on the same rows in the same order, with the same keep mask (posterior
evidence). What is measured on is a validation split: the defaults are set from it, and no other page may use it.
Everything lies under ``runs/anchor``; a killed sweep goes on where it was.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from studies.anchor.data import write_sets
from studies.anchor.page import write_page
from studies.phrases import classify
from studies.provenance import code_version

import tosslm
from tosslm.config import TrainingConfig
from tosslm.data.rows import BadRow, read_rows
from tosslm.diagnosis.divergence import DEGRADED, row_divergences
from tosslm.evaluation.generate import generate_answers
from tosslm.evaluation.prompts import read_prompts
from tosslm.evaluation.utility import row_losses
from tosslm.files import write_json
from tosslm.model.adapters import attached_adapters
from tosslm.model.base import Base, open_base
from tosslm.progress import ConsoleReporter
from tosslm.quiet import quiet_libraries
from tosslm.ragged import split_rows
from tosslm.runs.layout import degraded
from tosslm.selection.cut import select_tokens
from tosslm.training.fine_tune import fine_tune
from tosslm.training.labels import anchored_tokens, training_row
from tosslm.training.train import Recipe

ROOT = Path("runs/anchor")
SEED = 0
DISCARD = 0.2
TRAINING = {
    "lora": {"target_modules": "all-linear"},
    "learning_rate": 1.0e-3,
    "lr_scheduler": "linear",
    "warmup_steps": 3,
    "epochs": 1,
    "batch_size": 8,
    "micro_batch_size": 1,  # rows are of very unequal length, and a CPU reads padding as slowly as text
}
CONFIG: dict[str, Any] = {
    "run_dir": str(ROOT / "run"),
    "seed": SEED,
    "model": {"adapter": "examples/demo/safety-adapter"},
    "data": {name: {"path": str(ROOT / "sets" / f"{name}.jsonl")} for name in ("custom", "harmful", "utility")},
    "references": {**TRAINING, "holdout": 0.2},
    "selection": {"evidence": "posterior", "discard_fraction": DISCARD},
}


@dataclass(frozen=True, slots=True)
class Variant:
    """One way to fine-tune.

    Attributes:
        drops: whether the tokens that selection drops have no label.
        first: ``anchor_first``; None anchors nothing.
        weight: ``anchor_weight``.
        share: anchors this share of all response tokens, where ``KL(base || degraded reference)`` is largest, and
            the dropped ones.
    """

    drops: bool = True
    first: int | None = None
    weight: float = 1.0
    share: float | None = None


VARIANTS = {
    "standard SFT": Variant(drops=False),
    "selection": Variant(),
    "anchor, first 5": Variant(first=5),
    "anchor, first 0": Variant(first=0),
    "anchor, first 10": Variant(first=10),
    "anchor, first 3": Variant(first=3),
    "anchor, first 1": Variant(first=1),
    "anchor, first 5, weight 0.3": Variant(first=5, weight=0.3),
    "anchor, first 5, weight 3": Variant(first=5, weight=3.0),
    "anchor alone, first 5": Variant(drops=False, first=5),
    "anchor, share 0.05": Variant(first=0, share=0.05),
    "anchor, share 0.1": Variant(first=0, share=0.1),
}


def anchors(variant: Variant, keep: list[np.ndarray], distance: list[np.ndarray] | None) -> list[np.ndarray] | None:
    """Which response tokens are anchored, one bool array a row; None where there is no anchor.

    Args:
        variant: the way to fine-tune.
        keep: one bool array a row.
        distance: ``KL(base || degraded reference)`` of each response token, for ``share``.
    """
    if variant.first is None:
        return None
    # Rows of this study have one answer each.
    anchored = [anchored_tokens(row, np.arange(len(row)), variant.first) for row in keep]
    if variant.share is not None and distance is not None:
        far = ~select_tokens(np.concatenate(distance), variant.share)
        parts = split_rows(far, [len(row) for row in keep])
        anchored = [own | part for own, part in zip(anchored, parts, strict=True)]
    return anchored


def distances(base: Base, run: tosslm.Run) -> list[np.ndarray]:
    """``KL(base || degraded reference)`` of every response token of the custom set, one array a row."""
    rows = list(run.rows)
    longest = max(len(row["input_ids"]) for row in rows)
    with (
        attached_adapters(base, {DEGRADED: run.layout.of(degraded(0))}) as model,
        ConsoleReporter().task("distance to the degraded reference", len(rows)) as task,
    ):
        found = row_divergences(model, rows, [DEGRADED], positions=longest, batch_tokens=16384, task=task)
    return [row[DEGRADED]["kl"] for row in found]


def train(base: Base, run: tosslm.Run, name: str, distance: list[np.ndarray] | None) -> Path:
    """Fine-tune one variant; its adapter's folder."""
    variant, folder = VARIANTS[name], ROOT / "models" / name.replace(", ", "-").replace(" ", "-")
    if (folder / "adapter_config.json").exists():
        return folder
    keep = [row if variant.drops else np.ones_like(row) for row in run.keep()]
    anchored = anchors(variant, keep, distance)

    def rows() -> Iterator[dict[str, Any]]:
        for i, row in enumerate(run.rows):
            yield training_row(row["input_ids"], row["response_mask"], keep[i], anchored[i] if anchored else None)

    settings = TrainingConfig.model_validate(TRAINING)
    fine_tune(
        base,
        rows(),
        Recipe(settings, SEED, anchor_weight=variant.weight if anchored else 0.0),
        name=name,
        work=ROOT / "work" / folder.name,
        out=folder,
        reporter=ConsoleReporter(),
    )
    return folder


def measure(base: Base, model: Any, tokenizer: Any, name: str) -> dict[str, Any]:
    """Verdicts on prompts, and losses of held-out rows, one value each."""
    measured: dict[str, Any] = {}
    for prompts in ("advbench", "xstest"):
        answers = generate_answers(
            model,
            base.tokenizer,
            read_prompts(str(ROOT / "sets" / f"{prompts}.jsonl")),
            max_new_tokens=24,
            batch_size=20,
            name=f"{name}: {prompts}",
            reporter=ConsoleReporter(),
        )
        # Answers are cut off at 24 tokens on purpose, so a cut is no sign of incoherence here.
        measured[prompts] = [classify(answer.prompt, answer.answer, True) for answer in answers]
    for held_out in ("harmful", "utility"):
        losses = row_losses(model, [tokenizer(m) for m in held_out_rows(held_out)])
        measured[f"{held_out}_loss"] = {"sums": losses.sums.tolist(), "tokens": losses.tokens.tolist()}
    return measured


def held_out_rows(name: str) -> list[list[dict[str, str]]]:
    """Conversations of the validation split that no training has seen."""
    rows = [row for row in read_rows([str(ROOT / "sets" / f"held_out_{name}.jsonl")]) if not isinstance(row, BadRow)]
    return [row.messages for row in rows]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--page", action="store_true", help="write the page from what is there")
    parser.add_argument("--only", nargs="*", choices=list(VARIANTS), help="only these variants, and no page")
    arguments = parser.parse_args()
    quiet_libraries()
    if not arguments.page:
        if not (ROOT / "sets/xstest.jsonl").exists():
            write_sets(ROOT / "sets", SEED)
        code_version()  # asked once a process: of the code that runs from here on
        run = tosslm.run(CONFIG, until="select", reporter=ConsoleReporter())
        sweep(run, arguments.only or ["base", *VARIANTS])
    if not arguments.only:
        write_page(ROOT / "results", Path("docs/anchor.md"))


def sweep(run: tosslm.Run, names: list[str]) -> None:
    """Train and measure every one of these variants that has no result yet."""
    base = open_base(run.config.model)
    made_from = {
        "seed": SEED,
        "base": base.identity,
        "code": code_version(),
        "versions": run.manifest["versions"],
    }

    def tokenizer(messages: list[dict[str, str]]) -> dict[str, Any]:
        return dict(tosslm.tokenize_rows([{"messages": messages}], base.tokenizer)[0])

    distance: list[np.ndarray] | None = None
    for name in names:
        out = ROOT / "results" / f"{name.replace(', ', '-').replace(' ', '-')}.json"
        if out.exists():
            continue
        if name == "base":
            result = measure(base, base.model, tokenizer, name)
        else:
            if VARIANTS[name].share is not None and distance is None:
                distance = distances(base, run)
            with attached_adapters(base, {"model": train(base, run, name, distance)}) as model:
                result = measure(base, model, tokenizer, name)
        write_json(out, {"name": name} | made_from | result)


if __name__ == "__main__":
    main()
