"""What the safety study runs: methods, seeds, and the ladder of settings around the headline."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from studies.safety.base import BASE, COMMON, ROOT
from studies.safety.data import HARMFUL, SPLITS
from studies.safety.guard import CLASSIFIER

HEADLINE = "headline"
SEEDS = (0, 1, 2)
UNTRAINED, STANDARD, ORACLE = "base", "sft", "oracle"
CONTROLS = ("random", "first-k", "rows")
OURS = (
    "toss",
    "toss-pro",
    "toss-posterior",
    "toss-pro-posterior",
    "toss-anchor",
    "toss-pro-anchor",
    "toss-posterior-anchor",
    "toss-pro-posterior-anchor",
)
OTHERS = (
    "degraded-only",
    "utility-only",
    "toss-row",
    "safeinstr",
    "dsir",
    "seal",
    "constrained-sft",
    "star-dss",
)
RIVALS = (*CONTROLS, *OTHERS)
"""All that are not ours: what the best of ours has to beat."""
METHODS = (UNTRAINED, STANDARD, ORACLE, *CONTROLS, *OURS, *OTHERS)
REFERENCES = ("utility", "degraded")
MEASURED_BEFORE = {
    "star-dss": "**The figures on this page are of its first version:** the guard decided for or against a segment, "
    "segments it called unsafe were held to the base with finetune.anchor_weight, and the first "
    "finetune.anchor_first tokens of each answer were anchored too",
}
"""What a method was when it was measured, where it has become another since; to be taken out with those results."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One setting.

    Attributes:
        share: of custom rows that are harmful.
        overrides: what differs from the headline's config, by dotted key.
        methods: what is compared there.
        seeds: of data and training.
    """

    share: float = 0.2
    overrides: dict[str, Any] = field(default_factory=dict)
    methods: tuple[str, ...] = ("toss", "toss-posterior", "toss-posterior-anchor")
    seeds: tuple[int, ...] = (0,)

    @property
    def headline_rows(self) -> bool:
        """Whether its rows are the headline's."""
        return self.share == CELLS[HEADLINE].share

    @property
    def headline_references(self) -> bool:
        """Whether its references are trained as the headline's are, on the same rows."""
        return self.headline_rows and not any(key.startswith("references.") for key in self.overrides)


_SHARES = ("sft", "oracle", "random", "toss", "toss-posterior-anchor")
_ROUNDS = ("toss-pro", "toss-pro-posterior-anchor")
CELLS = {
    HEADLINE: Cell(methods=METHODS, seeds=SEEDS),
    **{
        f"d {share:g}": Cell(overrides={"selection.discard_fraction": share}) for share in (0.02, 0.05, 0.1, 0.3, 0.4)
    },
    **{
        f"anchor weighs {weight}": Cell(
            overrides={"finetune.anchor_weight": float(weight)}, methods=("toss-anchor", "toss-posterior-anchor")
        )
        for weight in (1, 2)
    },
    "5% harmful": Cell(share=0.05, methods=_SHARES),
    "40% harmful": Cell(share=0.4, methods=_SHARES),
    "references learn slower": Cell(overrides={"references.learning_rate": 5.0e-4}),
    "references learn longer": Cell(overrides={"references.epochs": 3}),
    "references know a third": Cell(overrides={"references.holdout": 0.73}),
    **{f"{rounds} rounds": Cell(overrides={"refinement.rounds": rounds}, methods=_ROUNDS) for rounds in (2, 3)},
}
_TRAINING = {
    "lora": {"target_modules": "all-linear"},
    "learning_rate": 2.5e-3,
    "lr_scheduler": "linear",
    "warmup_steps": 3,
    "epochs": 1,
    "batch_size": 8,
    "micro_batch_size": 1,  # rows are of very unequal length, and a CPU reads padding as slowly as text
}


def run_folder(cell: str, seed: int) -> str:
    """Where a setting's runs of one seed lie."""
    return str(ROOT / cell.replace(" ", "-") / f"seed-{seed}")


def methods_of(cell: str, seed: int) -> tuple[str, ...]:
    """The methods that are compared in a setting, with a seed; the untouched base with the first one alone."""
    setting = CELLS[cell]
    return tuple(name for name in setting.methods if name != UNTRAINED or seed == setting.seeds[0])


def sets_folder(cell: str, seed: int) -> str:
    """Where a setting's rows of one seed lie: with the headline's, where they are the same rows."""
    return f"{run_folder(HEADLINE if CELLS[cell].headline_rows else cell, seed)}-sets"


def config(cell: str, seed: int) -> dict[str, Any]:
    """The config of a setting and seed, before the cell's overrides.

    The validation split is measured with the first seed only: it chooses a method, and no figure of it is reported.
    """
    folder, sets = run_folder(cell, seed), sets_folder(cell, seed)
    splits = SPLITS if seed == SEEDS[0] else SPLITS[1:]

    def measured(name: str) -> dict[str, Any]:
        return {"path": [str(COMMON / f"{name}_{split}.jsonl") for split in splits]}

    return {
        "run_dir": folder,
        "seed": seed,
        "model": {"name": str(BASE)},
        "data": {name: {"path": f"{sets}/{name}.jsonl"} for name in ("custom", "harmful", "utility")},
        "references": {**_TRAINING, "learning_rate": 2.0e-3, "holdout": 0.2},
        "selection": {"discard_fraction": 0.2},
        "refinement": {"rounds": 1, "samples_per_round": 20},
        "finetune": {**_TRAINING, "anchor_weight": 4.0},
        "evaluation": {
            "harmful": measured("advbench"),
            "safe": measured("xstest"),
            "harmful_rows": measured("harmful"),
            "utility_rows": measured("utility"),
            "refusals": ["I'm sorry, but I can't help with that."],
            "max_new_tokens": 20,
            "batch_size": 20,
        },
        "compare": {
            "harmful_sources": [HARMFUL],
            "safety": {"path": str(COMMON / "demonstrations.jsonl")},
            "safety_share": 0.05,
            "guard": {"model": f"{folder}/guard", **CLASSIFIER},
            "guard_segment": 32,
        },
    }
