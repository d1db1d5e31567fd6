"""How quick the report is in a browser: 10,000 rows that are scrolled and filtered, one row of 10,000 tokens.

    python benchmarks/report.py [--rows 10000] [--tokens 10000] [--check]

Each step is timed in the page from the event to the second frame after it, that is until the reader sees what it
changed; the first of those frames may already be under way. The median and the slowest of several steps are shown.
``--check`` fails when a median is over 100 ms.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

sys.path.append(str(Path(__file__).parents[1] / "tests"))

from support.browser import Watched, find_chromium, headless
from support.made_run import made_run
from tosslm.report.page import write_report

BOUND_MS = 100
WORDS = np.array([f"word{i}" for i in range(3000)])

# A step, and then two frames: the time until what it changed is on the screen.
TIMED = """async (step) => {
  const frame = () => new Promise(requestAnimationFrame), act = new Function(step), times = [];
  for (let i = 0; i < 12; i++) {
    await frame();
    const start = performance.now();
    act.call({ i });
    await frame();
    await frame();
    times.push(performance.now() - start);
  }
  return times.slice(2);
}"""
EVENT = "const e = document.getElementById('{id}'); e.{value}; e.dispatchEvent(new Event('input'));"
STEPS = {
    "list: scroll by a page": "document.getElementById('list').scrollTop = 500 * (this.i + 1);",
    "list: scroll to a far row": "document.getElementById('list').scrollTop = 60000 * (this.i + 1);",
    "list: search for a word": EVENT.format(id="search", value="value = 'word' + (7 * this.i + 10)"),
    "list: search for nothing": EVENT.format(id="search", value="value = ''"),
    "list: filter by source": EVENT.format(id="source", value="value = this.i % 4"),
    "list: filter by score": EVENT.format(id="least", value="value = 2 + this.i / 10"),
    "list: another order": EVENT.format(id="order", value="selectedIndex = this.i % 4"),
    "list: open the next row": "document.querySelectorAll('#list .item')[this.i % 8].click();",
    "slider: one step": EVENT.format(id="d", value="value = this.i * 3 + 10"),
}
LONG_STEPS = {
    "long row: open it": "document.querySelectorAll('#list .item')[this.i % 2].click();",
    "long row: scroll by a page": "document.getElementById('row').scrollTop += 500;",
    "long row: scroll far": "document.getElementById('row').scrollTop = 4000 * (this.i % 6);",
    "long row: slider, one step": EVENT.format(id="d", value="value = this.i * 3 + 10"),
    "long row: look at a token": "document.querySelectorAll('#row .t')[this.i * 20].click();",
}


def many_rows(count: int) -> list[dict[str, Any]]:
    rng = np.random.default_rng(0)
    return [
        {"answer": " ".join(rng.choice(WORDS, size=rng.integers(40, 120))), "source": f"source {i % 4}"}
        for i in range(count)
    ]


def long_rows(tokens: int) -> list[dict[str, Any]]:
    rng = np.random.default_rng(1)
    return [{"answer": " ".join(rng.choice(WORDS, size=tokens)), "unsafe_spans": [(0, 50)]} for _ in range(2)]


def measure(browser: Any, folder: Path, rows: list[dict[str, Any]], steps: dict[str, str]) -> dict[str, list[float]]:
    """Milliseconds of each step; also prints how large the report is and how long it takes to make and to open."""
    run = made_run(folder, rows)
    start = time.monotonic()
    facts = write_report(run, folder / "report.html")
    made = time.monotonic() - start
    start = time.monotonic()
    watched = Watched(browser, (folder / "report.html").resolve().as_uri())
    opened = time.monotonic() - start
    print(
        f"{facts['rows_shown']:,} of {facts['rows']:,} rows in the file, {facts['bytes'] / 2**20:.1f} MB; made in "
        f"{made:.1f} s, ready {opened:.1f} s after it was opened"
    )
    watched.page.check("#uncover")
    results = {name: watched.page.evaluate(TIMED, step) for name, step in steps.items()}
    if watched.faults:
        raise SystemExit(f"faults: {watched.faults}")
    watched.close()
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--tokens", type=int, default=10_000)
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    executable = find_chromium()
    if executable is None:
        raise SystemExit("no Chromium here; `make browser` installs it")
    with headless(executable) as browser, tempfile.TemporaryDirectory() as folder:
        results = measure(browser, Path(folder) / "many", many_rows(options.rows), STEPS)
        results |= measure(browser, Path(folder) / "long", long_rows(options.tokens), LONG_STEPS)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("step", "median ms", "slowest ms"):
        table.add_column(column, justify="left" if column == "step" else "right")
    for name, times in results.items():
        table.add_row(name, f"{statistics.median(times):.0f}", f"{max(times):.0f}")
    Console().print(table)
    slow = [name for name, times in results.items() if statistics.median(times) > BOUND_MS]
    if options.check and slow:
        raise SystemExit(f"over {BOUND_MS} ms: {', '.join(slow)}")


if __name__ == "__main__":
    main()
