"""A page that is made of measurements on this machine is written anew only if it loses nothing."""

from __future__ import annotations

from pathlib import Path

from tosslm.files import write_text


def lines_of(text: str) -> list[tuple[str, str]]:
    r"""Headings of a Markdown page and first cells of its tables, each with the heading that it stands under.

    Examples:
        >>> lines_of("# Fruit\n\n| kind | price |\n|---|---|\n| pear | 2 |\n")
        [('# Fruit', ''), ('# Fruit', 'kind'), ('# Fruit', 'pear')]
    """
    found, under = [], ""
    for line in text.splitlines():
        if line.startswith("#"):
            under = line.strip()
            found.append((under, ""))
        elif line.startswith("| ") or line.startswith("|---"):
            cell = line.split("|")[1].strip()
            found += [(under, cell)] if cell.strip("-") else []
    return found


def write_whole(page: Path, text: str) -> None:
    """Write a page.

    Args:
        page: the file.
        text: what it is to hold.

    Raises:
        SystemExit: a section or a line of a table that the page has would be gone, as where results of it were
            measured on another machine and are not on this one.
    """
    there = set(lines_of(text))
    old = lines_of(page.read_text(encoding="utf-8")) if page.exists() else []
    lost = [" ".join(filter(None, line)) for line in old if line not in there]
    if lost:
        more = f" and {len(lost) - 5} more" if len(lost) > 5 else ""
        raise SystemExit(
            f"{page}: nothing was written, since this would be lost: {'; '.join(lost[:5])}{more}. Measure it here "
            "first, or delete the page where it is to go"
        )
    write_text(page, text)
