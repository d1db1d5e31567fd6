"""How the public rows and prompts are dealt out, and the proof that no set knows another.

Each source is dealt out once, by a fixed seed, to uses that share no prompt: the demonstrations of safety that some
methods mix in, the validation and the test split, and a pool. A run's seed then draws the custom set and both
reference sets from the pool. `check_leaks` reads what was written and compares it.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

from examples.demo.align import FILES
from studies.corpora import read_jsonl, records
from studies.phrases import is_refusal
from studies.spans.spliced import Pair, harmful_pairs, useful_pairs

MOST_WORDS = {"harmful": 40, "alpaca_eval": 40, "gsm8k": 40, "refusals": 40, "answered": 60}
LATER_WORDS = {"gsm8k": 30}
"""Rows that are trained and measured again and again are shorter than the rows of other studies."""
DEALT: dict[str, dict[str, int]] = {
    "before": {"refusals": 80, "answered": 100, "alpaca_eval": 50},
    "demonstrations": {"refusals": 100},
    "validation": {"harmful": 15, "alpaca_eval": 8, "gsm8k": 8},
    "test": {"harmful": 40, "alpaca_eval": 20, "gsm8k": 20},
}
"""Rows of each use, by source; what is left is the pool. ``before`` is what an earlier base was trained on."""
POOLED = ("harmful", "alpaca_eval", "gsm8k")
"""Sources of which custom and reference sets are drawn."""
PROMPTS = {"advbench": {"validation": 30, "test": 80}, "xstest": {"validation": 20, "test": 40}}
SPLITS = ("validation", "test")
HARMFUL = "harmful"


def advbench_prompts(split: str) -> list[dict[str, Any]]:
    """The AdvBench prompts of a split, as they are written."""
    return _split_prompts(_measured_prompts()["advbench"], PROMPTS["advbench"])[split]


def split_prompts(name: str, split: str) -> list[str]:
    """The texts of a split's prompts; ``name`` is ``advbench`` or ``xstest``."""
    rows = _split_prompts(_measured_prompts()[name], PROMPTS[name])[split]
    return [row["messages"][-1]["content"] for row in rows]


def taken_texts() -> set[str]:
    """Prompts and answers that any use and seed of the study may have, in lower case and with single spaces."""
    dealt, pool = deal()
    pairs = [pair for rows in dealt.values() for pair, _ in rows]
    pairs += [pair for source in POOLED for pair in pool[source]]
    pairs += [_pair(record) for file in FILES for record in read_jsonl(file)]
    return {" ".join(text.casefold().split()) for pair in pairs for text in pair}


def unused_prompts() -> dict[str, list[str]]:
    """Prompts of AdvBench, and harmless ones of XSTest, that are in neither split, in the order of their files."""
    found = {}
    for name, prompts in _measured_prompts().items():
        taken = {prompt for split in SPLITS for prompt in split_prompts(name, split)}
        found[name] = [prompt for prompt in prompts if prompt not in taken]
    return found


def check_leaks(files: Iterable[Path]) -> None:
    """Refuse two files that share a prompt or an answer, whatever their case and spacing.

    Raises:
        SystemExit: two do; the message names both and the text.
    """
    seen = {file: _texts(file) for file in files}
    for one, other in combinations(seen, 2):
        if shared := seen[one] & seen[other]:
            raise SystemExit(f"{one} and {other} share {len(shared)} texts, such as {sorted(shared)[0][:80]!r}")


def leak_files(common: Path, sets: Path) -> list[Path]:
    """All files that must not know each other: those of all seeds, and those of one."""
    return [*sorted(common.glob("*.jsonl")), *sorted(sets.glob("*.jsonl"))]


def _texts(file: Path) -> set[str]:
    found: set[str] = set()
    for record in read_jsonl(file):
        # Refusals are often worded alike; it is their prompts that must not come twice.
        roles = ("user",) if record.get("source") == "refusals" else ("user", "assistant")
        texts = (message["content"] for message in record["messages"] if message["role"] in roles)
        found |= {" ".join(text.casefold().split()) for text in texts}
    return found


def deal() -> tuple[dict[str, list[tuple[Pair, str]]], dict[str, list[Pair]]]:
    """The rows of each use, with their sources, and what is left of each source, the pool of all custom sets."""
    sources = {
        HARMFUL: harmful_pairs(),
        "alpaca_eval": useful_pairs(),
        "gsm8k": [(record["question"].strip(), record["answer"].strip()) for record in records("gsm8k_train")],
        **dict(zip(("refusals", "answered"), _delicate(), strict=True)),
    }
    left: dict[str, list[Pair]] = {}
    for source, pairs in sources.items():
        short = list(
            {pair[0].casefold(): pair for pair in pairs if len(pair[1].split()) <= MOST_WORDS[source]}.values()
        )
        random.Random(0).shuffle(short)
        left[source] = _without_twins(short)
    dealt: dict[str, list[tuple[Pair, str]]] = {}
    for use, counts in DEALT.items():
        dealt[use] = [(left[source].pop(), source) for source, count in counts.items() for _ in range(count)]
        for source, most in LATER_WORDS.items():
            left[source] = [pair for pair in left[source] if len(pair[1].split()) <= most]
    return dealt, left


def _without_twins(pairs: Sequence[Pair]) -> list[Pair]:
    """Pairs whose answer no earlier pair has."""
    return list({" ".join(answer.casefold().split()): (prompt, answer) for prompt, answer in pairs}.values())


def _delicate() -> tuple[list[Pair], list[Pair]]:
    """SafeInstr's demonstrations: those that refuse, and those that answer a delicate prompt safely."""
    refused: list[Pair] = []
    answered: list[Pair] = []
    for row in records("refusals"):
        pair = row["instruction"].strip(), row["output"].strip()
        (refused if is_refusal(pair[1]) else answered).append(pair)
    return refused, answered


def _measured_prompts() -> dict[str, list[str]]:
    """Improper requests, and harmless ones that only sound so, in the order of their files."""
    return {
        "advbench": [record["prompt"] for record in records("advbench_goals")],
        "xstest": [record["prompt"] for record in records("xstest_prompts") if record["label"] == "safe"],
    }


def _split_prompts(prompts: Sequence[str], counts: Mapping[str, int]) -> dict[str, list[dict[str, Any]]]:
    """Validation prompts are among those of the anchor's sweep, which set defaults; test prompts are not."""
    known = set(random.Random(0).sample(list(prompts), 100 if len(prompts) > 200 else 60))
    groups = {
        "validation": [prompt for prompt in prompts if prompt in known],
        "test": [prompt for prompt in prompts if prompt not in known],
    }
    return {
        split: [{"messages": turns(prompt)} for prompt in random.Random(1).sample(groups[split], count)]
        for split, count in counts.items()
    }


def row(pair: Pair, source: str) -> dict[str, Any]:
    prompt, answer = pair
    return {"messages": [*turns(prompt), {"role": "assistant", "content": answer}], "source": source}


def turns(prompt: str) -> list[dict[str, str]]:
    """Without a system turn of its own, SmolLM2's template would set its default of 25 tokens before every prompt."""
    return [{"role": "system", "content": ""}, {"role": "user", "content": prompt}]


def _pair(record: Mapping[str, Any]) -> Pair:
    prompt, answer = (message["content"] for message in record["messages"])
    return prompt, answer
