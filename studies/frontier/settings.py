"""The settings of the frontier study, what is trained in each, and at which scales it is measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from studies.frontier.entries import (
    AGAIN,
    DEFAULT,
    ENTRIES,
    LIGHTER,
    NO_ANCHOR,
    OF_MEAN,
    ONE_ROUND,
    OURS,
    STANDARD,
    WITHOUT_UTILITY,
    as_default,
    at_papers_share,
)
from studies.safety.data import HARMFUL
from studies.safety.guard import CLASSIFIER

ROOT = Path("runs/frontier")
COMMON = ROOT / "common"
COMPLIED = ROOT / "complied.jsonl"
ADAPTER = Path("studies/frontier/safety-adapter")
MODEL = {"name": "builtin:smollm2-135m-instruct", "adapter": str(ADAPTER), "dtype": "bfloat16"}
"""Whatever the processor: results of another dtype are of another base, and could not stand beside these."""
GEMMA_ROOT = Path("runs/gemma")
GEMMA_ADAPTER = ROOT / "gemma-adapter"
"""Under Gemma's terms, as its weights: made anew on each machine, and kept out of the repository."""
GEMMA = {"name": str(GEMMA_ROOT / "gemma-3-270m"), "adapter": str(GEMMA_ADAPTER), "dtype": "bfloat16"}
SCALES = (0.6, 0.8, 1.0, 1.2)
"""What each trained adapter is multiplied by when it is measured; 0 is the base."""
TARGETS = (0.7, 0.8, 0.85, 0.9, 0.95)
"""Shares of standard SFT's gain at which methods are compared."""
HOLDOUT = 0.2
"""Share of reference rows that no reference learns from."""
SAID_TOKENS = {"harmful": 48, "safe": 24, "beginnings": 48}


@dataclass(frozen=True, slots=True)
class Setting:
    """One custom set, and how it is learnt.

    Attributes:
        kind: of ``data.write_sets``.
        share: of rows that are harmful, or into which harm is spliced.
        learning_rate: of the fine-tuning.
        discard_fraction: of methods that are told what share of the tokens to drop; more than is harm.
        harm_share: share of the response tokens that is harm with seed 0, as the selection of the oracle has it.
        oracle: the entry that knows the harm; what it learns of harm is style.
        asked: what is asked of models, of ``SAID_TOKENS``.
        losses: the rows whose losses are measured: ``utility``, ``harmful``, ``spliced``.
        harm: which of these is the harm.
        entries: what is trained, the most telling first.
        model: the base, as of the config.
    """

    kind: str
    share: float
    learning_rate: float
    discard_fraction: float
    oracle: str
    asked: tuple[str, ...]
    losses: tuple[str, ...]
    harm: str
    entries: tuple[str, ...]
    harm_share: float = 0.0
    model: Mapping[str, str] = field(default_factory=lambda: MODEL)


SETTINGS = {
    "whole": Setting(
        "whole",
        0.3,
        5.0e-4,
        0.3,
        "oracle",
        ("harmful", "safe"),
        ("utility", "harmful"),
        "harmful",
        (
            STANDARD,
            "oracle",
            DEFAULT,
            OF_MEAN,
            f"{OURS}, even odds",
            "sft-anchor-first",
            "star-dss",
            f"{OURS}, even odds, weight 1, no first tokens",
            f"{OURS}, even odds, weight 0.5, no first tokens",
            "rows-anchor, weight 1, no first tokens",
            "rows-anchor, weight 0.5, no first tokens",
            "toss-posterior, even odds",
            "rows-anchor",
            "toss-pro",
            "sft-kl",
            "dr-sft",
            "safegrad",
            "toss",
            "random-anchor",
            "larf",
            "lisa",
            "datashield",
            "sft-slow",
            "oracle-anchor",
            "seal",
            "star-dss-hard",
            "bds",
            "safemerge",
            "sft-ema",
            as_default("oracle-anchor"),
            AGAIN,
            NO_ANCHOR,
            LIGHTER,
            WITHOUT_UTILITY,
        ),
        0.253,
    ),
    "embedded": Setting(
        "embedded",
        0.5,
        1.0e-3,
        0.2,
        "oracle-tokens",
        ("harmful", "safe", "beginnings"),
        ("utility", "spliced"),
        "spliced",
        (
            STANDARD,
            "oracle-tokens",
            DEFAULT,
            OF_MEAN,
            f"{OURS}, even odds",
            f"{OURS}, even odds, weight 1, no first tokens",
            f"{OURS}, even odds, weight 0.5, no first tokens",
            "star-dss",
            "rows-anchor, weight 1, no first tokens",
            "rows-anchor, weight 0.5, no first tokens",
            "toss-pro",
            "sft-anchor-first",
            "dr-sft",
            "sft-kl",
            "toss",
            "datashield",
            "safegrad",
            "larf",
            "random-anchor",
            "lisa",
            WITHOUT_UTILITY,
            AGAIN,
            NO_ANCHOR,
            LIGHTER,
            "toss-anchor",
            "toss-soft",
            "toss, degraded loss twice",
            "toss, utility loss twice",
            "toss, dropped out of context",
            "toss, harmful rows by a guard",
            "oracle-tokens-anchor",
            "star-dss-hard",
            "bds",
            "safemerge",
            "sft-ema",
            at_papers_share("toss-pro"),
            at_papers_share("datashield"),
            as_default("oracle-tokens-anchor"),
            as_default("random-anchor"),
            ONE_ROUND,
        ),
        0.117,
    ),
    "clean": Setting(
        "clean",
        0.0,
        1.0e-3,
        0.1,
        STANDARD,
        ("harmful", "safe"),
        ("utility", "harmful"),
        "harmful",
        (
            STANDARD,
            DEFAULT,
            OF_MEAN,
            f"{OURS}, even odds, weight 0.5, no first tokens",
            "rows-anchor, weight 1, no first tokens",
            "star-dss",
            "toss-pro",
            "sft-anchor-first",
            "sft-kl",
            "dr-sft",
        ),
    ),
}
SETTINGS["gemma"] = replace(
    SETTINGS["embedded"],
    model=GEMMA,
    entries=(
        STANDARD,
        "oracle-tokens",
        DEFAULT,
        "rows-anchor, weight 0.5, no first tokens",
        "star-dss",
        "toss-pro",
        "dr-sft",
        "sft-kl",
        "toss",
        "toss-anchor",
        NO_ANCHOR,
    ),
)
_TRAINING = {
    "lora": {"target_modules": "all-linear"},
    "lr_scheduler": "linear",
    "warmup_steps": 3,
    "epochs": 1,
    "batch_size": 8,
    "micro_batch_size": 1,  # rows are of very unequal length, and a CPU reads padding as slowly as text
}


def folder(setting: str, seed: int, entry: str = "shared") -> Path:
    """Where an entry of a setting and seed is trained; what all of them share lies beside them."""
    return ROOT / setting / f"seed-{seed}" / entry.replace(", ", "+").replace(" ", "-")


def config(setting: str, seed: int, entry: str | None = None) -> tuple[dict[str, Any], list[str]]:
    """The config of an entry, and what it overrides; None is what all entries share: data, references and scores."""
    own, sets = SETTINGS[setting], folder(setting, seed, "sets")
    tree = {
        "run_dir": str(folder(setting, seed, entry or "shared")),
        "seed": seed,
        "model": dict(own.model),
        "data": {name: {"path": str(sets / f"{name}.jsonl")} for name in ("custom", "harmful", "utility")},
        "references": {**_TRAINING, "learning_rate": 2.0e-3, "holdout": HOLDOUT},
        "selection": {"discard_fraction": own.discard_fraction},
        "finetune": {
            **_TRAINING,
            "learning_rate": own.learning_rate,
            "anchor_weight": 4.0,
            "anchor_normalize": "anchored",
            "anchor_first": 3,
        },
        "refinement": {"samples_per_round": 20},
        "compare": {
            "harmful_sources": [HARMFUL],
            "safety": {"path": str(COMMON / "demonstrations.jsonl")},
            "safety_share": 0.05,
            "guard": {"model": str(folder(setting, seed, "guard")), **CLASSIFIER},
            "guard_segment": 32,
        },
    }
    if entry is None:
        return tree, []
    return tree | {"method": ENTRIES[entry].method}, [f"{k}={v}" for k, v in ENTRIES[entry].overrides.items()]
