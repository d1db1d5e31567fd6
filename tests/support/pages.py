"""The fenced blocks of the pages, and the commands in them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
RUN_HERE = ("toss", "python")
"""Programs whose commands are run as the page has them; others install, edit or build something."""
_BLOCK = re.compile(
    r"(?:^[ ]*<!-- (?:not run|run by make (?P<target>\w+)): (?P<mark>.*?) -->\n+)?"
    r"^(?P<pad>[ ]*)```(?P<language>\w*)\n(?P<code>.*?)^(?P=pad)```$",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block.

    Attributes:
        page: its path from the root.
        line: that it begins at.
        language: as the fence says; empty for a formula or a drawing.
        code: what stands between the fences.
        mark: why not all of it is run in the tests, if so.
        target: what runs it then: `make TARGET`; None where nothing does.
    """

    page: str
    line: int
    language: str
    code: str
    mark: str | None
    target: str | None

    @property
    def commands(self) -> list[list[str]]:
        """The commands of a block of bash, each split into words, comments left out."""
        lines = self.code.replace("\\\n", " ").replace("&&", "\n").splitlines()
        split = [[word for word in shlex.split(line, comments=True) if word != "&"] for line in lines]
        return [words for words in split if words]

    @property
    def to_run(self) -> list[list[str]]:
        """The commands of a block of bash that are run; none where a mark can mean nothing else."""
        ours = [words for words in self.commands if words[0] in RUN_HERE]
        return [] if self.mark is not None and len(ours) == len(self.commands) else ours

    @property
    def not_run(self) -> list[str]:
        """What of a block the tests do not run: commands of other programs, or the whole where it says so."""
        if self.language == "bash":
            return [" ".join(words) for words in self.commands if words not in self.to_run]
        return [self.code.splitlines()[0]] if self.mark is not None else []


def pages() -> list[str]:
    """All pages, by their path from the root."""
    found = [
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
        ROOT / "recipes/README.md",
        *sorted((ROOT / "docs").rglob("*.md")),
    ]
    return [str(path.relative_to(ROOT)) for path in found]


def blocks(page: str) -> list[Block]:
    """The fenced blocks of a page."""
    return list(_blocks(page, (ROOT / page).read_text(encoding="utf-8")))


def _blocks(page: str, text: str) -> Iterator[Block]:
    for match in _BLOCK.finditer(text):
        pad = len(match["pad"])
        code = "".join(line[pad:] if line.strip() else "\n" for line in match["code"].splitlines(keepends=True))
        line = text.count("\n", 0, match.start()) + 1
        yield Block(page, line, match["language"], code, match["mark"], match["target"])
