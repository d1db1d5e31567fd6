"""At the border to foreign libraries and to the machine: one paragraph with file or key, and the right status."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner, Result

from support.made_run import answers, made_run
from tosslm import cli
from tosslm.commands.frame import FRAME
from tosslm.errors import InputError, TosslmError


def toss(*arguments: str) -> Result:
    return CliRunner().invoke(cli.app, list(arguments))


@pytest.fixture
def config_file(tiny_config: dict[str, Any], tmp_path: Path) -> Path:
    """Of a model and an adapter that a test may damage."""
    for key in ("name", "adapter"):
        copy = tmp_path / f"own-{key}"
        shutil.copytree(tiny_config["model"][key], copy)
        tiny_config["model"][key] = str(copy)
    path = tmp_path / "toss.yaml"
    path.write_text(yaml.safe_dump(tiny_config))
    return path


def refused(result: Result, *said: str) -> None:
    assert result.exit_code == 2, result.output
    assert len(result.stderr.splitlines()[-1]) < 5000
    assert result.stderr.count("toss: ") == 1
    for text in said:
        assert text in result.stderr
    assert "Traceback" not in result.output


CUTS: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda data: b"",
    "cut": lambda data: data[: len(data) // 2],
    "header": lambda data: b"\xff" * 8 + data[8:],
    "no header": lambda data: (5).to_bytes(8, "little") + b'{"a":' + data[13:],
}


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("file", ["own-name/model.safetensors", "own-adapter/adapter_model.safetensors"])
def test_damaged_weights(config_file: Path, tmp_path: Path, file: str, cut: str) -> None:
    path = tmp_path / file
    path.write_bytes(CUTS[cut](path.read_bytes()))
    key = "model.name" if "own-name" in file else "model.adapter"
    refused(toss("run", str(config_file), "--until", "references"), key, "anew")


TEXTS = ["", "{", "[]", "3", "null", "{}", "[" * 100_000, '{"a": NaN}', "\ud83d"]


@pytest.mark.parametrize("text", TEXTS, ids=range(len(TEXTS)))
@pytest.mark.parametrize(
    "file", ["own-name/config.json", "own-name/tokenizer.json", "own-adapter/adapter_config.json"]
)
def test_files_that_are_no_settings(config_file: Path, tmp_path: Path, file: str, text: str) -> None:
    (tmp_path / file).write_bytes(text.encode("utf-8", "surrogatepass"))
    refused(toss("plan", str(config_file)), "model.")


@pytest.mark.long
@pytest.mark.parametrize("file", ["own-name/config.json", "own-adapter/adapter_config.json"])
def test_settings_of_strange_values(config_file: Path, tmp_path: Path, file: str) -> None:
    """Every key in turn has a value of another kind; that may be harmless, and is never a bare exception."""
    path = tmp_path / file
    settings = json.loads(path.read_text())
    draw = random.Random(0)
    for key in settings:
        value: Any = draw.choice(["x", -1, 0, [], {}, None, 1e300, [[]], {"a": 1}])
        path.write_text(json.dumps(settings | {key: value}))
        result = toss("plan", str(config_file))
        assert result.exit_code in (0, 2), (key, value, result.stderr)


TEMPLATES = {
    "zero": "{{ 1 // 0 }}",
    "deep": "{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}",
    "raises": "{{ raise_exception('a\x1b[31m\u202eb') }}",
    "key": "{{ messages[0]['nothing']['more'] }}",
    "number": "{{ 'x' | int(base='y') }}",
    "range": "{% for i in range(10 ** 9) %}{{ i }}{% endfor %}",
    "syntax": "{% if %}",
    "filter": "{{ messages | nothing }}",
}


@pytest.mark.parametrize("name", TEMPLATES)
def test_templates_that_fail(config_file: Path, tmp_path: Path, name: str) -> None:
    for file in (tmp_path / "own-name").glob("*.jinja"):
        file.unlink()
    path = tmp_path / "own-name/tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"chat_template": TEMPLATES[name]}))
    result = toss("plan", str(config_file))
    refused(result)
    assert "template" in result.output
    assert not {"\x1b[31m\u202e", "\u202e"} & set(result.output)


def failing(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr("tosslm.pipeline.run", fail)


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device", "/x/y.parquet"),
        OSError(errno.EDQUOT, "Disk quota exceeded", "/x/y.parquet"),
        RuntimeError("I/O error: No space left on device (os error 28)"),
    ],
)
def test_a_full_disk(config_file: Path, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    failing(monkeypatch, error)
    result = toss("run", str(config_file))
    assert result.exit_code == 1
    assert "no room on the disk" in result.stderr
    assert "goes on" in result.stderr
    assert ("/x/y.parquet" in result.stderr) == isinstance(error, OSError)


def test_a_name_that_is_too_long(config_file: Path) -> None:
    for arguments in (["run", "x" * 5000], ["run", str(config_file), "--run-dir", "y" * 300], ["verify", "z" * 300]):
        refused(toss(*arguments), "too long")


@pytest.mark.parametrize(("error", "status"), [(InputError("in"), 2), (TosslmError("work"), 1), (ValueError("x"), 1)])
def test_debug_keeps_the_status(
    config_file: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, status: int
) -> None:
    failing(monkeypatch, error)
    monkeypatch.setattr(FRAME, "debug", True)
    result = toss("run", str(config_file))
    assert result.exit_code == status
    assert "Traceback" in result.stderr
    assert "test_borders.py" in result.stderr
    assert f"toss: {'ValueError: ' * (status == 1 and str(error) == 'x')}{error}" in result.stderr


@pytest.mark.parametrize("json_too", [False, True])
def test_a_pipe_that_is_closed(tmp_path: Path, json_too: bool) -> None:
    run = made_run(tmp_path / "run", answers(9))
    reader, writer = os.pipe()
    os.close(reader)
    arguments = ["show", str(run.path), *(["--json"] if json_too else [])]
    result = subprocess.run(
        [sys.executable, "-m", "tosslm", *arguments], stdout=writer, stderr=subprocess.PIPE, timeout=60, check=False
    )
    os.close(writer)
    assert result.stderr == b""
    assert result.returncode == 141


def test_a_terminal_of_another_encoding(tmp_path: Path) -> None:
    run = made_run(tmp_path / "run", answers(9))
    plain = {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "C"}
    result = subprocess.run(
        [sys.executable, "-m", "tosslm", "show", str(run.path)],
        env={**os.environ, **plain},
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert rb"\U0001f44d" in result.stdout  # of the answers
