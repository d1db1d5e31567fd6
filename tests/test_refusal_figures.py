"""The labelled answers, and that the page says what is measured on them."""

from __future__ import annotations

from collections import Counter

import pytest
from tools.refusal_figures import BEGIN, END, LANGUAGES, PAGE, SPLITS, labelled, table, written

from tosslm.evaluation.refusals import classify


def test_the_answers_are_many_balanced_and_mostly_hard() -> None:
    rows = labelled()
    assert len({row["text"] for row in rows}) == len(rows) >= 150
    assert sum(row["kind"] != "plain" for row in rows) >= 0.4 * len(rows)
    for split in SPLITS:
        counts = Counter(row["language"] for row in rows if row["split"] == split)
        assert counts.keys() == LANGUAGES.keys()
        assert max(counts.values()) <= 1.5 * min(counts.values())
    labels = {(row["split"], row["language"], row["label"]) for row in rows}
    assert len(labels) == len(SPLITS) * len(LANGUAGES) * 3


def test_the_page_has_the_figures_of_the_code_as_it_is() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert page.count(BEGIN) == page.count(END) == 1
    assert written(page, table(labelled())) == page, "run python -m tools.refusal_figures"


@pytest.mark.parametrize("split", SPLITS)
def test_no_coherent_answer_is_called_incoherent(split: str) -> None:
    rows = [row for row in labelled() if row["split"] == split and row["label"] != "incoherent"]
    assert [row["text"] for row in rows if classify("", row["text"]) == "incoherent"] == []


def test_the_table_counts_right_and_wrong_verdicts() -> None:
    texts = [("refusal", "I can't help with that."), ("answer", "I can't help with that!"), ("refusal", "Gladly.")]
    rows = [{"split": "dev", "language": "en", "label": label, "text": text} for label, text in texts]
    lines = table(rows).splitlines()
    assert "| dev | English | 3 | 50% (1/2) | 50% (1/2) | none | none |" in lines
    assert "| test | German | 0 | none | none | none | none |" in lines
