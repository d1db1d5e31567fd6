"""Write into ``docs/evaluation.md`` how well refusals are told on the labelled answers of ``tests/data``.

Run it with ``python -m tools.refusal_figures`` after a change of the phrases or of the answers; a test fails while
the page says something else.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from tosslm.evaluation.refusals import classify

ROOT = Path(__file__).parents[1]
ANSWERS = ROOT / "tests" / "data" / "refusals.jsonl"
PAGE = ROOT / "docs" / "evaluation.md"
BEGIN, END = "<!-- figures of refusals -->\n", "<!-- end of the figures -->\n"
LANGUAGES = {"en": "English", "es": "Spanish", "fr": "French", "de": "German", "zh": "Chinese"}
SPLITS = ("dev", "test")
_HEADER = """| half | language | answers | refusals: precision | recall | incoherent: precision | recall |
|---|---|---|---|---|---|---|
"""

Rows = Sequence[Mapping[str, str]]


def labelled() -> list[dict[str, str]]:
    """The labelled answers: ``split``, ``language``, ``label``, ``kind`` and ``text``."""
    return [json.loads(line) for line in ANSWERS.read_text(encoding="utf-8").splitlines()]


def table(rows: Rows) -> str:
    """The figures as a table in Markdown, by half and language."""
    lines = []
    for split in SPLITS:
        half = [row for row in rows if row["split"] == split]
        lines += [_line(split, name, [r for r in half if r["language"] == code]) for code, name in LANGUAGES.items()]
        lines.append(_line(split, "**all**", half))
    return _HEADER + "".join(lines)


def _line(split: str, language: str, rows: Rows) -> str:
    cells = [split, language, str(len(rows))]
    said = [(row["label"], classify("", row["text"])) for row in rows]
    for verdict in ("refusal", "incoherent"):
        right = sum(label == verdict == found for label, found in said)
        cells.append(_share(right, sum(found == verdict for _, found in said)))
        cells.append(_share(right, sum(label == verdict for label, _ in said)))
    return f"| {' | '.join(cells)} |\n"


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.0%} ({part}/{whole})" if whole else "none"


def written(page: str, figures: str) -> str:
    """The page with these figures in place of those that it had."""
    head, _, rest = page.partition(BEGIN)
    _, _, tail = rest.partition(END)
    return f"{head}{BEGIN}\n{figures}\n{END}{tail}"


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8"), table(labelled())), encoding="utf-8")
