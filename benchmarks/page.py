"""The page of performance, written from what the benchmarks measured.

    python -m benchmarks.page

A benchmark has a part in it by a file in ``benchmarks/results`` and a function ``section`` that makes text of it;
scoring, measured by two, has ``scoring_page``.
"""

from __future__ import annotations

import argparse
import json
from importlib import import_module
from pathlib import Path

from benchmarks import scoring_page
from benchmarks.measuring import RESULTS

from tosslm.files import write_text

PAGE = Path(__file__).parents[1] / "docs/performance.md"
ORDER = ("head", "cost", "anchor", "select_stage", "tuples", "selection", "evidence", "memory", "report")
_HEAD = """# Performance

Time and memory, each measured by a script of `benchmarks/` that anyone can run again: `make bench` runs all of them, goes on where it was killed, and writes this page from `benchmarks/results/`. Figures are medians, with the lowest and the highest beside them; a section that measured once says so. A bar is what this project has set itself; where one is not met, it says so.
"""  # noqa: E501
_TAIL = """## What is not constant in the number of rows

- **The report, and the page of `toss review`,** hold some tens of bytes for each row while they are made, to choose the rows that they show among all, and no token; the table has how many. Tokens lie in files without a name in the run folder meanwhile, 13 bytes each and 4 for each further ranking. The file itself stays below 25 MB. Of more than 200,000 marked tokens, the curve against marks rests on the upper 18 bits of each score.
- **Methods that choose tokens by themselves** (`random`, `first-k`, `rows`, `degraded-only` and the others that `toss compare` knows) are handed the whole set in one piece, its texts too; the benchmark measures two of them. TOSS, TOSS-Pro and evidence in context are not.
- **Reference sets** take an id a row, and their held-out rows are held whole; TOSS-Pro's rounds hold the ids of the rows that join.
- **Decisions by hand** are held, a byte for each token of the rows that they name.
- **Python's `Run.scores()`, `Run.keep()`, `Run.evidence()`, `Run.rows` and `masked_dataset`** load what they return; `Run.iter_scores()` and `Run.iter_evidence()` do not.
- **Parquet files that are written** keep what they know of each group of rows until they are closed, some tens of bytes a row in an export. Packs for Megatron-Bridge, each as long as many rows, are written 64 at a time.
- **`selection.scope: row`** streams, but asks NumPy row by row, so it is slow on many short rows.
"""  # noqa: E501


def page(results: Path = RESULTS) -> str:
    """The page's text, of the files of results that there are."""
    parts = [_HEAD, *([text] if (text := scoring_page.section(results)) else [])]
    for name in ORDER:
        file = results / f"{name}.json"
        if file.exists():
            section = import_module(f"benchmarks.{name}").section
            parts.append(section(json.loads(file.read_text(encoding="utf-8"))) + "\n")
    return "\n".join([*parts, _TAIL])


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    write_text(PAGE, page())
