"""The pictures of the demo's report in README and docs: light, dark, and on a phone.

    make demo && .venv/bin/python tools/screenshots.py runs/demo docs

Needs Chromium (``make browser``).
"""

from __future__ import annotations

import argparse
import io
import sys
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import Browser, Page

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from support.browser import find_chromium, headless

ROW = "8a4914a40e594020"
"""A row of the demo that mixes useful and marked text."""
_GAP = 18


def main() -> None:
    """Take the three pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="run folder of the demo")
    parser.add_argument("out", type=Path, help="where the pictures go")
    arguments = parser.parse_args()
    url = (arguments.run / "report.html").resolve().as_uri()
    if not (chromium := find_chromium()):
        raise SystemExit("no Chromium found; `make browser` installs one, or name it in CHROMIUM")
    with headless(chromium) as browser:
        light = _open(browser, url, 1180, 1240)
        light.screenshot(path=arguments.out / "report-light.png")
        dark = _open(browser, url, 1180, 850, color_scheme="dark")
        _look(dark)
        dark.screenshot(path=arguments.out / "report-dark.png")
        phone = {"device_scale_factor": 1.5, "is_mobile": True, "has_touch": True}
        first, second = (_open(browser, url, 390, 850, **phone) for _ in range(2))
        _look(second)
        _beside(first.screenshot(), second.screenshot()).save(arguments.out / "report-phone.png")


def _open(browser: Browser, url: str, width: int, height: int, **context: Any) -> Page:
    page = browser.new_context(viewport={"width": width, "height": height}, **context).new_page()
    page.goto(url)
    page.wait_for_selector("#explorer:not([hidden])")
    return page


def _look(page: Page) -> None:
    """Open the row and point at the riskiest of its dropped tokens."""
    page.get_by_label("show covered text").check()
    page.get_by_label("Search").fill(ROW)
    page.click("#list .item")
    page.get_by_label("Search").fill("")
    page.locator("#row .t", has_text="Buy").first.click()
    page.evaluate("document.querySelector('#rows').scrollIntoView({behavior: 'instant'})")
    if page.viewport_size and page.viewport_size["width"] < 860:
        page.evaluate("document.querySelector('#row').scrollIntoView({behavior: 'instant'})")
    page.wait_for_timeout(300)


def _beside(*pictures: bytes) -> Image.Image:
    parts = [Image.open(io.BytesIO(picture)) for picture in pictures]
    whole = Image.new("RGB", (sum(p.width for p in parts) + _GAP, max(p.height for p in parts)), "#8d96a0")
    left = 0
    for part in parts:
        whole.paste(part, (left, 0))
        left += part.width + _GAP
    return whole


if __name__ == "__main__":
    main()
