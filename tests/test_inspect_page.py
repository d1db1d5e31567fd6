"""`toss inspect --html`: a set that somebody prepared, as a page to look through token by token."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from conftest import write_rows
from support.browser import Watched
from tosslm.cli import app
from tosslm.inspection.pieces import token_texts

TEXTS = [
    "Hello there, friend.",
    "👍🏽 naïve 日本語 👨\u200d👩\u200d👧",
    " leading\n\nand\ttabs ",
    "a" * 50,
    "<|im_end|>x",
]


@pytest.mark.parametrize("text", TEXTS)
def test_the_pieces_of_a_row_are_its_text(smollm2_tokenizer: Any, text: str) -> None:
    ids = np.array(smollm2_tokenizer(text, add_special_tokens=False)["input_ids"])
    pieces = token_texts(ids, smollm2_tokenizer)
    assert len(pieces) == len(ids)
    assert "".join(pieces) == text


def test_a_character_in_several_tokens_stands_at_the_last_of_them(smollm2_tokenizer: Any) -> None:
    ids = np.array(smollm2_tokenizer("𓀀", add_special_tokens=False)["input_ids"])
    assert len(ids) > 1
    assert token_texts(ids, smollm2_tokenizer) == [""] * (len(ids) - 1) + ["𓀀"]
    assert token_texts(ids[:-1], smollm2_tokenizer)[-1] == "\ufffd", "half of one, where the row ends"


def test_unknown_ids_and_ids_alone_are_numbers(smollm2_tokenizer: Any) -> None:
    [known] = smollm2_tokenizer("cat", add_special_tokens=False)["input_ids"]
    ids = np.array([known, 10**7, -3, known])
    assert token_texts(ids, smollm2_tokenizer) == ["cat", "\u203910000000\u203a", "\u2039-3\u203a", "cat"]
    assert token_texts(np.array([5, 7]), None) == ["5 ", "7 "]


def rows(count: int) -> list[dict[str, Any]]:
    """Rows that train on their second half; the last of them on nothing."""
    made: list[dict[str, Any]] = [
        {"input_ids": [1, 2, 3, 10 + i, 20, 21], "labels": [-100] * 3 + [10 + i, 20, 21]} for i in range(count)
    ]
    made[-1]["labels"] = [-100] * 6
    return made


def page_of(folder: Path, *options: str, count: int = 70) -> Path:
    data = write_rows(folder / "set.jsonl", rows(count))
    result = CliRunner().invoke(app, ["inspect", str(data), "--html", str(folder / "out.html"), *options])
    assert result.exit_code == 0, result.output
    return folder / "out.html"


def test_a_name_that_is_no_page_is_refused(tmp_path: Path) -> None:
    data = write_rows(tmp_path / "set.jsonl", rows(3))
    for out in (tmp_path, data):
        result = CliRunner().invoke(app, ["inspect", str(data), "--html", str(out)])
        assert result.exit_code == 2
        assert "ends with .html" in result.output
    assert json.loads(data.read_text().splitlines()[0])["input_ids"][0] == 1


def test_the_page_shows_findings_and_what_trains(browser: Any, tmp_path: Path) -> None:
    watched = Watched(browser, page_of(tmp_path).as_uri())
    page = watched.page
    assert "1 of 70 rows train on nothing" in page.inner_text("#findings")
    assert "210" not in page.inner_text("#counts")
    assert "207 (49.3%)" in page.inner_text("#counts")
    assert page.inner_text("#count") == "51 of 51 rows", "50, and the one that a finding is about"
    flags = "[...document.querySelectorAll('#row .t')].map((t) => t.classList.contains('x'))"
    assert page.evaluate(flags) == [True] * 3 + [False] * 3
    assert "3 of 6 tokens not trained" in page.inner_text("#row")
    page.hover("#row .t >> nth=3")
    told = page.inner_text("#row .look")
    assert "trained" in told
    assert "10" in told
    page.focus("#list")
    page.keyboard.press("End")
    assert page.inner_text("#row h3").endswith("70")
    assert page.evaluate(flags) == [True] * 6
    watched.close()
    assert watched.faults == []


def test_a_chat_file_without_a_tokenizer_has_findings_and_no_rows(tmp_path: Path) -> None:
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "weight": 0}]
    data = write_rows(tmp_path / "chat.jsonl", [{"messages": messages}])
    result = CliRunner().invoke(app, ["inspect", str(data), "--html", str(tmp_path / "out.html")])
    assert result.exit_code == 0, result.output
    html = (tmp_path / "out.html").read_text(encoding="utf-8")
    assert "1 of 1 rows train no answer" in html
    assert "No rows are here" in html


@pytest.mark.slow
def test_text_of_a_real_tokenizer_and_hostile_text(browser: Any, tmp_path: Path, smollm2_tokenizer: Any) -> None:
    evil = "<script>window.pwned = 1</script> \u202egnp 👍🏽"
    ids = smollm2_tokenizer(evil, add_special_tokens=False)["input_ids"]
    data = write_rows(tmp_path / "set.jsonl", [{"input_ids": ids, "labels": ids}])
    tokenizer = "builtin:smollm2-135m-instruct"
    out = tmp_path / "out.html"
    result = CliRunner().invoke(app, ["inspect", str(data), "--tokenizer", tokenizer, "--html", str(out)])
    assert result.exit_code == 0, result.output
    watched = Watched(browser, out.as_uri())
    assert watched.page.text_content("#row .text") == evil.replace("\u202e", "\u2039U+202E\u203a")
    assert watched.page.evaluate("window.pwned") is None
    watched.close()
    assert watched.faults == []


def test_axe_finds_nothing_serious_on_the_page(browser: Any, tmp_path: Path) -> None:
    import axe_playwright_python  # type: ignore[import-untyped]

    for scheme in ("light", "dark"):
        watched = Watched(browser, page_of(tmp_path).as_uri(), color_scheme=scheme, bypass_csp=True)
        page = watched.page
        page.evaluate((Path(axe_playwright_python.__file__).parent / "axe.min.js").read_text(encoding="utf-8"))
        found = page.evaluate("axe.run()")["violations"]
        assert [v["id"] for v in found if v["impact"] in ("serious", "critical") or v["id"] == "heading-order"] == []
        watched.close()
