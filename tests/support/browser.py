"""Headless Chromium for tests and benchmarks of the report."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import tosslm
from tosslm.report.page import write_report

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Dialog

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
QUIET = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
)
NEEDED = "TOSSLM_NEED_BROWSER"


def find_chromium() -> str | None:
    """The path of an installed Chromium, or the one that ``CHROMIUM`` names."""
    return os.environ.get("CHROMIUM") or next((path for name in NAMES if (path := shutil.which(name))), None)


@contextmanager
def headless(executable: str) -> Iterator[Browser]:
    """A browser that talks to nobody."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=QUIET.split())
        try:
            yield browser
        finally:
            browser.close()


class Watched:
    """A page, and everything that it should never do.

    Attributes:
        page: the page.
        faults: console errors, failed scripts, dialogs, and requests for anything but the file itself.
    """

    def __init__(self, browser: Browser, url: str, **context: Any) -> None:
        self.page = browser.new_context(viewport={"width": 1200, "height": 900}, **context).new_page()
        self.faults: list[str] = []
        self.page.on("console", lambda message: self._console(message.type, message.text))
        self.page.on("pageerror", lambda error: self.faults.append(f"script: {error}"))
        self.page.on("dialog", self._dialog)
        self.page.on("request", lambda request: self._request(request.url, url))
        self.page.on("popup", lambda _: self.faults.append("popup"))
        self.page.goto(url)
        self.page.wait_for_selector("#explorer:not([hidden])")

    def _console(self, kind: str, text: str) -> None:
        if kind in ("error", "warning"):
            self.faults.append(f"console: {text}")

    def _dialog(self, dialog: Dialog) -> None:
        self.faults.append("dialog")
        dialog.dismiss()

    def _request(self, asked: str, url: str) -> None:
        if asked.partition("#")[0] != url:
            self.faults.append(f"request: {asked}")

    def close(self) -> None:
        """Close the page and what belongs to it."""
        self.page.context.close()


def opened(browser: Any, run: tosslm.Run, **context: Any) -> Watched:
    """A run's report, written and open."""
    path = run.path.resolve() / "report.html"
    write_report(run, path)
    return Watched(browser, path.as_uri(), **context)
