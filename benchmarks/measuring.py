"""What every benchmark does alike: processes of their own, medians with their spread, results that survive a kill."""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from studies.provenance import code_version

from tosslm.files import write_json

HERE = Path(__file__).parent
RESULTS = HERE / "results"
MADE = HERE.parent / "runs/benchmarks"
"""Where made sets lie while they are needed."""
VECTORS = {"amx_bf16": "AMX", "avx512_bf16": "AVX512-BF16", "avx512f": "AVX512", "avx2": "AVX2"}
"""What decides how fast a processor multiplies matrices, the fastest first, by the name that Linux gives it."""


class Results:
    """A benchmark's file of results: what was measured with the same settings and code is not measured again.

    Args:
        name: of the benchmark.
        settings: what its figures depend on, JSON-able.
        folder: where the file lies.
    """

    def __init__(self, name: str, settings: dict[str, Any], folder: Path = RESULTS) -> None:
        self._path = folder / f"{name}.json"
        about = {"settings": settings, "machine": machine(), "versions": versions(), "commit": code_version(HERE)}
        self._all: dict[str, Any] = {"name": name, **about, "cases": {}}
        if self._path.exists():
            earlier = json.loads(self._path.read_text(encoding="utf-8"))
            if all(earlier.get(key) == value for key, value in about.items()):
                self._all = earlier

    @property
    def cases(self) -> dict[str, Any]:
        """What is measured so far, by name."""
        return dict(self._all["cases"])

    def measure(self, case: str, how: Callable[[], Any]) -> Any:
        """What a case gives, measured now unless it was before; written at once."""
        if case not in self._all["cases"]:
            self._all["cases"][case] = how()
            write_json(self._path, self._all)
            print(f"{case}: {json.dumps(self._all['cases'][case])}", flush=True)
        return self._all["cases"][case]


def measured(work: Callable[[], object]) -> dict[str, float]:
    """Seconds, seconds of processor time, and the process's peak resident memory, of one call in this process.

    ``start_mb`` is the peak before the call: libraries, mostly.
    """
    before = _peak_mb()
    begin, busy = time.perf_counter(), time.process_time()
    work()
    seconds, cpu = time.perf_counter() - begin, time.process_time() - busy
    return {"seconds": seconds, "cpu_seconds": cpu, "start_mb": before, "peak_mb": _peak_mb()}


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def in_process(module: str, *arguments: object) -> dict[str, float]:
    """What ``python -m benchmarks.MODULE --one ARGUMENTS`` prints as its last line."""
    command = [sys.executable, "-m", f"benchmarks.{module}", "--one", *map(str, arguments)]
    done = subprocess.run(command, cwd=HERE.parent, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, lowest, highest and number."""
    return {"median": statistics.median(values), "low": min(values), "high": max(values), "n": len(values)}


def machine() -> dict[str, Any]:
    """What kind of machine this is; nothing that names it."""
    text = _cpuinfo()
    model = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    return {
        "processor": model[1] if model else platform.machine(),
        "vectors": vectors(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": os.environ.get("OMP_NUM_THREADS", "all"),
        "memory_gb": round(memory),
        "system": platform.system(),
    }


def vectors() -> str:
    """The widest vectors that this processor has, of ``VECTORS``; nothing where it has none of them."""
    return next((name for name in VECTORS if name in _cpuinfo()), "")


def here(name: str) -> str:
    """A name of results that stay beside those of other kinds of processors."""
    return "-".join(filter(None, (name, vectors())))


def _cpuinfo() -> str:
    return Path("/proc/cpuinfo").read_text(encoding="utf-8") if Path("/proc/cpuinfo").exists() else ""


def left_out(dtype: str) -> bool:
    """Whether a dtype is not to be measured on this processor, which is said: hours of what nobody would wait for."""
    from tosslm.model.device import multiplies_bfloat16_fast

    out = dtype == "bfloat16" and not multiplies_bfloat16_fast()
    if out:
        print("bfloat16: not measured, since this processor multiplies it over 100 times slower than float32")
    return out


def versions() -> dict[str, str]:
    """Of Python and the libraries that figures depend on."""
    names = ("tosslm", "numpy", "pyarrow", "torch", "transformers")
    return {"python": platform.python_version()} | {name: version(name) for name in names}


def provenance_told(results: dict[str, Any]) -> str:
    """A line of a page: on what machine, with what, from which code the figures are."""
    own, libraries = results["machine"], results["versions"]
    commit = results["commit"] or "outside git"
    told = ", ".join(f"{name} {number}" for name, number in libraries.items())
    return (
        f"{own['processor']} ({own['vectors'] or 'no wide vectors'}), {own['cores']} cores, threads: "
        f"{own['threads']}, {own['memory_gb']} GB, {own['system']}; {told}; commit `{commit[:12]}"
        f"{'-dirty' if commit.endswith('-dirty') else ''}`."
    )


def parser_of(document: str | None) -> argparse.ArgumentParser:
    """A parser whose help is a module's docstring."""
    return argparse.ArgumentParser(
        description=document, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
