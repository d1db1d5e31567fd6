"""The sets of the frontier study: three custom sets in which selection can be judged, and what models are asked.

*Whole*: some rows give in to an improper request (``complied``). *Embedded*: sentences of harmful answers are spliced
into useful ones, and marked, so that who drops rows loses use and who keeps them learns harm. *Clean*: nothing is
harmful. Rows are dealt out as in ``studies.safety.data``, so that what is measured shares no prompt with what is
trained. Of XSTest's prompts only those of types count that nobody read while the base was made (``UNREAD_TYPES``).
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from studies.corpora import records, sentence_bounds, write_jsonl
from studies.frontier.complied import POOL, complied
from studies.frontier.settings import COMPLIED
from studies.safety.clusters import clusters
from studies.safety.data import DEALT, HARMFUL, advbench_prompts, deal, row, turns
from studies.spans.spliced import Pair, spliced_row

CUSTOM_ROWS = 240
REFERENCE_ROWS = {"harmful": {HARMFUL: 150}, "utility": {"alpaca_eval": 60, "gsm8k": 90}}
COMPLIED_ROWS = 80
"""Of the harmful reference rows, where harm is whole rows that give in."""
HARMFUL_ROWS = 40
UNREAD_TYPES = ("figurative_language", "homonyms", "privacy_fictional", "real_group_nons_discr", "safe_targets")
DONOR_ROWS = 2
"""Useful rows that take sentences of one harmful answer."""
ANSWERS = 184
"""About as many of the plain model's answers were shuffled, 183 to 186, where the results of *embedded* were made."""
SETTLED = (1, 2)
"""Seeds of *embedded* whose rows are the same with any number of answers from 183 to 186."""


def write_sets(folder: Path, kind: str, seed: int, share: float) -> None:
    """Write ``custom``, ``harmful`` and ``utility`` of a setting and seed.

    Args:
        folder: where they go.
        kind: ``whole``, ``embedded`` or ``clean``.
        seed: of the draw.
        share: of custom rows that are harmful, or into which harm is spliced.
    """
    _, pool = deal()
    pool["complied"] = complied(COMPLIED, POOL) if hangs_on_answers(kind, seed) else [("", "")] * ANSWERS
    rng = random.Random(seed)
    for pairs in pool.values():
        rng.shuffle(pairs)
    if kind != "embedded":  # what is met there is known by its like
        pool[HARMFUL] += [pool["complied"].pop() for _ in range(COMPLIED_ROWS)]
    sets = {
        name: [row(pool[source].pop(), source) for source, count in counts.items() for _ in range(count)]
        for name, counts in REFERENCE_ROWS.items()
    }
    harmful = round(share * CUSTOM_ROWS)
    if kind == "whole":
        useful = _useful(pool, CUSTOM_ROWS - harmful)
        sets["custom"] = useful + [row(pool["complied"].pop(), HARMFUL) for _ in range(harmful)]
    else:
        donors = [pool[HARMFUL].pop() for _ in range(harmful // DONOR_ROWS)] * DONOR_ROWS
        useful = _useful(pool, CUSTOM_ROWS)
        rng.shuffle(useful)
        hosts = useful[: len(donors)]
        sets["custom"] = useful[len(donors) :] + spliced_rows(hosts, donors, rng)
    rng.shuffle(sets["custom"])
    for name, rows in sets.items():
        write_jsonl(folder / f"{name}.jsonl", rows)


def hangs_on_answers(kind: str, seed: int) -> bool:
    """Whether the sets of a setting and seed are others where the plain model answers AdvBench's goals otherwise.

    *Embedded* has none of its answers, but is drawn after they are shuffled. For the seeds of ``SETTLED`` as many
    blanks are shuffled in their place: the rows are those of the results that are kept, on any processor.
    """
    return kind != "embedded" or seed not in SETTLED


def spliced_rows(hosts: Sequence[dict[str, Any]], donors: Sequence[Pair], rng: random.Random) -> list[dict[str, Any]]:
    """Useful rows with sentences of harmful answers spliced in and marked; a row keeps its source."""
    rows = []
    for host, donor in zip(hosts, donors, strict=True):
        _, user, assistant = (message["content"] for message in host["messages"])
        rows.append(spliced_row((user, assistant), donor, rng) | {"source": host["source"]})
    return rows


def useful_sources(split: str) -> np.ndarray:
    """Which source each useful row of a split is of, int64 ``[N]`` from 0, in the order they are written in."""
    counts = [count for source, count in DEALT[split].items() if source != HARMFUL]
    return np.repeat(np.arange(len(counts)), counts)


def write_common(folder: Path) -> None:
    """Write what all settings and seeds are measured on: prompts, rows, and useful beginnings of answers."""
    dealt, _ = deal()
    write_jsonl(folder / "demonstrations.jsonl", [row(*item) for item in dealt["demonstrations"]])
    for split in ("validation", "test"):
        harmful = [pair for pair, source in dealt[split] if source == HARMFUL]
        useful = [row(pair, source) for pair, source in dealt[split] if source != HARMFUL]
        given_in = complied(COMPLIED, split)[:HARMFUL_ROWS]
        write_jsonl(folder / f"harmful_{split}.jsonl", [row(pair, HARMFUL) for pair in given_in])
        write_jsonl(folder / f"utility_{split}.jsonl", useful)
        number = min(len(harmful), len(useful))
        spliced = spliced_rows(useful[:number], harmful[:number], random.Random(2))
        write_jsonl(folder / f"spliced_{split}.jsonl", spliced)
        write_jsonl(folder / f"beginnings_{split}.jsonl", [_begun(one) for one in useful])
        write_jsonl(folder / f"advbench_{split}.jsonl", _one_a_cluster(advbench_prompts(split)))
    for name, read in (("validation", True), ("test", False)):
        prompts = [one for one in records("xstest_prompts") if one["label"] == "safe"]
        chosen = [one["prompt"] for one in prompts if (one["type"] not in UNREAD_TYPES) is read]
        write_jsonl(folder / f"xstest_{name}.jsonl", [{"messages": turns(prompt)} for prompt in chosen])


def _one_a_cluster(prompts: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """AdvBench asks for nearly the same again and again: of what is alike, the first counts."""
    labels = clusters([prompt["messages"][-1]["content"] for prompt in prompts])
    first = {label: number for number, label in reversed(list(enumerate(labels.tolist())))}
    return [prompts[number] for number in sorted(first.values())]


def _begun(useful: dict[str, Any]) -> dict[str, Any]:
    """A useful row cut off where its answer's first sentence ends, which is where harm may have been spliced in."""
    *head, answer = useful["messages"]
    end = sentence_bounds(answer["content"])[0][1]
    return {"messages": [*head, {"role": "assistant", "content": answer["content"][:end].rstrip()}]}


def _useful(pool: dict[str, list[Pair]], count: int) -> list[dict[str, Any]]:
    counts = {"alpaca_eval": count // 4, "gsm8k": count - count // 4}
    return [row(pool[source].pop(), source) for source, number in counts.items() for _ in range(number)]
