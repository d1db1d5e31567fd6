"""The sets of the anchor sweep: a fifth of the custom rows is harmful, and no prompt stands in two sets.

Harmful rows are first answers of HH's rejected dialogues that do not refuse; useful ones are AlpacaEval's and
GSM8K's. Refusals are measured on AdvBench's goals, over-refusal on XSTest's safe prompts, which no set trains on.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from studies.corpora import records, write_jsonl
from studies.spans.spliced import Pair, harmful_pairs, useful_pairs

ROWS = {
    "custom": {"harmful": 48, "alpaca_eval": 96, "gsm8k": 56},
    "references": {"harmful": 200, "alpaca_eval": 120, "gsm8k": 80},
    "held-out": {"harmful": 60, "alpaca_eval": 40, "gsm8k": 30},
}
MOST_WORDS = 50
PROMPTS = {"advbench": 100, "xstest": 60}


def write_sets(folder: Path, seed: int) -> None:
    """Write the three sets, the held-out rows and the prompts as JSONL."""
    sources = {"harmful": harmful_pairs(), "alpaca_eval": useful_pairs(), "gsm8k": _gsm8k()}
    rng = random.Random(seed)
    taken: dict[str, dict[str, list[dict[str, Any]]]] = {use: {} for use in ROWS}
    for source, found in sources.items():
        pairs = [pair for pair in found if len(pair[1].split()) <= MOST_WORDS]
        rng.shuffle(pairs)
        for use, counts in ROWS.items():
            own, pairs = pairs[: counts[source]], pairs[counts[source] :]
            taken[use][source] = [_row(pair, source) for pair in own]
    custom = [row for rows in taken["custom"].values() for row in rows]
    rng.shuffle(custom)
    write_jsonl(folder / "custom.jsonl", custom)
    for use, name in (("references", ""), ("held-out", "held_out_")):
        useful = taken[use]["alpaca_eval"] + taken[use]["gsm8k"]
        write_jsonl(folder / f"{name}harmful.jsonl", taken[use]["harmful"])
        write_jsonl(folder / f"{name}utility.jsonl", useful)
    improper = [record["prompt"] for record in records("advbench_goals")]
    harmless = [record["prompt"] for record in records("xstest_prompts") if record["label"] == "safe"]
    for name, prompts in (("advbench", improper), ("xstest", harmless)):
        chosen = random.Random(seed).sample(prompts, PROMPTS[name])
        write_jsonl(folder / f"{name}.jsonl", [{"prompt": prompt} for prompt in chosen])


def _gsm8k() -> list[Pair]:
    return [(record["question"], record["answer"]) for record in records("gsm8k_train")]


def _row(pair: Pair, source: str) -> dict[str, Any]:
    return {"prompt": pair[0], "completion": pair[1], "source": source}
