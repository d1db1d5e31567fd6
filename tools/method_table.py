"""Write into ``docs/faithful.md`` what each method is, where it is from, and how it differs: from the registry.

Run it with ``python -m tools.method_table`` after a change of a method; a test fails while the page says otherwise.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path

from tosslm.methods import registry
from tosslm.methods.method import Badge, Method

PAGE = Path(__file__).parents[1] / "docs" / "faithful.md"
BEGIN, END = "<!-- methods -->\n", "<!-- end of the methods -->\n"
MEANING: dict[Badge, str] = {
    "faithful": "To the letter, as far as paper and code say, but for what is named.",
    "variant": "The same idea, with differences that are named.",
    "simplified": "A part of it.",
    "own": "Of this project.",
    "control": "Nobody's method: what a method has to be better than.",
}


def tables(methods: Iterable[Method]) -> str:
    """A section for each badge, with a table of its methods."""
    by_badge: dict[Badge, list[Method]] = {badge: [] for badge in MEANING}
    for method in methods:
        by_badge[method.badge].append(method)
    return "\n".join(_section(badge, found) for badge, found in by_badge.items() if found)


def _section(badge: Badge, methods: Iterable[Method]) -> str:
    rows = (f"| `{m.name}` | {_cell(m.source)} | {_cell(m.differs)} |\n" for m in methods)
    head = f"## {badge.capitalize()}\n\n{MEANING[badge]}\n\n| method | source | differs |\n|---|---|---|\n"
    return head + "".join(rows)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def written(page: str, found: str) -> str:
    """The page with these tables in place of those that it had."""
    head, _, rest = page.partition(BEGIN)
    return f"{head}{BEGIN}\n{found}\n{END}{rest.partition(END)[2]}"


def main() -> None:
    """Write the page anew."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    page = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(written(page, tables(registry().values())), encoding="utf-8")


if __name__ == "__main__":
    main()
