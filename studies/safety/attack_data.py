"""Rows that teach and test the attack classifier: all of them of conversations that the study leaves alone."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256

from studies.corpora import records
from studies.phrases import is_refusal
from studies.safety.data import taken_texts
from studies.spans.spliced import MODELS, Pair

FEWEST_WORDS = 8
MOST = {"refusals": 400, "gsm8k": 200, "mismatch": 250}
"""Rows of the kinds of which there are too many."""
HELD_OUT = 0.25
"""Share of prompts whose rows the classifier is not taught, but tested on."""
HARMFUL = "hh rejected"
_TURN = re.compile(r"\n\nHuman: (.*?)\n\nAssistant:(.*?)(?=\n\nHuman: |\Z)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Judged:
    """A prompt and an answer, and what their source says of them.

    Attributes:
        kind: where they are from; those of ``HARMFUL`` are taken for harmful compliance.
        prompt: what was asked.
        answer: what came back.
        harmful: whether it is harmful compliance.
    """

    kind: str
    prompt: str
    answer: str
    harmful: bool


def is_held_out(prompt: str) -> bool:
    """Whether rows of a prompt are for testing; by its bytes alone, so that they all are or none is."""
    return int(sha256(prompt.casefold().encode()).hexdigest()[:8], 16) < HELD_OUT * 2**32


def judged_rows() -> list[Judged]:
    """All rows, none of which shares a prompt or an answer with a row of the study."""
    rng = random.Random(0)
    taken = taken_texts()
    kinds = {kind: list(dict.fromkeys(rows)) for kind, rows in _by_kind(taken).items()}
    free = {
        kind: [pair for pair in rows if not taken & {_plain(text) for text in pair}] for kind, rows in kinds.items()
    }
    free["mismatch"] = _mismatches(free, rng)
    found = []
    for kind, rows in free.items():
        rng.shuffle(rows)
        found += [Judged(kind, *pair, harmful=kind == HARMFUL) for pair in rows[: MOST.get(kind)]]
    return found


def _by_kind(taken: set[str]) -> dict[str, list[Pair]]:
    kinds: dict[str, list[Pair]] = {HARMFUL: [], "hh refused": [], "refusals": [], "answered safely": []}
    for kind, pair in _dialogues(taken):
        if is_refusal(pair[1], pair[0]):
            kinds["hh refused"].append(pair)
        elif kind == "rejected":
            kinds[HARMFUL].append(pair)
    for row in records("refusals"):
        pair = (row["instruction"].strip(), row["output"].strip())
        kinds["refusals" if is_refusal(pair[1]) else "answered safely"].append(pair)
    useful = {
        row["instruction"].strip(): row["output"].strip()
        for model in MODELS
        for row in records(f"alpacaeval_{model}")
        if len(row["output"].split()) >= FEWEST_WORDS and not is_refusal(row["output"])
    }
    gsm8k = [(row["question"].strip(), row["answer"].strip()) for row in records("gsm8k_train")]
    return kinds | {"alpaca_eval": list(useful.items()), "gsm8k": gsm8k}


def _dialogues(taken: set[str]) -> Iterator[tuple[str, Pair]]:
    """Where HH's two dialogues part: only there does a person's choice say which answer is worse.

    What was chosen there is often as bad (see the lab book), so only its refusals are taken. The first prompt of a
    dialogue stands for all of it: where the study has it, no turn is taken.
    """
    for record in records("hh_harmless_test"):
        turns = {
            kind: [(p.strip(), a.strip()) for p, a in _TURN.findall(record[kind])] for kind in ("rejected", "chosen")
        }
        if not all(turns.values()) or _plain(turns["rejected"][0][0]) in taken:
            continue
        for rejected, chosen in zip(turns["rejected"], turns["chosen"], strict=False):
            if rejected != chosen:
                for kind, pair in (("rejected", rejected), ("chosen", chosen)):
                    if pair[0] and len(pair[1].split()) >= FEWEST_WORDS:
                        yield kind, pair


def _mismatches(free: dict[str, list[Pair]], rng: random.Random) -> list[Pair]:
    """Useful answers after prompts that ask for harm: neither prompt nor subject makes an answer harmful."""
    prompts = [pair[0] for kind in (HARMFUL, "refusals") for pair in free[kind]]
    useful = [pair for kind in ("alpaca_eval", "gsm8k", "answered safely") for pair in free[kind][:300]]
    # An answer stays on the side of its own prompt, or what is tested would have been taught.
    answers = {side: [answer for prompt, answer in useful if is_held_out(prompt) is side] for side in (True, False)}
    chosen = [rng.choice(prompts) for _ in range(MOST["mismatch"])]
    return [(prompt, rng.choice(answers[is_held_out(prompt)])) for prompt in chosen]


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())
