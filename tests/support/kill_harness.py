"""Run a config undisturbed, then again and again with SIGKILL in the midst of every step; started by test_resume.py.

A process of its own, which loads the libraries once and forks for each run; nothing is computed before a fork, so no
thread pool is lost in one.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Any

import tosslm.model.base
import tosslm.pipeline
import tosslm.training.train


def start(config: dict[str, Any]) -> int:
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: PTH123, SIM115
        tosslm.pipeline.run(config)
        status = 0
    finally:
        os._exit(status)


def ended(child: int) -> bool:
    done, status = os.waitpid(child, os.WNOHANG)
    if done and not os.WIFSIGNALED(status) and os.waitstatus_to_exitcode(status):
        raise SystemExit("a run failed by itself")
    return bool(done)


def steps(run_dir: Path) -> dict[str, Any]:
    try:
        return json.loads((run_dir / "manifest.json").read_text())["stages"]
    except FileNotFoundError:
        return {}


def run_to_the_end(config: dict[str, Any]) -> None:
    child = start(config)
    while not ended(child):
        time.sleep(0.02)


def kill_in(config: dict[str, Any], number: int, delay: float) -> bool:
    """Kill a run ``delay`` seconds after it began step ``number``; whether it was still there to be killed."""
    child = start(config)
    while len(steps(Path(config["run_dir"]))) < number:
        if ended(child):
            return False
        time.sleep(0.005)
    time.sleep(delay)
    if ended(child):
        return False
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return True


def main() -> None:
    config = json.loads(Path(sys.argv[1]).read_text())
    rng = random.Random(int(sys.argv[2]))
    calm, wild = dict(config), dict(config)
    calm["run_dir"], wild["run_dir"] = f"{config['run_dir']}-calm", f"{config['run_dir']}-wild"
    run_to_the_end(calm)
    seconds = [entry["seconds"] for entry in steps(Path(calm["run_dir"])).values()]
    names = list(steps(Path(calm["run_dir"])))
    kills: list[str] = []
    for _ in range(2):
        shutil.rmtree(wild["run_dir"], ignore_errors=True)
        for number, name in enumerate(names):
            # A new process first reads the tokenizer and checks what is done, so the delay reaches past the step.
            if kill_in(wild, number, rng.uniform(0, seconds[number] + 0.3)):
                kills.append(name)
        run_to_the_end(wild)
        print(json.dumps({"kills": kills}), flush=True)
        # Manifest, report and log hold times, and the folder's name.
        own = "--exclude=manifest.json --exclude=report.html --exclude=.writer --exclude=run.log"
        if os.system(f"diff -rq {calm['run_dir']} {wild['run_dir']} {own}"):
            raise SystemExit("the ends differ")


if __name__ == "__main__":
    main()
