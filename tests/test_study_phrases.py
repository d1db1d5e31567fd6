"""The phrases of the studies, and the rows that are dealt out by them, stay what their results are of."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from studies.corpora import corpus_file
from studies.frontier import data
from studies.frontier.settings import SETTINGS
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


with_public_data = pytest.mark.skipif(
    not all(corpus_file(name).is_file() for name in NEEDS), reason="needs the public data of studies"
)


@with_public_data
def test_the_rows_that_are_dealt_out_are_those_that_results_are_of() -> None:
    dealt, pools = deal()
    assert {use: digest(rows) for use, rows in dealt.items()} == DEALT
    assert {source: digest(rows) for source, rows in pools.items()} == POOLS


@with_public_data
@pytest.mark.parametrize(("seed", "known"), [(1, "0800e12eb845"), (2, "e1c7a6494f91")])
def test_spliced_rows_of_settled_seeds_are_the_same_wherever_they_are_drawn(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, seed: int, known: str
) -> None:
    """With as many answers of the plain model as there were (183 to 186); with fewer they are others."""

    def drawn(name: str) -> str:
        data.write_sets(tmp_path / name, "embedded", seed, SETTINGS["embedded"].share)
        return hashlib.sha256((tmp_path / name / "custom.jsonl").read_bytes()).hexdigest()[:12]

    assert not data.hangs_on_answers("embedded", seed)
    assert drawn("blanks") == known
    monkeypatch.setattr(data, "SETTLED", ())
    for answers in (183, 186, 181):
        monkeypatch.setattr(data, "complied", lambda *_, number=answers: [("goal", "answer.")] * number)
        assert (drawn(f"{answers} answers") == known) is (answers != 181)
