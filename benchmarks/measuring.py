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
from collections.abc import Callable, Iterable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from studies.provenance import code_version

from tosslm.files import write_json

HERE = Path(__file__).parent
RESULTS = HERE / "results"
MADE = HERE.parent / "runs/benchmarks"
"""Where made sets lie while they are needed."""
TRIALS = MADE / "results"
"""Where results lie of calls that measure something else than `make bench` does."""
VECTORS = {"amx_bf16": "AMX", "avx512_bf16": "AVX512-BF16", "avx512f": "AVX512", "avx2": "AVX2"}
"""What decides how fast a processor multiplies matrices, the fastest first, by the name that Linux gives it."""
_BFLOAT16 = ("amx_bf16", "avx512_bf16")
"""Those that multiply bfloat16."""
_FREE = ("publish", "keep")
"""Options that no figure depends on."""
LEFT_OUT = "bfloat16 is not measured, since this processor multiplies it over 100 times slower than float32."


class Results:
    """A benchmark's file of results: what was measured with the same settings and code is not measured again.

    Of code that is not committed, or not known, it is: nobody knows which changes were there then. Results of another
    kind of processor stay: what is measured here is then written beside them, under the processor's name (``here``),
    and the page tells it after them. Who wants it in their place renames the file.

    Args:
        name: of the benchmark.
        settings: what its figures depend on, JSON-able, and how many cases there are to be.
        folder: where the file lies, see ``folder_of``.
    """

    def __init__(self, name: str, settings: dict[str, Any], folder: Path = RESULTS) -> None:
        about: dict[str, Any] = {"settings": settings, "machine": machine(), "versions": versions()}
        about["commit"] = code_version(HERE)
        self._all: dict[str, Any] = {"name": name, **about, "cases": {}}
        self._path, commit = folder / f"{name}.json", about["commit"]
        earlier = _read(self._path)
        if earlier and earlier["machine"]["vectors"] != about["machine"]["vectors"]:
            self._path = folder / f"{here(name)}.json"
            earlier = _read(self._path)
            print(f"{name}.json is of another kind of processor and stays; writing {self._path.name}", flush=True)
        committed = commit is not None and not commit.endswith("-dirty")
        other = [key for key, value in about.items() if earlier.get(key) != value]
        if earlier and committed and not other:
            self._all = earlier
        elif earlier:
            why = f"of other {', '.join(other)}" if other else "of code that is not committed"
            print(f"{self._path.name} is {why}: all is measured anew, and replaces it", flush=True)

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


def _read(file: Path) -> dict[str, Any]:
    """A file of results; empty where there is none."""
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    return found


def kept(name: str, folder: Path = RESULTS) -> list[dict[str, Any]]:
    """A benchmark's results: first those under its own name, then those of other kinds of processors."""
    files = (folder / f"{name}.json", *sorted(folder.glob(f"{name}-*.json")))
    return [found for file in files if (found := _read(file))]


def folder_of(
    parser: argparse.ArgumentParser, args: argparse.Namespace, benched: Sequence[str] = ("",), folder: Path = RESULTS
) -> Path:
    """Where a call's results belong: beside the others where it is one of `make bench`, else in ``TRIALS``; said.

    Args:
        parser: of ``parser_of``.
        args: what it read.
        benched: what `make bench` passes, a text for each call.
        folder: of the results that the page tells; ``--publish`` has them written there whatever the settings.
    """

    def asked(these: argparse.Namespace) -> dict[str, Any]:
        return {name: value for name, value in vars(these).items() if name not in _FREE}

    if args.publish or any(asked(args) == asked(parser.parse_args(line.split())) for line in benched):
        return folder
    print(f"not what `make bench` measures: results go to {TRIALS}; with --publish to {folder}", flush=True)
    return TRIALS


def lacking(results: dict[str, Any], wanted: Iterable[str]) -> str:
    """``N of M measured`` where not every case that the settings mean is there; else nothing."""
    names = set(wanted)
    there = len(names & results["cases"].keys())
    return f"{there} of {len(names)} measured" if there < len(names) else ""


def verdict(met: bool, lacks: str, unmet: str = "not met") -> str:
    """Of a bar, in bold; what is measured in part, by ``lacking``, is not judged."""
    return f"**not judged**, {lacks}" if lacks else f"**{'met' if met else unmet}**"


def measured(work: Callable[[], object]) -> dict[str, Any]:
    """Seconds, seconds of processor time, and the process's peak resident memory, of one call in this process.

    ``start_mb`` is the peak before the call: what the libraries take, or what the process that started this one had
    held by then, whichever is more, since on Linux a process starts from the peak of its parent. No peak is below it.
    """
    before = _peak_mb()
    begin, busy = time.perf_counter(), time.process_time()
    work()
    seconds, cpu = time.perf_counter() - begin, time.process_time() - busy
    return {"seconds": seconds, "cpu_seconds": cpu, "start_mb": before, "peak_mb": _peak_mb()}


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def in_process(module: str, *arguments: object) -> dict[str, Any]:
    """What ``python -m benchmarks.MODULE --one ARGUMENTS`` prints as its last line."""
    command = [sys.executable, "-m", f"benchmarks.{module}", "--one", *map(str, arguments)]
    done = subprocess.run(command, cwd=HERE.parent, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
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
    return f"{name}-{vectors() or platform.machine()}"


def _cpuinfo() -> str:
    return Path("/proc/cpuinfo").read_text(encoding="utf-8") if Path("/proc/cpuinfo").exists() else ""


def left_out(dtype: str) -> bool:
    """Whether a dtype is not to be measured on this processor, which is said: hours of what nobody would wait for."""
    from tosslm.model.device import multiplies_bfloat16_fast

    out = dtype == "bfloat16" and not multiplies_bfloat16_fast()
    if out:
        print(LEFT_OUT)
    return out


def versions() -> dict[str, str]:
    """Of Python and the libraries that figures depend on."""
    names = ("tosslm", "numpy", "pyarrow", "torch", "transformers")
    return {"python": platform.python_version()} | {name: version(name) for name in names}


def dtype_told(results: dict[str, Any]) -> str:
    """What ``model.dtype: auto`` made of the base: as its cases say, else what it is on such a processor."""
    known = {case["dtype"] for case in results["cases"].values() if "dtype" in case}
    found = known or {"bfloat16" if results["machine"]["vectors"] in _BFLOAT16 else "float32"}
    return f"The base is in {' or '.join(sorted(found))}, as `model.dtype: auto` has it on this processor."


def provenance_told(results: dict[str, Any], lacks: str = "") -> str:
    """A line of a page: on what machine, with what, from which code the figures are; and what is ``lacking``."""
    own, libraries = results["machine"], results["versions"]
    commit = results["commit"] or "outside git"
    told = ", ".join(f"{name} {number}" for name, number in libraries.items())
    return (
        f"{own['processor']} ({own['vectors'] or 'no wide vectors'}), {own['cores']} cores, threads: "
        f"{own['threads']}, {own['memory_gb']} GB, {own['system']}; {told}; commit `{commit[:12]}"
        f"{'-dirty' if commit.endswith('-dirty') else ''}`.{f' Not all cases are there: {lacks}.' if lacks else ''}"
    )


def parser_of(document: str | None) -> argparse.ArgumentParser:
    """A parser whose help is a module's docstring, and that knows ``--publish``."""
    parser = argparse.ArgumentParser(
        description=document, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--publish", action="store_true", help="write into benchmarks/results, whatever the settings")
    return parser
