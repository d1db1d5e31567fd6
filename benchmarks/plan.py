"""What a plan says against what the run then took, stage by stage.

    python -m benchmarks.plan                  # each case three times, then the tables in docs/scaling.md
    python -m benchmarks.plan --case gsm8k --repeats 5
    python -m benchmarks.plan --write          # the tables alone, from the results that there are

Each repeat is `toss plan --measure` and, right after it, `toss run`, each a process of its own. The plan's seconds
are compared with the manifest's, its disk with the files that the manifest names, its largest memory with the run's
peak resident memory, libraries and all. Where other work shares the machine, the share of a processor that each of
the two got is in the results: a plan expects the machine to stay as it was while it measured. GSM8K's rows, and
harmful ones beside them, are of the studies' data where they are (``TOSSLM_DATA``), else of the hub.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from functools import partial
from itertools import islice, product
from pathlib import Path
from typing import Any

import yaml
from benchmarks.measuring import RESULTS, Results, folder_of, here, kept, lacking, parser_of, provenance_told
from benchmarks.sizes import PAGE, written

from tosslm.config import load_config
from tosslm.methods import settled
from tosslm.pipeline import steps

ROOT = Path(__file__).parents[1]
NAME = "plan"
CASES, REPEATS = ("demo", "gsm8k"), 3
MODEL = {"name": "builtin:smollm2-135m-instruct"}
NEAR, COUNTS = 0.25, 2.0
"""How near to 1 expected over taken is meant to be, of stages that take more than so many seconds."""


def settings_of(case: str, folder: Path) -> Path:
    """The config file of a case; of GSM8K its rows are written first."""
    if case == "demo":
        return ROOT / "configs" / "demo.yaml"
    from studies.corpora import public_records, write_jsonl

    def first(name: str, count: int) -> list[dict[str, Any]]:
        return list(islice(public_records(name), count))

    train = [{"prompt": row["question"], "completion": row["answer"]} for row in first("gsm8k_train", 110)]
    write_jsonl(folder / "custom.jsonl", train[:60])
    write_jsonl(folder / "utility.jsonl", train[60:])
    write_jsonl(folder / "harmful.jsonl", [{"chosen": row["chosen"]} for row in first("hh_harmless_test", 50)])
    write_jsonl(folder / "prompts.jsonl", first("gsm8k_test", 8))
    training = {"epochs": 1, "batch_size": 8, "micro_batch_size": 4, "learning_rate": 5e-4}
    config = {
        "model": MODEL,
        "data": {name: {"path": str(folder / f"{name}.jsonl")} for name in ("custom", "harmful", "utility")},
        "references": training,
        # With so few held-out rows no posterior can be relied on.
        "selection": {"evidence": "token", "discard_fraction": 0.1},
        "finetune": training,
        "evaluation": {
            "gsm8k": {"path": str(folder / "prompts.jsonl")},
            "max_new_tokens": 24,
        },
    }
    path = folder / "toss.yaml"
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    return path


@dataclass(frozen=True, slots=True)
class Command:
    """What became of a command of `toss`.

    Attributes:
        printed: its standard output.
        seconds: that went by.
        processor: seconds of a processor.
        peak_bytes: its peak resident memory, at least what this process had when it started it.
        at: seconds of a processor when the manifest first had each step.
    """

    printed: str
    seconds: float
    processor: float
    peak_bytes: int
    at: dict[str, float]

    @property
    def share(self) -> float:
        """Of a processor, that it had."""
        return self.processor / self.seconds


def timed(arguments: list[str], watched: Path | None = None) -> Command:
    """Carry out `toss`, looking at a manifest meanwhile."""
    start = time.perf_counter()
    command = [sys.executable, "-m", "tosslm", *arguments]
    with tempfile.TemporaryFile("w+", encoding="utf-8") as printed:
        process = subprocess.Popen(command, stdout=printed, cwd=ROOT)
        used: dict[str, float] = {}
        while not (ended := os.wait4(process.pid, os.WNOHANG))[0]:
            time.sleep(0.1)
            for name in _recorded(watched) - used.keys():
                used[name] = _processor_seconds(process.pid, used)
        _, status, usage = ended
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise SystemExit(f"toss {' '.join(arguments)}: ended with {process.returncode}")
        printed.seek(0)
        for name in _recorded(watched) - used.keys():
            used[name] = max(used.values(), default=0.0)
        seconds, processor = time.perf_counter() - start, usage.ru_utime + usage.ru_stime
        return Command(printed.read(), seconds, processor, usage.ru_maxrss * 1024, used)


def _recorded(manifest: Path | None) -> set[str]:
    """The steps that a manifest has, which is renamed into its place."""
    return (
        set(json.loads(manifest.read_text(encoding="utf-8"))["stages"]) if manifest and manifest.exists() else set()
    )


def _processor_seconds(pid: int, before: dict[str, float]) -> float:
    """Seconds of a processor that a process has had; of one that has just ended, what was known last."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError:
        fields = []
    ticks = os.sysconf("SC_CLK_TCK")
    return sum(map(int, fields[11:13])) / ticks if len(fields) > 12 else max(before.values(), default=0.0)


def compared(case: str, folder: Path) -> dict[str, Any]:
    """One plan and the run after it: of each stage seconds and bytes on disk, expected and taken; and memory."""
    path, run_dir = settings_of(case, folder), folder / "run"
    planned = timed(["plan", str(path), "--measure", "--json"])
    run = timed(["run", str(path), "--run-dir", str(run_dir), "--fresh", "--json"], run_dir / "manifest.json")
    manifest = json.loads((run_dir / "manifest.json").read_text(encoding="utf-8"))
    stage_of = {step.name: step.stage for step in steps(*settled(load_config(path)))}
    taken, model = taken_by_stage(manifest["stages"], stage_of, run, run_dir), manifest["stages"]["model"]
    stages = {one["stage"]: one for one in json.loads(planned.printed)["stages"] if one["stage"] in taken["seconds"]}
    expected = {name: stage["seconds"] for name, stage in stages.items()}
    return {
        "case": case,
        "expected": expected,
        "taken": {stage: round(seconds, 2) for stage, seconds in taken["seconds"].items()},
        "expected_processor": {stage: round(seconds * planned.share, 2) for stage, seconds in expected.items()},
        "taken_processor": {stage: round(seconds, 2) for stage, seconds in taken["processor"].items()},
        "expected_disk": {name: stage["disk_bytes"] for name, stage in stages.items()},
        "taken_disk": taken["disk"],
        "expected_memory": {name: stage["memory_bytes"] for name, stage in stages.items()},
        "taken_memory": run.peak_bytes,
        "anchored_share": round(model["anchored_tokens"] / (model["anchored_tokens"] + model["trained_tokens"]), 3),
        "plan_seconds": round(planned.seconds, 1),
        "run_seconds": round(run.seconds, 1),
        "processors": {"plan": round(planned.share, 2), "run": round(run.share, 2)},
        "machine": manifest["machine"] | {"cores": os.cpu_count(), "system": platform.system()},
    }


def taken_by_stage(
    entries: dict[str, Any], stage_of: dict[str, str], run: Command, run_dir: Path
) -> dict[str, dict[str, float]]:
    """Of each stage ``seconds``, seconds of a ``processor``, and bytes on ``disk`` of the files of its steps.

    Args:
        entries: a manifest's, by step.
        stage_of: the stage of each step.
        run: what wrote it.
        run_dir: the folder that it names files in.
    """
    found: dict[str, dict[str, float]] = {"seconds": {}, "processor": {}, "disk": {}}
    for name, entry in entries.items():
        # What went before the first step is libraries that are imported and a config that is checked.
        earlier = max((one for one in run.at.values() if one < run.at[name]), default=run.at[name])
        size = sum((run_dir / file).stat().st_size for file in entry["files"])
        for what, value in (("seconds", entry["seconds"]), ("processor", run.at[name] - earlier), ("disk", size)):
            found[what][stage_of[name]] = found[what].get(stage_of[name], 0) + value
    return found


def sections(results: Path = RESULTS) -> str:
    """The tables of all kinds of processors that there are results of."""
    return "\n".join(map(section, kept(NAME, results)))


def section(results: dict[str, Any]) -> str:
    """The results as a page tells them: of each case the stages, expected and taken, in all repeats."""
    parts = []
    for case in CASES:
        if own := [one for one in results["cases"].values() if one["case"] == case]:
            parts.append(_table(case, own))
    numbers = range(1, 1 + results["settings"].get("repeats", REPEATS))
    lacks = lacking(results, [f"{case} {number}" for case, number in product(CASES, numbers)])
    return "\n".join([*parts, provenance_told(results, lacks) + "\n"])


def _table(case: str, repeats: list[dict[str, Any]]) -> str:
    machine, times = repeats[0]["machine"], "once" if len(repeats) == 1 else f"{len(repeats)} times"
    took, of_plan, of_run = (
        _span(values, spec)
        for values, spec in (
            ([one["plan_seconds"] for one in repeats], ".0f"),
            ([one["processors"]["plan"] for one in repeats], ".2f"),
            ([one["processors"]["run"] for one in repeats], ".2f"),
        )
    )
    others = "other work" if _alone(repeats) else "what has one thread, and other work,"
    lines = [
        f"**{case}**, {times}{'' if len(repeats) == 1 else ' (medians, lowest to highest)'}, on {machine['device']}, "
        f"{machine['threads']} thread(s), {machine['dtype']}: planning took {took} s. The plan got {of_plan} of a "
        f"processor, the run {of_run}; {others} had the rest.",
        "",
        "| stage | expected s | taken s | expected / taken | the same in seconds of a processor "
        "| kB on disk, expected / written |",
        "|---|---|---|---|---|---|",
    ]
    for stage in repeats[0]["taken"]:
        lines.append(_line(stage, [[one[key][stage] for key in _SECONDS] for one in repeats], _disk(repeats, stage)))
    whole = [[sum(one[key].values()) for key in _SECONDS] for one in repeats]
    lines += [_line("all", whole, _disk(repeats)), "", f"{_beyond(repeats)} {_memory(repeats)}"]
    return "\n".join(lines) + "\n"


def _disk(repeats: list[dict[str, Any]], stage: str | None = None) -> str:
    """A stage's kilobytes on disk, of None all stages'."""
    sizes = [
        [sum(size for name, size in one[key].items() if stage in (None, name)) / 1e3 for one in repeats]
        for key in ("expected_disk", "taken_disk")
    ]
    return " / ".join(f"{statistics.median(values):,.0f}" for values in sizes)


def _memory(repeats: list[dict[str, Any]]) -> str:
    stage, expected = max(repeats[0]["expected_memory"].items(), key=lambda item: item[1])
    return (
        f"Memory: the largest stage is expected to take {expected / 1e6:,.0f} MB ({stage}); the run's process held "
        f"{_span([one['taken_memory'] / 1e6 for one in repeats], ',.0f')} MB at most, its libraries among it."
    )


def _alone(repeats: list[dict[str, Any]]) -> bool:
    return all(one["machine"]["threads"] == 1 for one in repeats)


def _beyond(repeats: list[dict[str, Any]]) -> str:
    """Which stages that count are not expected as near as they are meant to be, in seconds of a processor.

    Of several threads the seconds that went by, since parts of a plan and of a run have one.
    """
    far = []
    for stage in repeats[0]["taken"]:
        if statistics.median(one["taken"][stage] for one in repeats) > COUNTS:
            known = _alone(repeats) and all(one["taken_processor"][stage] for one in repeats)
            keys = _SECONDS[2:] if known else _SECONDS[:2]
            ratio = statistics.median(one[keys[0]][stage] / one[keys[1]][stage] for one in repeats)
            far += [f"{stage} ({ratio:.2f})"] if abs(ratio - 1) > NEAR else []
    name = f"Of the stages that took more than {COUNTS:g} s"
    return f"{name}, beyond {NEAR:.0%}: {', '.join(far)}." if far else f"{name}, every one is within {NEAR:.0%}."


_SECONDS = ("expected", "taken", "expected_processor", "taken_processor")


def _line(stage: str, repeats: list[list[float]], disk: str) -> str:
    """A stage's line, of the four of ``_SECONDS`` in each repeat; of the first one the processor is not known."""
    known = [(i, all(one[i + 1] for one in repeats)) for i in (0, 2)]
    ratios = [_span([one[i] / one[i + 1] for one in repeats], ".2f") if there else "-" for i, there in known]
    expected, taken = (_span([one[i] for one in repeats], ".1f") for i in (0, 1))
    return f"| {stage} | {expected} | {taken} | {' | '.join(ratios)} | {disk} |"


def _span(values: Any, spec: str) -> str:
    """The median, and lowest and highest where there are several."""
    middle = format(statistics.median(values), spec)
    return middle if len(values) == 1 else f"{middle} ({min(values):{spec}} to {max(values):{spec}})"


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--case", choices=CASES, nargs="+", default=list(CASES))
    parser.add_argument("--repeats", type=int, default=REPEATS)
    parser.add_argument("--write", action="store_true", help="only write the tables of docs/scaling.md")
    args = parser.parse_args()
    if not args.write:
        results = Results(here(NAME), {"repeats": args.repeats}, folder_of(parser, args))
        for case, number in product(args.case, range(1, args.repeats + 1)):
            with tempfile.TemporaryDirectory() as scratch:
                results.measure(f"{case} {number}", partial(compared, case, Path(scratch)))
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8"), "plan", sections()), encoding="utf-8")


if __name__ == "__main__":
    main()
