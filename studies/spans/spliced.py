"""Useful answers into which sentences of harmful ones are spliced at sentence bounds, so that every span is known.

Harmful text is the first answer of Anthropic HH's rejected dialogues where it does not refuse; useful rows are
AlpacaEval's. Reference rows, useful rows that are spliced into and harmful rows that are spliced from share no
prompt. Questions are not spliced; what is spliced is marked whole, its harmless words as well.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from studies.corpora import records, sentence_bounds, write_jsonl
from studies.phrases import is_refusal

REFERENCE_ROWS = 240
CUSTOM_ROWS = 200
WORDS = range(8, 81)
MODELS = ("gpt4_0613_concise", "claude-2.1_concise", "text_davinci_003")
Pair = tuple[str, str]


def write_sets(folder: Path, seed: int) -> None:
    """Write ``custom``, ``harmful`` and ``utility`` as JSONL; half of the custom rows are spliced."""
    rng = random.Random(seed)
    harmful, useful = harmful_pairs(), useful_pairs()
    rng.shuffle(harmful)
    rng.shuffle(useful)
    donors = harmful[REFERENCE_ROWS:]
    custom = [
        spliced_row(pair, donors[number], rng) if number % 2 else _row(pair, "useful", [])
        for number, pair in enumerate(useful[REFERENCE_ROWS : REFERENCE_ROWS + CUSTOM_ROWS])
    ]
    write_jsonl(folder / "custom.jsonl", custom)
    write_jsonl(folder / "harmful.jsonl", [_row(pair, "hh") for pair in harmful[:REFERENCE_ROWS]])
    write_jsonl(folder / "utility.jsonl", [_row(pair, "alpaca_eval") for pair in useful[:REFERENCE_ROWS]])


def harmful_pairs() -> list[Pair]:
    """Prompt and first answer of HH's rejected dialogues, where it does not refuse; one a prompt."""
    pairs: dict[str, str] = {}
    for record in records("hh_harmless_test"):
        first = record["rejected"].split("\n\nHuman: ")[1]
        prompt, _, answer = first.partition("\n\nAssistant:")
        answer = answer.strip()
        if prompt.strip() and len(answer.split()) in WORDS and not is_refusal(answer):
            pairs.setdefault(prompt.strip(), answer)
    return list(pairs.items())


def useful_pairs() -> list[Pair]:
    """Prompt and answer of AlpacaEval, of the first model whose answer is neither long nor a refusal."""
    pairs: dict[str, str] = {}
    for model in MODELS:
        for record in records(f"alpacaeval_{model}"):
            answer = record["output"].strip()
            if len(answer.split()) in WORDS and not is_refusal(answer):
                pairs.setdefault(record["instruction"].strip(), answer)
    return list(pairs.items())


def spliced_row(pair: Pair, donor: Pair, rng: random.Random) -> dict[str, Any]:
    """The pair with one or two sentences of the donor's answer, marked, each at a sentence bound of its own."""
    answer = pair[1]
    sentences = [donor[1][start:end].strip() for start, end in sentence_bounds(donor[1])]
    sentences = [text for text in sentences if len(text.split()) >= 4 and not text.endswith("?")] or [donor[1]]
    first = rng.randrange(len(sentences))
    chosen = sentences[first : first + rng.choice((1, 2))]
    bounds = [0] + [end for _, end in sentence_bounds(answer)]
    places = sorted(rng.choices(bounds, k=len(chosen)))
    text, spans, at = "", [], 0
    for place, sentence in zip(places, chosen, strict=True):
        text += answer[at:place]
        text += " " if text and not text[-1].isspace() else ""
        spans.append([len(text), len(text) + len(sentence)])
        text += sentence + " "
        at = place
    return _row((pair[0], (text + answer[at:]).rstrip()), "spliced", spans)


def _row(pair: Pair, source: str, spans: list[list[int]] | None = None) -> dict[str, Any]:
    prompt, answer = pair
    roles = ("system", "user", "assistant")
    messages = [{"role": role, "content": text} for role, text in zip(roles, ("", prompt, answer), strict=True)]
    return {"messages": messages, "source": source} | ({} if spans is None else {"unsafe_spans": spans})
