"""What is built is what is needed: the package with the report's parts, and no tests."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path, PurePosixPath

import pytest

from support.made_run import answers, made_run
from support.pages import ROOT

pytestmark = pytest.mark.slow
PIP = [sys.executable, "-m", "pip", "-q", "--disable-pip-version-check"]
NO_INDEX = ["--no-deps", "--no-build-isolation", "--no-index"]
BUILD = "import sys; from setuptools import build_meta; print(build_meta.build_sdist(sys.argv[1]))"


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of the repository that a build sees, without what lies beside them in a working copy."""
    folder = tmp_path_factory.mktemp("source") / "tosslm"
    for name in ("src", "tests", "docs", "examples", "configs"):
        skipped = shutil.ignore_patterns("*.egg-info", "__pycache__", "*.safetensors", "*.png")
        shutil.copytree(ROOT / name, folder / name, ignore=skipped)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    return folder


@pytest.fixture(scope="module")
def sdist(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("sdist")
    made = subprocess.run(
        [sys.executable, "-c", BUILD, str(out)], cwd=source, check=True, capture_output=True, text=True
    )
    return out / made.stdout.splitlines()[-1]


@pytest.fixture(scope="module")
def wheel(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from the source distribution, as an installer does it: so that has all that is needed too."""
    out = tmp_path_factory.mktemp("wheel")
    subprocess.run([*PIP, "wheel", *NO_INDEX, "-w", str(out), str(sdist)], check=True, capture_output=True)
    [path] = out.glob("*.whl")
    return path


def shipped() -> set[str]:
    """Every file of the package, by its path in a wheel."""
    package = ROOT / "src" / "tosslm"
    files = (path for path in package.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {str(PurePosixPath("tosslm", *path.relative_to(package).parts)) for path in files}


def test_the_wheel_has_every_file_of_the_package_and_no_other(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert any(name.startswith("tosslm/report/templates/sections/") for name in names)
    assert {"tosslm/py.typed", "tosslm/stages/select.py"} < names
    assert names == shipped()


def test_the_source_distribution_has_package_readme_and_licence(sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"pyproject.toml", "README.md", "LICENSE", "src/tosslm/report/page.py"} < names


def test_what_is_installed_writes_a_report(wheel: Path, tmp_path: Path) -> None:
    """From the wheel, not from the working copy: with its templates, its assets and its command."""
    target = tmp_path / "installed"
    subprocess.run([*PIP, "install", *NO_INDEX, "--target", str(target), str(wheel)], check=True)
    run = made_run(tmp_path / "run", answers(6))
    script = """
import sys, pathlib, tosslm
from tosslm.report.page import write_report
assert pathlib.Path(tosslm.__file__).is_relative_to(sys.argv[1]), tosslm.__file__
write_report(tosslm.load_run(sys.argv[2]), pathlib.Path(sys.argv[3]))
"""
    environment = os.environ | {"PYTHONPATH": str(target)}
    page = tmp_path / "report.html"
    arguments = [str(target), str(run.path), str(page)]
    subprocess.run([sys.executable, "-c", script, *arguments], env=environment, cwd=tmp_path, check=True)
    assert "<html" in page.read_text(encoding="utf-8")
    helped = subprocess.run(
        [target / "bin/toss", "--help"], env=environment, capture_output=True, text=True, check=True
    )
    assert "finetune" in helped.stdout
