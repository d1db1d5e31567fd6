"""Draw one row of a run as an SVG, exactly as `toss show` prints it.

python examples/demo/picture.py runs/demo docs/heatmap.svg [ROW_ID]
"""

from __future__ import annotations

import io
import sys
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import MONOKAI

import tosslm
from tosslm.files import write_text
from tosslm.findings.rows import row_record
from tosslm.terminal.rows import render_row


def most_telling(run: tosslm.Run) -> str:
    """The row with a marked sentence in a useful answer of which selection dropped the most marked tokens."""
    best, best_row = -1.0, ""
    for row, keep in zip(run.rows, run.keep(), strict=True):
        if row["source"] == "mixed":
            record = row_record(run, row["row_id"])
            marked = [token["marked_unsafe"] for token in record["tokens"]]
            right = sum(m and not k for m, k in zip(marked, keep, strict=True)) / sum(marked)
            wrong = sum(not m and not k for m, k in zip(marked, keep, strict=True)) / (len(marked) - sum(marked))
            if right - wrong > best:
                best, best_row = right - wrong, row["row_id"]
    return best_row


def main() -> None:
    run = tosslm.load_run(sys.argv[1])
    row_id = sys.argv[3] if len(sys.argv) > 3 else most_telling(run)
    console = Console(
        record=True,
        width=92,
        force_terminal=True,
        color_system="truecolor",
        file=io.StringIO(),
        _environ={"TERM": "xterm-256color"},
    )
    threshold = run.stages["selection"]["threshold"]
    console.print(render_row(row_record(run, row_id), threshold, console))
    write_text(Path(sys.argv[2]), console.export_svg(title=f"toss show {sys.argv[1]} {row_id}", theme=MONOKAI))
    print(f"{row_id} -> {sys.argv[2]}")


if __name__ == "__main__":
    main()
