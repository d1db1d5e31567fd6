"""How often references that tell nothing pass the gate of ``selection/gate.py``, and telling ones do.

    python -m studies.spans.flat

Nothing to tell: simulated rows, those of one set as those of the other, whose scores share an effect of their row;
and real rows, all harm-free and dealt to two sets at random. The scores of these are log-ratios of words' frequencies
in other rows, so that a row's subject moves all of its scores together, as it does under two language models.
Something to tell: three tenths of the harmful tokens one standard deviation higher; and sentences of Toxic Spans that
do or do not hold a marked span. Beside the gate stands the fixed bound of 15 nats that it took the place of.
"""

from __future__ import annotations

import argparse
import collections
import random
import re
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
from studies.corpora import records
from studies.spans.toxic import labelled_sentences

from tosslm.selection.evidence import learn_evidence
from tosslm.selection.gate import against_chance

REPEATS = 60
FIXED_BOUND = 15.0
TRAINED, HELD_OUT = 500, 60  # rows of each set
Sets = tuple[list[np.ndarray], list[np.ndarray]]


def simulated(rows: int, tokens: int, row_effect: float, unsafe_share: float, rng: np.random.Generator) -> Sets:
    """Scores of held-out utility and harmful rows."""
    noise = rng.normal(size=(2, rows, tokens)) + row_effect * rng.normal(size=(2, rows, 1))
    noise[1] += rng.random((rows, tokens)) < unsafe_share
    return list(noise[0]), list(noise[1])


def word_scores(utility: Sequence[str], harmful: Sequence[str], rng: np.random.Generator, *, dealt: bool) -> Sets:
    """Scores of held-out rows under the word frequencies of the others; with ``dealt``, of rows dealt at random."""
    some = [[texts[i] for i in rng.permutation(len(texts))] for texts in (utility, harmful)]
    counts = [
        collections.Counter(word for text in texts[HELD_OUT:TRAINED] for word in _words(text)) for texts in some
    ]
    words, totals = len(set(counts[0]) | set(counts[1])), [sum(count.values()) for count in counts]
    held_out = [text for texts in some for text in texts[:HELD_OUT]]
    if dealt:
        held_out = [held_out[i] for i in rng.permutation(len(held_out))]
    scores = []
    for text in held_out:
        shares = [
            [(n[word] + 1) / (total + words) for word in _words(text)]
            for n, total in zip(counts, totals, strict=True)
        ]
        scores.append(np.log(shares[1]) - np.log(shares[0]))
    return scores[:HELD_OUT], scores[HELD_OUT:]


def _words(text: str) -> list[str]:
    return re.findall(r"\w+|[^\w\s]", text.lower())


def trials(make: Callable[[], Sets]) -> tuple[float, float]:
    """Share that passes the fixed bound, and the gate."""
    passed = []
    for _ in range(REPEATS):
        useful, harmful = make()
        lengths = np.array([len(row) for row in harmful])
        gain = learn_evidence(np.concatenate(useful), np.concatenate(harmful), lengths).gain
        passed.append((gain >= FIXED_BOUND, not against_chance(useful, harmful).explains))
    bound, gate = np.mean(passed, axis=0)
    return float(bound), float(gate)


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    rng = np.random.default_rng(0)
    alpaca = [row["output"] for row in records("alpacaeval_gpt4_0613_concise")]
    alpaca = [text for text in alpaca if len(_words(text)) >= 5]
    gsm = [row["answer"] for row in records("gsm8k_test")]
    posts = records("toxic_spans_train")
    random.Random(0).shuffle(posts)
    toxic, clean = labelled_sentences(posts)
    shapes = [(rows, 45, effect, share) for rows in (18, 60) for effect in (0.0, 0.5) for share in (0.0, 0.3)]
    cases: dict[str, Callable[[], Sets]] = {
        f"{rows} x {tokens}, row effect {effect}, unsafe {share:.0%}": partial(
            simulated, rows, tokens, effect, share, rng
        )
        for rows, tokens, effect, share in shapes
    }
    cases |= {
        "AlpacaEval in halves": lambda: word_scores(alpaca[::2], alpaca[1::2], rng, dealt=False),
        "GSM8K in halves": lambda: word_scores(gsm[::2], gsm[1::2], rng, dealt=False),
        "AlpacaEval against GSM8K, rows dealt": lambda: word_scores(alpaca, gsm, rng, dealt=True),
        "Toxic Spans, rows dealt": lambda: word_scores(clean, toxic, rng, dealt=True),
        "Toxic Spans": lambda: word_scores(clean, toxic, rng, dealt=False),
    }
    print(f"{'held-out rows':<44}{'pass the bound':>16}{'pass the gate':>16}")
    for name, make in cases.items():
        bound, gate = trials(make)
        print(f"{name:<44}{bound:>16.0%}{gate:>16.0%}", flush=True)


if __name__ == "__main__":
    main()
