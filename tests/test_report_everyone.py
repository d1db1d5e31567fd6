"""The report for everyone: on phones and paper, by keyboard, to screen readers, in either scheme, without scripts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tosslm
from support.browser import opened
from support.made_run import LINE, answers, made_run, with_own_choice
from support.made_sections import add_sections
from tosslm.report.page import write_report


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> tosslm.Run:
    """A run with every section; selection went by the token score, and a posterior can be looked at."""
    return add_sections(made_run(tmp_path_factory.mktemp("full"), answers(30), telling=True))


@pytest.fixture(scope="module")
def long(tmp_path_factory: pytest.TempPathFactory) -> tosslm.Run:
    words = np.random.default_rng(0).choice(LINE.split(), size=3000)
    return made_run(tmp_path_factory.mktemp("long"), [{"answer": " ".join(words)}], telling=True)


def violations(page: Any) -> list[Any]:
    """What axe finds that keeps somebody out, with all details open and all text uncovered."""
    import axe_playwright_python  # type: ignore[import-untyped]

    page.check("#uncover")
    page.evaluate("document.querySelectorAll('details').forEach((details) => { details.open = true; })")
    page.evaluate((Path(axe_playwright_python.__file__).parent / "axe.min.js").read_text(encoding="utf-8"))
    results = page.evaluate("axe.run()")
    checked = {rule["id"] for rule in results["passes"]}
    assert {"color-contrast", "label", "aria-required-children", "heading-order"} <= checked
    return [
        (v["id"], [node["html"][:120] for node in v["nodes"]])
        for v in results["violations"]
        if v["impact"] in ("serious", "critical") or v["id"] == "heading-order"
    ]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1200])
def test_axe_finds_no_serious_violation(browser: Any, full: tosslm.Run, scheme: str, width: int) -> None:
    # The page's own policy would keep axe's style probes out.
    page = opened(browser, full, color_scheme=scheme, bypass_csp=True)
    page.page.set_viewport_size({"width": width, "height": 800})
    for heading in ("Before you trust this run", "Dropped tokens by class", "TOSS-Pro, round by round"):
        assert page.page.get_by_role("heading", name=heading).is_visible()
    for section in ("#diagnosis", "#compare", "#training"):
        assert page.page.locator(f"{section} svg.chart").count() > 0
    assert violations(page.page) == []
    page.close()


@pytest.mark.parametrize("scored", [True, False])
def test_a_method_of_its_own_keeps_nobody_out(browser: Any, tmp_path: Path, scored: bool) -> None:
    run = made_run(tmp_path / "run", answers(9))
    keep = [np.arange(len(row)) > 2 for row in run.scores()]
    page = opened(browser, with_own_choice(run, "first-k", keep, scored=scored), bypass_csp=True)
    for width in (1200, 390):
        page.page.set_viewport_size({"width": width, "height": 800})
        assert page.page.evaluate("document.documentElement.scrollWidth") <= width
    assert violations(page.page) == []
    page.close()
    assert page.faults == []


def test_nothing_sticks_out_on_a_phone(browser: Any, full: tosslm.Run) -> None:
    page = opened(browser, full, has_touch=True)
    page.page.set_viewport_size({"width": 390, "height": 800})
    assert page.page.evaluate("document.documentElement.scrollWidth") <= 390
    page.page.check("#uncover")
    page.page.tap("#row .t >> nth=1")
    assert "utility loss" in page.page.inner_text("#row .look")
    page.close()
    assert page.faults == []


def test_a_token_far_down_is_described_where_it_is_tapped(browser: Any, long: tosslm.Run) -> None:
    watched = opened(browser, long, has_touch=True)
    page: Any = watched.page
    page.set_viewport_size({"width": 390, "height": 800})
    page.check("#uncover")
    for _ in range(20):  # blocks above it grow as they come into view, and push it down again
        page.evaluate("document.querySelectorAll('#row .block')[5].scrollIntoView({ behavior: 'instant' })")
        page.wait_for_timeout(50)
    page.locator("#row .block:nth-child(6) .t").nth(120).tap()
    look = page.locator("#row .look").bounding_box()
    assert look["y"] >= page.locator("nav").bounding_box()["height"] - 1
    assert look["y"] + look["height"] < 400
    assert "utility loss" in page.inner_text("#row .look")
    watched.close()
    assert watched.faults == []


@pytest.mark.parametrize("size", [(390, 800), (1200, 900)])
def test_a_token_that_the_keyboard_reaches_is_not_hidden(
    browser: Any, long: tosslm.Run, size: tuple[int, int]
) -> None:
    watched = opened(browser, long, reduced_motion="reduce")
    page: Any = watched.page
    page.set_viewport_size({"width": size[0], "height": size[1]})
    page.check("#uncover")
    page.hover("#row .t >> nth=600")
    page.mouse.move(0, 0)  # what scrolls under the pointer is pointed at
    page.focus("#row .text:has(.t)")
    page.evaluate("document.querySelector('.t.now').scrollIntoView({ block: 'start' })")
    for _ in range(60):
        page.keyboard.press("ArrowLeft")
        token, look = (page.locator(f"#row {name}").bounding_box() for name in (".t.now", ".look"))
        assert token["y"] >= look["y"] + look["height"]
        assert token["y"] + token["height"] <= size[1]
    watched.close()
    assert watched.faults == []


def test_paper_has_what_the_screen_folds_away(browser: Any, full: tosslm.Run) -> None:
    watched = opened(browser, full, color_scheme="dark")
    page = watched.page
    page.emulate_media(media="print", color_scheme="dark")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.locator("#made details:not([open])").count() == 0
    assert page.locator("#made summary").first.is_visible()
    assert "discard_fraction" in page.inner_text("#made pre")
    assert not page.is_visible("#row .look")
    assert not page.is_visible("#row .cover")
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert page.locator("#made details[open]").count() == 0
    watched.close()
    assert watched.faults == []


def test_without_scripts_nothing_is_promised(browser: Any, full: tosslm.Run) -> None:
    path = full.path.resolve() / "report.html"
    write_report(full, path)
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(path.as_uri())
    assert not page.is_visible("#loading")
    assert "scripts are off" in page.inner_text("#rows")
    context.close()
