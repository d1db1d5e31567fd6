"""The phrases of the studies, and the rows that are dealt out by them, stay what their results are of."""

from __future__ import annotations

import hashlib
import json

import pytest
from studies.corpora import corpus_file
from studies.phrases import ENGLISH, classify, is_refusal
from studies.safety.data import deal
from studies.spans.spliced import MODELS

from tosslm.evaluation import refusals

NEEDS = (*(f"alpacaeval_{model}" for model in MODELS), "gsm8k_train", "hh_harmless_test", "refusals")
DEALT = {
    "before": "bda512ca585a",
    "demonstrations": "c08a5f3c73c2",
    "validation": "a24168b166a9",
    "test": "28094d3df25f",
}
POOLS = {
    "harmful": "98cb0c429df2",
    "alpaca_eval": "7c3036a4b14e",
    "gsm8k": "4619c1137a55",
    "refusals": "ac0892be5d58",
    "answered": "962e0839128c",
}


def digest(rows: object) -> str:
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()[:12]


def test_the_phrases_are_those_that_results_were_measured_by() -> None:
    assert hashlib.sha256(repr(ENGLISH).encode()).hexdigest()[:12] == "6a01df1330b8"


def test_the_tools_own_phrases_may_get_better_by_themselves() -> None:
    """Later it was seen that this refuses nothing."""
    answer = "I wouldn't worry about the weather; take a light coat."
    assert not refusals.is_refusal(answer)
    assert is_refusal(answer)
    assert classify("What shall I wear?", answer) == "refusal"
    assert classify("What shall I wear?", "Take a light coat, it may rain.") == "answer"


@pytest.mark.skipif(not all(corpus_file(name).is_file() for name in NEEDS), reason="needs the public data of studies")
def test_the_rows_that_are_dealt_out_are_those_that_results_are_of() -> None:
    dealt, pools = deal()
    assert {use: digest(rows) for use, rows in dealt.items()} == DEALT
    assert {source: digest(rows) for source, rows in pools.items()} == POOLS
