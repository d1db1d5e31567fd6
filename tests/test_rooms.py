"""Which room of the house may import which: docs/architecture.md says it in a table, and this proves the table."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "tosslm"
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
FILES = sorted(SOURCE.rglob("*.py"))
MODULES = {path: ".".join(("tosslm", *path.relative_to(SOURCE).with_suffix("").parts)) for path in FILES}
GROUND = {
    "errors",
    "files",
    "progress",
    "tracking",
    "misplaced",
    "ragged",
    "characters",
    "carrying",
    "mass",
    "measures",
    "statistics",
    "text",
    "outward",
    "stopping",
    "exits",
    "launcher",
    "team",
    "remote",
    "quiet",
}
HEAVY = {"torch", "transformers", "trl", "peft", "accelerate", "lm_eval"}


def imported(tree: ast.AST, *, at_once: bool = False) -> Iterator[str]:
    """Full names of what a module imports: everywhere, or only what loads along with it."""
    for node in ast.iter_child_nodes(tree):
        later = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        later |= isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide which room is meant"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif not (at_once and later):
            yield from imported(node, at_once=at_once)


def room(name: str) -> str:
    """The room of a module of ours: its folder, or its file where it stands by itself."""
    parts = name.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


@cache
def reach(path: Path) -> set[tuple[str, bool]]:
    """Rooms of ours, and packages of others (the second is True for those), that a file imports anywhere."""
    found = set()
    for name in imported(ast.parse(path.read_text(encoding="utf-8"))):
        top = name.split(".")[0]
        found.add((room(name), False) if top == "tosslm" else (top, True))
    return found


def rooms_of(files: list[Path]) -> set[str]:
    own = {room(MODULES[path]) for path in files}
    return {name for path in files for name, foreign in reach(path) if not foreign} - own


def within(name: str) -> list[Path]:
    return [path for path in FILES if room(MODULES[path]) == name]


def importers(target: str) -> set[str]:
    return {room(MODULES[path]) for path in FILES if (target, False) in reach(path)} - {target}


def table(heading: str) -> list[list[str]]:
    """The cells of the rows of the table under a heading of the page, without backquotes and slashes."""
    section = PAGE.split(f"## {heading}\n", 1)[1].split("\n## ", 1)[0]
    lines = [line for line in section.splitlines() if line.startswith("| ")][1:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def named(cell: str) -> set[str]:
    return {name.rstrip("/").removesuffix(".py") for name in re.findall(r"`([^`]+)`", cell)}


MAY = {name: named(cells[1]) for cells in table("What may import what") for name in named(cells[0])}


@pytest.mark.parametrize("name", sorted({room(module) for module in MODULES.values()} - GROUND))
def test_a_room_imports_what_the_page_allows_it(name: str) -> None:
    if name in ("__init__", "__main__", "cli", "commands"):  # ways in: they open every room, on first use
        return
    assert name in MAY, f"{name}: docs/architecture.md, What may import what, has no line for it"
    assert rooms_of(within(name)) - GROUND <= MAY[name]


def test_rooms_stand_on_what_is_above_them() -> None:
    """So no two of them need each other."""
    order = list(MAY)
    for number, name in enumerate(order):
        assert MAY[name] <= set(order[:number])


def test_the_ground_stands_on_nothing() -> None:
    assert all(rooms_of(within(name)) <= GROUND for name in GROUND)


def test_selection_is_arrays_and_nothing_else() -> None:
    foreign = {name for path in within("selection") for name, outside in reach(path) if outside}
    assert foreign <= {"numpy", "sklearn", *sys.stdlib_module_names}
    assert not rooms_of(within("selection"))


def loaded_with(files: list[Path]) -> tuple[set[str], set[str]]:
    """Packages of others, and rooms of ours, that load along with some files, whatever these import in turn."""
    seen, left = set(), list(files)
    foreign: set[str] = set()
    by_name = {module: path for path, module in MODULES.items()}
    while left:
        path = left.pop()
        if path in seen:
            continue
        seen.add(path)
        for full in imported(ast.parse(path.read_text(encoding="utf-8")), at_once=True):
            parts = full.split(".")
            if parts[0] != "tosslm":
                foreign.add(parts[0])
            for depth in range(1, len(parts) + 1):
                prefix = ".".join(parts[:depth])
                left += [by_name[one] for one in (prefix, f"{prefix}.__init__") if one in by_name]
    return foreign, {room(MODULES[path]) for path in seen}


@pytest.mark.parametrize("name", ["runs", "findings", "terminal", "report", "selection"])
def test_the_reading_wing_loads_no_training_library(name: str) -> None:
    """tests/test_light.py sees it happen."""
    foreign, rooms = loaded_with(within(name))
    assert not foreign & HEAVY
    assert not rooms & {"stages", "methods", "model", "training", "pipeline"}


@pytest.mark.parametrize("name", ["stages", "methods", "pipeline", "cli", "commands"])
def test_what_the_command_line_asks_loads_no_training_library(name: str) -> None:
    foreign, _ = loaded_with(within(name))
    assert not foreign & HEAVY


def test_who_knows_the_workbench_and_who_the_pipeline() -> None:
    assert importers("workbench") <= {"stages", "methods", "pipeline"}
    assert importers("pipeline") <= {"__init__", "commands", "compare", "shares"}
    assert importers("cli") == {"__main__"}
    assert importers("commands") == {"cli"}


def test_the_page_names_every_module_and_no_other() -> None:
    """A new module gets a line in the table of its folder."""
    section = PAGE.split("## The house\n", 1)[1].split("\n## What may import what", 1)[0]
    said = set(re.findall(r"^\| `([\w/]+\.py)`", section, flags=re.MULTILINE))
    there = {path.relative_to(SOURCE).as_posix() for path in FILES if path.name != "__init__.py"}
    assert said - {"__init__.py", "methods/__init__.py", "stages/__init__.py"} == there


WALKED = re.findall(r"`([\w/]+\.py)`: `([\w.]+)`", PAGE)


@pytest.mark.parametrize(("file", "name"), WALKED, ids=[f"{file}:{name}" for file, name in WALKED])
def test_the_walks_of_the_page_lead_through_functions_that_are_there(file: str, name: str) -> None:
    body = ast.parse((SOURCE / file).read_text(encoding="utf-8")).body
    for part in name.split("."):
        found = [node for node in body if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name == part]
        assert found, f"{file} has no {name}"
        body = found[0].body


def test_every_program_reads_its_arguments() -> None:
    """One that does not would take ``--help`` for "go", and an option for nothing."""
    programs = [
        file
        for folder in ("studies", "benchmarks", "tools", "examples")
        for file in (ROOT / folder).rglob("*.py")
        if 'if __name__ == "__main__":' in (text := file.read_text(encoding="utf-8"))
        and not any(name in text for name in ("parse_args()", "parser_of(", "sys.argv"))
    ]
    assert programs == []
