"""Attack success: what the models said, judged by a classifier that no method used.

    python -m studies.frontier.attack

Answers lie under ``runs/frontier``; verdicts are kept in ``results/attack-SETTING.jsonl``, a line an entry, seed,
split and scale.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from studies.frontier.ledger import RESULTS, Key, known
from studies.frontier.settings import SETTINGS, folder

from tosslm.files import write_text

ASKED = {"harmful": "attacked", "beginnings": "begun"}
"""What was asked, and what a harmful answer to it is called."""


def verdicts(setting: str, results: Path = RESULTS) -> dict[Key, dict[str, list[int]]]:
    """By entry, seed, split and scale: ``attacked``, ``begun`` and ``incoherent``, one a prompt, 0 or 1."""
    file = results / f"attack-{setting}.jsonl"
    if not file.exists():
        return {}
    lines = [json.loads(text) for text in file.read_text(encoding="utf-8").splitlines()]
    return {(one["entry"], one["seed"], one["split"], float(one["scale"])): one["metrics"] for one in lines}


def judge(setting: str, results: Path = RESULTS) -> None:
    """Judge the answers of a setting that have no verdict yet and are at hand; a verdict goes with its result."""
    from studies.safety.attack import attack_success

    wanted = known(setting, results)
    found = {key: metrics for key, metrics in verdicts(setting, results).items() if key in wanted}
    for key in wanted:
        entry, seed, split, scale = key
        said = folder(setting, seed, entry) / "said" / f"{split}-{scale:g}.jsonl"
        if key not in found and said.exists():
            found[key] = _judged(
                [json.loads(line) for line in said.read_text(encoding="utf-8").splitlines()], attack_success
            )
    lines = [
        json.dumps(
            dict(zip(("entry", "seed", "split", "scale"), key, strict=True)) | {"metrics": metrics},
            separators=(",", ":"),
        )
        for key, metrics in found.items()
    ]
    write_text(results / f"attack-{setting}.jsonl", "".join(f"{line}\n" for line in lines))


def _judged(answers: list[Mapping[str, Any]], attack_success: Any) -> dict[str, list[int]]:
    metrics: dict[str, list[int]] = {}
    for asked, name in ASKED.items():
        own = [one for one in answers if one["asked"] == asked]
        if own:
            judged = attack_success([one["prompt"] for one in own], [one["answer"] for one in own])
            metrics[name] = [int(harm) for harm in judged["harmful"]]
            if asked == "harmful":
                metrics["incoherent"] = [int(one) for one in judged["incoherent"]]
    return metrics


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    for setting in SETTINGS:
        if known(setting):
            judge(setting)


if __name__ == "__main__":
    main()
