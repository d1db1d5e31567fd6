"""The report in a real browser: what a reader clicks, sees, and is safe from."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tosslm
from support.browser import Watched, opened
from support.made_run import answers, made_run, with_own_choice
from tosslm.report.page import write_report

FAMILY = "👨\u200d👩\u200d👧"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tosslm.Run:
    rows = answers(60)
    lengths = [len(row["answer"].split()) + 1 for row in rows]
    log_odds = [np.random.default_rng(9 + i).normal(size=n).astype("f4") for i, n in enumerate(lengths)]
    return made_run(tmp_path_factory.mktemp("report"), rows, log_odds=log_odds)


@pytest.fixture
def watched(browser: Any, run: tosslm.Run) -> Iterator[Watched]:
    page = opened(browser, run)
    yield page
    page.close()
    assert page.faults == []


def shown_tokens(page: Any) -> list[list[Any]]:
    """Text, and whether struck through, of each token of the open row."""
    return page.evaluate(
        "[...document.querySelectorAll('#row .t')].map(t => [t.textContent, t.classList.contains('x')])"
    )


def open_row(page: Any, row_id: str) -> None:
    page.fill("#search", row_id)
    page.click("#list .item")
    assert row_id in page.inner_text("#row h3")


def set_fraction(page: Any, step: int) -> None:
    page.evaluate(
        "step => { const d = document.getElementById('d'); d.value = step; d.dispatchEvent(new Event('input')); }",
        step,
    )


def test_filters_leave_the_rows_that_fit(watched: Watched, run: tosslm.Run) -> None:
    page, rows, scores = watched.page, run.rows, run.scores()
    page.check("#kinds input[value='0']")
    assert page.inner_text("#count") == "60 of 60 rows"
    page.select_option("#source", label="rude")
    assert page.inner_text("#count") == f"{rows['source'].count('rude')} of 60 rows"
    page.fill("#search", "LADDER")
    fits = [i for i in range(60) if "ladder" in rows["messages"][i] and rows["source"][i] == "rude"]
    assert page.inner_text("#count") == f"{len(fits)} of 60 rows"
    page.fill("#search", "")
    page.select_option("#source", value="-1")
    page.fill("#least", "2.5")
    fits = [i for i in range(60) if scores[i].max() >= 2.5]
    assert page.inner_text("#count") == f"{len(fits)} of 60 rows"
    page.select_option("#order", value="highest")
    page.click("#list .item")
    assert rows["row_id"][max(fits, key=lambda i: scores[i].max())] in page.inner_text("#row h3")


@pytest.mark.parametrize("kind", [0, 1])
def test_the_slider_strikes_the_tokens_that_selection_would_drop(
    watched: Watched, run: tosslm.Run, kind: int
) -> None:
    page = watched.page
    values = [run.scores(), run.evidence()][kind]
    page.check(f"#kinds input[value='{kind}']")
    page.check("#uncover")
    for step in (20, 73, 0):
        fraction = step * 0.005
        keep = tosslm.select_tokens(np.concatenate(values), fraction)
        by_row = np.split(keep, np.cumsum([len(row) for row in values])[:-1])
        set_fraction(page, step)
        assert page.inner_text("#d-value") == f"{fraction:.1%}"
        counts = [int(text.replace(",", "")) for text in page.locator("#sources td:nth-child(3)").all_text_contents()]
        assert sum(counts) == (~keep).sum() == int(fraction * len(keep))
        for i in (0, 17, 41):
            open_row(page, run.rows["row_id"][i])
            assert [dropped for _, dropped in shown_tokens(page)] == (~by_row[i]).tolist()
    source = np.repeat(run.rows["source"], [len(row) for row in values])
    page.evaluate("document.getElementById('search').value = ''")
    keep = tosslm.select_tokens(np.concatenate(values), 0.25)
    set_fraction(page, 50)
    for line in page.locator("#sources tbody tr").all():
        name, _, dropped = line.locator("th, td").all_text_contents()[:3]
        assert int(dropped) == (~keep[source == name]).sum()


def test_an_open_row_follows_the_slider_at_once(watched: Watched, run: tosslm.Run) -> None:
    page = watched.page
    page.check("#uncover")
    open_row(page, run.rows["row_id"][4])
    set_fraction(page, 0)
    assert not any(dropped for _, dropped in shown_tokens(page))
    set_fraction(page, 100)
    some = shown_tokens(page)
    assert any(dropped for _, dropped in some)
    assert "".join(text for text, _ in some) == answers(60)[4]["answer"]


def test_covered_text_is_not_in_the_page_until_asked_for(watched: Watched, run: tosslm.Run) -> None:
    page = watched.page
    marked = run.rows["source"].index("rude")
    text = answers(60)[marked]["answer"]
    open_row(page, run.rows["row_id"][marked])
    assert "may hold harmful text" in page.inner_text("#row")
    assert text not in page.inner_html("body")
    assert "covered" in page.inner_text("#list .item .says")
    page.click("#row .cover button")
    assert page.text_content("#row .text:has(.t)") == text
    marks = page.evaluate("[...document.querySelectorAll('#row .t')].map(t => t.classList.contains('u'))")
    assert marks == [i < 2 for i in range(len(text.split()) + 1)], "the ninth character is the one outside the BMP"


def test_the_token_looked_at_is_described(watched: Watched, run: tosslm.Run) -> None:
    page, scores = watched.page, run.scores()
    page.check("#kinds input[value='0']")
    page.check("#uncover")
    open_row(page, run.rows["row_id"][7])
    page.hover("#row .t >> nth=2")
    told = page.inner_text("#row .look")
    flat = np.concatenate(scores)
    rank = sorted(range(len(flat)), key=lambda i: (-flat[i], i)).index(sum(map(len, scores[:7])) + 2) + 1
    assert answers(60)[7]["answer"].split()[2] in told
    assert f"{scores[7][2]:+.2f}".replace("-", "\u2212") in told
    assert f"{rank:,} of {len(flat):,}" in told
    page.focus("#row .text:has(.t)")
    page.keyboard.press("ArrowRight")
    assert answers(60)[7]["answer"].split()[3] in page.inner_text("#row .look")


def test_the_list_goes_by_keyboard(watched: Watched) -> None:
    page = watched.page
    page.focus("#list")
    first = page.inner_text("#row h3")
    page.keyboard.press("ArrowDown")
    assert page.inner_text("#row h3") != first
    page.keyboard.press("End")
    last = page.get_attribute("#list", "aria-activedescendant")
    assert page.get_attribute(f"#{last}", "aria-posinset") == "60"


def test_either_evidence_can_be_looked_at(browser: Any, tmp_path: Path) -> None:
    watched = opened(browser, made_run(tmp_path / "run", answers(30), telling=True))
    page = watched.page
    page.check("#uncover")
    page.hover("#row .t >> nth=2")
    assert re.search(r"token score\s+[+\u2212][\d.]+ nats", page.inner_text("#row .look"))
    assert "posterior" not in page.inner_text("#row .look")
    assert "tokens were dropped" in page.inner_text("#d-says")
    page.check("#kinds input[value='1']")
    page.hover("#row .t >> nth=2")
    told = page.inner_text("#row .look")
    assert re.search(r"token score\s+[+\u2212][\d.]+ nats", told)
    assert re.search(r"posterior\s+[+\u2212][\d.]+ log-odds", told)
    assert "would be dropped; the lowest has" in page.inner_text("#d-says")
    assert page.get_by_role("heading", name="Posterior by source").is_visible()
    watched.close()
    assert watched.faults == []


def test_a_search_that_finds_nothing_says_so(watched: Watched) -> None:
    page = watched.page
    page.fill("#search", "no row has this")
    assert page.inner_text("#none") == "No row matches."
    assert not page.is_visible("#row")
    page.fill("#search", "")
    assert not page.is_visible("#none")
    assert page.is_visible("#row h3")


def chosen(folder: Path, *, scored: bool) -> tuple[tosslm.Run, list[np.ndarray]]:
    """A run whose method chose tokens by itself, and its mask."""
    run = made_run(folder, answers(12))
    keep = [np.arange(len(row)) % 3 != i % 2 for i, row in enumerate(run.scores())]
    return with_own_choice(run, "own", keep, scored=scored), keep


def test_without_scores_rows_are_shown_and_nothing_is_made_up(browser: Any, tmp_path: Path) -> None:
    run, keep = chosen(tmp_path / "run", scored=False)
    watched = opened(browser, run)
    page = watched.page
    open_row(page, run.rows["row_id"][4])
    assert "may hold harmful text" in page.inner_text("#row")
    assert "evidence" not in page.inner_text("#row")
    page.check("#uncover")
    for i in (4, 7):
        open_row(page, run.rows["row_id"][i])
        assert [dropped for _, dropped in shown_tokens(page)] == (~keep[i]).tolist()
    page.hover("#row .t >> nth=1")
    told = page.inner_text("#row .look")
    assert "kept" in told
    assert not re.search(r"nats|score|rank|\d\.\d", told)
    assert page.locator("#row .strip, .ramp, #least, #d, .kind").count() == 0
    assert page.evaluate("[...document.querySelectorAll('#order option')].map(o => o.value)") == ["share", "file"]
    counts = page.locator("#sources td:nth-child(3)").all_text_contents()
    assert sum(map(int, counts)) == sum((~row).sum() for row in keep)
    watched.close()
    assert watched.faults == []


def test_a_choice_of_its_own_is_shown_before_what_scores_would_drop(browser: Any, tmp_path: Path) -> None:
    run, keep = chosen(tmp_path / "run", scored=True)
    watched = opened(browser, run)
    page = watched.page
    page.check("#uncover")
    open_row(page, run.rows["row_id"][4])
    assert [dropped for _, dropped in shown_tokens(page)] == (~keep[4]).tolist()
    total = sum((~row).sum() for row in keep)
    assert f"{total} of {sum(map(len, keep))} tokens were dropped." in page.inner_text("#d-says")
    assert not page.is_visible("#d")
    page.check("#kinds input[value='0']")
    by_score = tosslm.select_tokens(np.concatenate(run.scores()), 0.1)
    own = np.split(by_score, np.cumsum([len(row) for row in keep])[:-1])[4]
    assert [dropped for _, dropped in shown_tokens(page)] == (~own).tolist()
    assert page.is_visible("#d")
    assert "would be dropped; the lowest has" in page.inner_text("#d-says")
    page.check("#kinds input[value='-1']")
    assert [dropped for _, dropped in shown_tokens(page)] == (~keep[4]).tolist()
    watched.close()
    assert watched.faults == []


PWN = "window.pwned = 1"
HOSTILE = [
    f"<script>{PWN}</script> done",
    f"</script><script>{PWN}</script>",
    f'<img src=x onerror="{PWN}">',
    f"<!-- <script> {PWN} --> <!--",
    f"<svg onload={PWN.replace(' ', '')}></svg>",
    f'"><iframe srcdoc="<script>parent.{PWN}</script>"></iframe>',
    f'<a href="javascript:{PWN}">click</a>',
    "{{ 7 * 7 }} {% raw %} ${7 * 7} <%= 7 %>",
    "line\u2028separator\u2029paragraph",
    "\u202egnp.exe\u202c and \u2066isolated\u2069",
    "\u0645\u0631\u062d\u0628\u0627 \u05e9\u05dc\u05d5\u05dd \u200fmark\u200e",
    f"{FAMILY} 🇩🇪 👍🏽 e\u0301 🏴\u200d☠️",
    "a\u200bb\u200cc\u200dd\ufeffe\u2060f",
    "seen" + "".join(chr(0xE0000 + ord(letter)) for letter in "unseen") + " 🏴\U000e0067\U000e007f \U000e0101",
    "soft\u00adhyphen g\u034fj \u180e \u3164 \u115f\u1160\uffa0 \ufff9note\ufffa\ufffb",
    "long" * 2000,
    "nul \u0000 bell \u0007 escape \u001b[31m c1 \u009b0m",
    "]]><![CDATA[ &lt;b&gt; &#60;i&#62; &amp;amp;",
    '<style>*{display:none}</style><meta http-equiv="refresh" content="0;url=http://127.0.0.1:9/">',
    f"<form action=http://127.0.0.1:9/><input autofocus onfocus='{PWN}'></form>",
    "z\u0361\u0489a\u0336l\u0337g\u0338o\u0334 \ufffd \uffff \U0010ffff",
    '<base href="http://127.0.0.1:9/"><link rel=stylesheet href="//127.0.0.1:9/x.css"><object data=x></object>',
    "\\u003cscript\\u003e \\x3c `${alert(1)}` ' \" '); alert(1); //",
]
EVIL_SOURCE = "evil \u202egnp\u202c \u200b\U000e0041 source"
LOOKLESS = "\u034f\u115f\u1160\u3164\uffa0\U000e0101"  # letters and marks, as Unicode has it


def named(text: str) -> str:
    """Characters that have no look of their own, by their codes; joiners, which shape letters and emoji, stay."""
    return "".join(
        f"\u2039U+{ord(c):04X}\u203a"
        if c in LOOKLESS or (c not in "\t\n\u200c\u200d" and unicodedata.category(c) in ("Cc", "Cf", "Zl", "Zp"))
        else c
        for c in text
    )


def test_hostile_rows_are_text_and_nothing_else(browser: Any, tmp_path: Path) -> None:
    rows = [
        {"answer": text, "prompt": text, "source": text if i < 7 else EVIL_SOURCE, "unsafe_spans": [(0, 3)]}
        for i, text in enumerate(HOSTILE)
    ]
    assert len(rows) >= 20
    run = made_run(tmp_path / "<img src=x onerror=window.pwned=1>", rows)
    watched = opened(browser, run)
    page = watched.page
    page.check("#uncover")
    page.select_option("#order", value="file")
    page.focus("#list")
    page.keyboard.press("Home")
    for text in HOSTILE:
        assert (
            page.evaluate("[...document.querySelectorAll('#row .text')].map(e => e.textContent)") == [named(text)] * 2
        )
        kinds = set(page.evaluate("[...document.querySelectorAll('#row *, #list *')].map(e => e.localName)"))
        assert kinds <= {"bdi", "dd", "div", "dl", "dt", "h3", "h4", "i", "p", "rect", "line", "span", "svg"}
        page.keyboard.press("ArrowDown")
    assert (
        page.evaluate("document.querySelectorAll('iframe, object, base, link, img, form:not(#filters)').length") == 0
    )
    assert page.evaluate("document.querySelectorAll('script').length") <= 2
    assert page.evaluate("document.documentElement.scrollWidth") <= 1200
    sources = page.evaluate("[...document.querySelectorAll('#sources th bdi')].map(e => e.textContent)")
    assert sources[0] == named(EVIL_SOURCE), "the largest"
    assert page.get_by_role("heading", name=named(EVIL_SOURCE)).first.is_visible()
    assert EVIL_SOURCE not in page.content()
    page.wait_for_timeout(200)
    assert page.evaluate("window.pwned") is None
    assert watched.faults == []
    watched.close()


def test_a_script_that_is_not_the_reports_own_does_not_run(browser: Any, run: tosslm.Run) -> None:
    """Even where escaping failed: the policy stands behind it."""
    path = run.path / "report.html"
    write_report(run, path)
    broken = run.path / "broken.html"
    text = path.read_text(encoding="utf-8")
    broken.write_text(
        text.replace("<main>", f"<main><script>{PWN}</script><p onclick='{PWN}' id=p>x</p>"), encoding="utf-8"
    )
    watched = Watched(browser, broken.resolve().as_uri())
    watched.page.click("#p")
    assert watched.page.evaluate("window.pwned") is None
    assert any("Content Security Policy" in fault for fault in watched.faults)
    watched.close()


@pytest.mark.long
def test_a_whole_run_ends_with_a_report_that_opens(browser: Any, tiny_config: dict[str, Any]) -> None:
    run = tosslm.run(tiny_config)
    watched = Watched(browser, (run.path / "report.html").resolve().as_uri())
    page = watched.page
    for heading in ("Shift toward harm, harmful rows", "Masking the first tokens instead", "Where in an answer"):
        assert page.get_by_role("heading", name=heading).is_visible()
    assert page.locator("#training svg.chart").count() == 4
    assert run.config.model.name in page.inner_text("header")
    assert watched.faults == []
    watched.close()
