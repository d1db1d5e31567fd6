"""What leaves for terminal, log, manifest and report: no secret, and nothing that steers a terminal."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console
from typer.testing import CliRunner

from tosslm.cli import app
from tosslm.config import JudgeConfig, load_config
from tosslm.errors import InputError, TosslmError
from tosslm.evaluation.judges import check_judge
from tosslm.outward import has_credentials, holds_key, outward, without_secrets
from tosslm.progress import ConsoleReporter, SilentReporter, logged
from tosslm.terminal.summary import print_summary
from tosslm.text import LISTED_SOURCES

HOSTILE = "a\x1b[31mred\u202eevil\nsecond \ud83d"
SETS = {name: {"path": f"{name}.jsonl"} for name in ("custom", "harmful", "utility")}


def test_keys_are_known_by_their_variables_and_kept_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    holds_key("SOME_ENDPOINTS_KEY")
    monkeypatch.setenv("SOME_ENDPOINTS_KEY", 'sk/"quoted"+key')
    for form in ('sk/"quoted"+key', json.dumps('sk/"quoted"+key'), "sk%2F%22quoted%22%2Bkey"):
        assert "quoted" not in without_secrets(f"wrong key {form}!")
    monkeypatch.setenv("SOME_ENDPOINTS_KEY", "another-value")
    assert without_secrets("another-value") == "[key]"
    assert "quoted" in without_secrets('sk/"quoted"+key')
    monkeypatch.setenv("SOME_ENDPOINTS_KEY", "none")  # where an endpoint wants no key
    assert without_secrets("none of them") == "none of them"


@pytest.mark.parametrize(
    ("url", "found"),
    [
        ("https://me:word@host/v1", True),
        ("https://token@host/v1", True),
        ("s3://key:se@cret@bucket/x", True),
        ("sftp://me@host/x", False),
        ("https://host/a@b", False),
        ("see https://me:word@host for more", False),
        ("simplecache::s3://key:se@cret@bucket/x", True),
        ("https://host/x.jsonl?apikey=word", True),
        ("https://host/x.jsonl?a=b&subscription-key=word", True),
        ("https://host/x.jsonl?X-OSS-Signature=word", True),
        ("https://host/x.jsonl#access-key=word", True),
        ("https://host/x.jsonl?client_secret=word", True),
        ("https://host/x.jsonl?design=a&author=b", False),
    ],
)
def test_credentials_of_a_url(url: str, found: bool) -> None:
    assert has_credentials(url) == found
    assert not re.search("word|token|cret@", without_secrets(url))


@pytest.mark.parametrize(
    "key", ["data.custom.path", "model.name", "model.adapter", "evaluation.judge.base_url", "run_dir"]
)
def test_credentials_in_the_config_are_refused(key: str) -> None:
    with pytest.raises(InputError, match=key) as caught:
        load_config({"data": SETS}, ["evaluation.judge={model: m}", f"{key}=https://me:pass-word@host/v1/x.jsonl"])
    assert "pass-word" not in str(caught.value)
    assert "key_variable" in str(caught.value)


def test_a_wrong_value_is_quoted_without_its_password() -> None:
    with pytest.raises(InputError) as caught:
        load_config({"data": SETS}, ["seed=https://me:pass-word@host"])
    assert "pass-word" not in str(caught.value)


def test_a_key_with_a_line_end_is_refused_and_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("openai")
    for key in ("secret-key\n", "secret-k\u00e9y"):
        monkeypatch.setenv("OPENAI_API_KEY", key)
        with pytest.raises(InputError, match="line end") as caught:
            check_judge(JudgeConfig.model_validate({"model": "m"}))
        assert "secret" not in str(caught.value)


def test_messages_are_harmless_on_terminal_and_in_the_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "secret-key")
    shown = io.StringIO()
    reporter = ConsoleReporter(Console(file=shown, soft_wrap=True, width=200))
    for inner in (reporter, SilentReporter()):
        with logged(inner, tmp_path / "run.log") as both:
            both.say(f"{HOSTILE} secret-key [bold]x[/nothing]")
            with both.task(HOSTILE, 1) as task:
                task.advance(1, 0, note=f"{HOSTILE} secret-key")
    for text in (shown.getvalue(), (tmp_path / "run.log").read_text(encoding="utf-8")):
        assert not re.search("[\x1b\u202e\ud83d]|secret-key", text)
        assert "[bold]x[/nothing]" in text
    assert len(shown.getvalue().splitlines()) == 2


def test_a_bar_takes_any_name() -> None:
    shown = io.StringIO()
    console = Console(file=shown, force_terminal=True, width=200, _environ={"TERM": "xterm"})
    with ConsoleReporter(console).task("[/x]\u202e", 1) as task:
        task.advance(1, 0, note="[/y]\u202e")
    assert "\u202e" not in shown.getvalue()
    assert "[/x]" in shown.getvalue()


@pytest.mark.parametrize("kind", [InputError, TosslmError, RuntimeError])
def test_errors_are_one_harmless_paragraph(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: type[Exception]
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise kind(f"{HOSTILE} secret-key https://me:word@host {'x' * 100_000}")

    monkeypatch.setenv("OPENAI_API_KEY", "secret-key")
    monkeypatch.setattr("tosslm.pipeline.run", fail)
    config = tmp_path / "c.yaml"
    config.write_text(yaml.safe_dump({"data": SETS}))
    result = CliRunner().invoke(app, ["run", str(config)])
    assert result.exit_code == (2 if kind is InputError else 1)
    assert len(result.stderr.splitlines()) == 1
    assert len(result.stderr) < 5000
    assert not re.search("\u202e|secret-key|word|\x1b\\[31mred", result.stderr)


def test_a_summary_of_many_sources_is_short() -> None:
    counts = {"rows": 1, "tokens": 10, "discarded": 2}
    sources = {f"source {i:05}": counts for i in range(2000)} | {"big" + "\u202ex" * 500: counts | {"rows": 9}}
    selection = {"sources": sources, "tokens": 20_010, "discarded": 4002, "threshold": None, "evidence": "token"}
    summary = {"sets": {}, "trainings": {}, "refinement": {}, "selection": selection, "warnings": [], "run_dir": "r"}
    printed = io.StringIO()
    print_summary(summary, Console(width=120, file=printed))
    lines = printed.getvalue().splitlines()
    assert len(lines) < LISTED_SOURCES + 15
    assert "\u202e" not in printed.getvalue()
    (others,) = [line for line in lines if "other sources (1,951)" in line]
    assert "19,510" in others
    assert "3,902" in others
    assert sum("big" in line for line in lines) == 1


def test_outward_keeps_what_is_harmless() -> None:
    assert outward("tab\tna\u00efve \U0001f469\u200d\U0001f680 \u05e9\u05dc\u05d5\u05dd [x]") == (
        "tab\tna\u00efve \U0001f469\u200d\U0001f680 \u05e9\u05dc\u05d5\u05dd [x]"
    )
