"""What blocks of the pages need beside files: a Slurm, a bucket, somebody who reviews."""

from __future__ import annotations

import http.client
import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from support.page_shell import SECONDS
from support.pages import ROOT
from tosslm.review import version_of


def has_slurm() -> bool:
    """Whether a Slurm can be started here: Debian's slurm-wlm and munge, as root."""
    path = f"{os.environ['PATH']}:/usr/sbin"
    programs = ("sbatch", "slurmctld", "slurmd", "munged")
    return os.geteuid() == 0 and all(shutil.which(name, path=path) for name in programs)


@contextmanager
def slurm(folder: Path) -> Iterator[dict[str, str]]:
    """A Slurm of one node; the variables by which `sbatch` finds it."""
    script = str(ROOT / "tools/slurm.sh")
    with (folder / "start.log").open("w") as log:  # no pipe: its daemons would keep it open
        started = subprocess.run([script, "start", str(folder)], stdout=log, stderr=log, check=False)
    assert started.returncode == 0, (folder / "start.log").read_text()
    try:
        yield {"SLURM_CONF": str(folder / "slurm.conf")}
    finally:
        subprocess.run([script, "stop", str(folder)], check=True)


def jobs_ended(variables: dict[str, str]) -> dict[str, str]:
    """Wait for all jobs; how each ended, by its number, those of an array too."""

    def told(*command: str) -> str:
        return subprocess.run(command, env=os.environ | variables, capture_output=True, text=True, check=True).stdout

    until = time.monotonic() + SECONDS
    while told("squeue", "--noheader").strip():
        assert time.monotonic() < until, "jobs do not end"
        time.sleep(1)
    jobs = told("scontrol", "--oneliner", "show", "job")
    return dict(re.findall(r"^JobId=(\d+) .*? JobState=(\w+)", jobs, re.MULTILINE))


def review_a_row(process: subprocess.Popen[str], rows: list[str]) -> None:
    """Read the address that a review prints, drop the first of the rows as the page does, and press Ctrl-C."""
    assert process.stdout is not None
    told = iter(process.stdout.readline, "")
    url = next(found[0] for line in told if (found := re.search(r"http://127\.0\.0\.1:\d+/[\w-]+/", line)))
    place = urlsplit(url)
    connection = http.client.HTTPConnection(place.netloc, timeout=60)
    headers = {"Origin": f"http://{place.netloc}", "Content-Type": "application/x-ndjson", "If-Match": version_of("")}
    body = json.dumps({"row_id": rows[0], "decision": "drop", "by": "Ann"}) + "\n"
    connection.request("POST", f"{place.path}overrides.jsonl", body, headers)
    answer = connection.getresponse()
    assert answer.status == 200, answer.read()
    os.killpg(process.pid, signal.SIGINT)
