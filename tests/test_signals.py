"""Ctrl-C and SIGTERM, sent to a real process in the midst of its work."""

from __future__ import annotations

import gc
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from conftest import DEMO
from tosslm.progress import SilentReporter
from tosslm.stopping import StoppableReporter, Stopping

WITHIN = 10.0
TOSS = [sys.executable, "-m", "tosslm"]


def start(*arguments: str) -> subprocess.Popen[str]:
    def as_on_a_terminal() -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # where the tests run in a shell's background it is ignored

    environment = os.environ | {"OPENAI_API_KEY": "secret-key", "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [*TOSS, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        preexec_fn=as_on_a_terminal,
    )


def stages(run_dir: Path) -> dict[str, Any]:
    try:
        return json.loads((run_dir / "manifest.json").read_text())["stages"]
    except FileNotFoundError:
        return {}


def wait_for(process: subprocess.Popen[str], ready: Callable[[], bool], seconds: float = 120.0) -> None:
    until = time.monotonic() + seconds
    while not ready():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.01)


def stop(process: subprocess.Popen[str], number: int) -> str:
    began = time.monotonic()
    process.send_signal(number)
    _, error = process.communicate(timeout=60)
    assert time.monotonic() - began < WITHIN, error
    assert process.returncode == 128 + number, error
    assert "the same command goes on" in error
    assert "Traceback" not in error
    return error


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.parametrize(("number", "delay"), [(signal.SIGINT, 0.0), (signal.SIGINT, 0.3), (signal.SIGTERM, 0.1)])
def test_a_run_stops_and_goes_on(tiny_config: dict[str, Any], tmp_path: Path, number: int, delay: float) -> None:
    """Right after a training, when much is being collected."""
    tiny_config["finetune"] |= {"epochs": 2000}
    tiny_config["refinement"] = {"rounds": 0}
    config = tmp_path / "toss.yaml"
    config.write_text(yaml.safe_dump(tiny_config))
    process = start("run", str(config))
    wait_for(process, lambda: "references/degraded/round-0" in stages(tmp_path / "run"))
    time.sleep(delay)
    stop(process, number)
    done = stages(tmp_path / "run")
    assert "model" not in done
    again = subprocess.run(
        [*TOSS, "references", str(config)], capture_output=True, text=True, timeout=120, check=False
    )
    assert again.returncode == 0, again.stderr
    assert "references/degraded/round-0: done before" in again.stderr


@pytest.fixture
def silent_endpoint() -> Iterator[tuple[str, threading.Event]]:
    """A server that takes a question and says nothing for a minute."""
    asked, over = threading.Event(), threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked.set()
            over.wait(60)

        def log_message(self, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/v1", asked
    over.set()
    server.shutdown()
    server.server_close()


@pytest.mark.long
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_judge_that_is_silent_keeps_nobody(
    tiny_config: dict[str, Any], tmp_path: Path, silent_endpoint: tuple[str, threading.Event], number: int
) -> None:
    pytest.importorskip("openai")
    url, asked = silent_endpoint
    prompts = {"path": str(DEMO / "data/prompts.jsonl"), "where": {"label": "unsafe"}, "limit": 3}
    judge = {"model": "m", "base_url": url, "attack_prompt": "{prompt} {answer}", "timeout": 60.0}
    tiny_config["evaluation"] = {"harmful": prompts, "max_new_tokens": 2, "losses": False, "judge": judge}
    config = tmp_path / "toss.yaml"
    config.write_text(yaml.safe_dump(tiny_config))
    process = start("evaluate", str(config), "--model", tiny_config["model"]["name"], "--out", str(tmp_path / "out"))
    wait_for(process, asked.is_set)
    stop(process, number)


def test_an_interrupt_that_is_swallowed_is_not_lost() -> None:
    """It comes while Python collects garbage, where exceptions are dropped."""

    class Loud:
        def __init__(self) -> None:
            self.me = self

        def __del__(self) -> None:
            signal.raise_signal(signal.SIGINT)

    stopping = Stopping()
    reporter = StoppableReporter(SilentReporter(), stopping)
    with stopping.handled():
        Loud()
        gc.collect()
        assert stopping.noted == signal.SIGINT
        with pytest.raises(KeyboardInterrupt), reporter.task("x", 1):
            pytest.fail("the task began")
        with pytest.raises(KeyboardInterrupt):
            reporter.say("x")
    assert stopping.status == 130


def test_where_nothing_advances_it_is_raised_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tosslm.stopping.PATIENCE", 0.2)
    stopping = Stopping()
    began = time.monotonic()
    with stopping.handled():
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            time.sleep(5)
    assert time.monotonic() - began < 2
    assert stopping.status == 143


def test_a_second_signal_is_raised_at_once_and_handlers_are_put_back() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    stopping = Stopping()
    with stopping.handled():
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_the_library_sets_no_handler(tiny_config: dict[str, Any]) -> None:
    import tosslm

    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    tosslm.run(tiny_config, until="data")
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
