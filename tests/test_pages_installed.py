"""Blocks that install, each by bash as it stands, in a fresh clone and fresh environments (`make installs`)."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import tosslm
from support.fresh_clone import cloned
from support.page_shell import bash, beginning, marked
from support.pages import ROOT, Block
from tosslm.runs.verify import verify

WANTED = "TOSSLM_INSTALLS"
MARKED = marked("installs")
DEMO = beginning(MARKED, "README.md", "make demo")
OWN_DATA = beginning(MARKED, "README.md", "pip install .")
GPU = beginning(MARKED, "README.md", "make clean")
SET_UP = beginning(MARKED, "CONTRIBUTING.md", "make venv")
INSTALL = beginning(MARKED, "docs/install.md", "pip install .")
EXTRAS = {
    beginning(MARKED, "docs/scaling.md", 'pip install "tosslm[qlora]"'): "bitsandbytes",
    beginning(MARKED, "docs/scaling.md", 'pip install "tosslm[s3]"'): "s3fs",
}
EDITOR = """\
#!/bin/sh
# The model, the three paths, and so few rows are no ground for a posterior.
exec sed -i -e 's|^  name: .*|  name: {model}|' -e 's|path: data/|path: examples/demo/data/|' \\
  -e 's|evidence: posterior|evidence: token|' -e 's|discard_fraction: auto|discard_fraction: 0.1|' "$1"
"""
ONE_FILE = "tests/test_selection.py"
"""What `make test`, `make quick` and `make check` run here: the rest is for those who call them."""


def test_all_that_is_marked_so_is_run_here() -> None:
    assert {DEMO, OWN_DATA, GPU, SET_UP, INSTALL, *EXTRAS} == set(MARKED)


def settings(environment: Path | None = None) -> dict[str, str]:
    """Variables of a reader's shell, in an environment of theirs: nothing in it is of the one that tests run in."""
    tests_own, path = str(Path(sys.executable).parent), os.environ["PATH"].split(os.pathsep)
    places = [*([str(environment / "bin")] if environment else []), *(place for place in path if place != tests_own)]
    nothing = dict.fromkeys(("PYTHONPATH", "VIRTUAL_ENV", WANTED), "")
    threads = os.environ.get("OMP_NUM_THREADS", str(os.cpu_count()))
    return {**nothing, "PATH": os.pathsep.join(places), "PYTEST_ADDOPTS": ONE_FILE, "OMP_NUM_THREADS": threads}


@pytest.fixture(scope="module")
def asked() -> None:
    if not os.environ.get(WANTED):
        pytest.skip("gigabytes, and a good part of an hour; `make installs` runs them")


@pytest.fixture(scope="module")
def clone(asked: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return cloned(tmp_path_factory.mktemp("clone") / "tosslm")


@pytest.fixture(scope="module")
def own(asked: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment of the reader's own, with a CPU build of PyTorch where the package index has one."""
    folder = tmp_path_factory.mktemp("own") / "environment"
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    [version] = re.findall(r"^TORCH_VERSION := (.+)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    torch = f'pip install -q "torch=={version}+cpu" 2>/dev/null || pip install -q "torch=={version}"'
    bash(torch, folder, **settings(folder))
    return folder


@pytest.fixture(scope="module")
def index(clone: Path, own: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Where pip finds tosslm as if it was on its index: a folder with its wheel, beside the folders named already."""
    folder = tmp_path_factory.mktemp("index")
    bash(f"pip wheel -q --no-deps -w {folder} .", clone, **settings(own))
    told = bash("pip config get global.find-links 2>/dev/null || true", clone, **settings(own))
    return f"{folder} {os.environ.get('PIP_FIND_LINKS') or told.strip()}"


def test_own_data_are_planned_and_trained_on_in_five_lines(
    clone: Path, own: Path, tmp_path: Path, tiny_model_folder: Path
) -> None:
    editor = tmp_path / "editor"
    editor.write_text(EDITOR.format(model=tiny_model_folder))
    editor.chmod(0o755)
    bash(OWN_DATA.code, clone, EDITOR=str(editor), **settings(own))
    run = tosslm.load_run(clone / "runs/my-run")
    assert verify(run)[1] == []
    assert len(run.rows) == len((clone / "examples/demo/data/custom.jsonl").read_text().splitlines())
    assert {"references/utility", "scores/round-0", "selection", "model", "report"} <= run.stages.keys()
    where = bash("python -c 'import tosslm; print(tosslm.__file__)'", clone, **settings(own))
    assert Path(where.strip()).is_relative_to(own)


def test_both_ways_to_install_bring_the_built_in_model(clone: Path, own: Path) -> None:
    bash(INSTALL.code, clone, **settings(own))
    for toss in ("toss", ".venv/bin/toss"):
        assert "references" in bash(f"{toss} plan configs/demo.yaml", clone, **settings(own))


@pytest.mark.parametrize(("block", "module"), EXTRAS.items(), ids=EXTRAS.values())
def test_an_extra_goes_to_what_a_clone_has_installed(
    block: Block, module: str, clone: Path, own: Path, tmp_path: Path
) -> None:
    bash("pip install -q .", clone, **settings(own))
    assert_brings(block, module, tmp_path, settings(own))


@pytest.mark.parametrize(("block", "module"), EXTRAS.items(), ids=EXTRAS.values())
def test_an_extra_comes_with_tosslm_where_an_index_has_it(
    block: Block, module: str, own: Path, index: str, tmp_path: Path
) -> None:
    bash("pip uninstall -q -y tosslm", tmp_path, **settings(own))
    assert_brings(block, module, tmp_path, settings(own) | {"PIP_FIND_LINKS": index})


def assert_brings(block: Block, module: str, folder: Path, variables: dict[str, str]) -> None:
    bash(f"pip uninstall -q -y {module}", folder, **variables)
    bash(block.code, folder, **variables)
    bash(f"python -c 'import tosslm, {module}'; toss --help", folder, **variables)


def test_make_installs_the_build_of_torch_that_is_named(clone: Path) -> None:
    bash(GPU.code, clone, **settings())
    [named] = re.findall(r"TORCH=torch==(\S+)", GPU.code)
    version = bash(".venv/bin/python -c 'import torch; print(torch.__version__)'", clone, **settings())
    assert version.strip().partition("+")[0] == named
    bash(".venv/bin/toss --help", clone, **settings())


def test_a_contributor_sets_up_and_checks(clone: Path) -> None:
    said = bash(SET_UP.code, clone, **settings())
    assert len(re.findall(r"^\d+ passed", said, re.MULTILINE)) == 3, said
    for words in ("All checks passed!", "files already formatted", "Success: no issues found"):
        assert said.count(words) == 2, said


def test_the_two_commands_of_the_readme(clone: Path) -> None:
    said = bash(DEMO.code, clone, **settings())
    assert re.search(r"^\d+ passed", said, re.MULTILINE), said
    assert verify(tosslm.load_run(clone / "runs/demo"))[1] == []
    page = (clone / "runs/demo/report.html").read_text(encoding="utf-8")
    assert "toss-posterior-anchor" in page
