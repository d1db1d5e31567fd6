"""What a plan says against what the run then took, stage by stage.

    python -m benchmarks.plan                  # each case three times, then the tables in docs/scaling.md
    python -m benchmarks.plan --case gsm8k --repeats 5
    python -m benchmarks.plan --write          # the tables alone, from the results that there are

Each repeat is `toss plan --measure` and, right after it, `toss run`, each a process of its own. The plan's seconds
are compared with the manifest's. Where other work shares the machine, the share of a processor that each of the two
got is in the results: a plan expects the machine to stay as it was while it measured.
"""

from __future__ import annotations

import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import yaml
from benchmarks.measuring import RESULTS, Results, parser_of, provenance_told
from benchmarks.sizes import PAGE, written

from tosslm.config import load_config
from tosslm.methods import settled
from tosslm.pipeline import steps

ROOT = Path(__file__).parents[1]
NAME = "plan"
CASES = ("demo", "gsm8k")
MODEL = {"name": "builtin:smollm2-135m-instruct"}


def settings_of(case: str, folder: Path) -> Path:
    """The config file of a case; of GSM8K its rows are written first."""
    if case == "demo":
        return ROOT / "configs" / "demo.yaml"
    from studies.corpora import records, write_jsonl

    train = [{"prompt": row["question"], "completion": row["answer"]} for row in records("gsm8k_train")[:110]]
    write_jsonl(folder / "custom.jsonl", train[:60])
    write_jsonl(folder / "utility.jsonl", train[60:])
    write_jsonl(folder / "harmful.jsonl", [{"chosen": row["chosen"]} for row in records("hh_harmless_test")[:50]])
    write_jsonl(folder / "prompts.jsonl", records("gsm8k_test")[:8])
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


def timed(arguments: list[str], watched: Path | None = None) -> tuple[str, float, float, dict[str, float]]:
    """What `toss` prints, its seconds, its seconds of a processor, and those at each change of a manifest."""
    start = time.perf_counter()
    command = [sys.executable, "-m", "tosslm", *arguments]
    with tempfile.TemporaryFile("w+", encoding="utf-8") as printed:
        process = subprocess.Popen(command, stdout=printed, cwd=ROOT)
        used: dict[str, float] = {}
        while process.poll() is None:
            time.sleep(0.1)
            for name in _recorded(watched) - used.keys():
                used[name] = _processor_seconds(process.pid, used)
        if process.returncode:
            raise SystemExit(f"toss {' '.join(arguments)}: ended with {process.returncode}")
        printed.seek(0)
        for name in _recorded(watched) - used.keys():
            used[name] = max(used.values(), default=0.0)
        return printed.read(), time.perf_counter() - start, _children(), used


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
    """One plan and the run after it: seconds of each stage, expected and taken."""
    path, run_dir = settings_of(case, folder), folder / "run"
    before = _children()
    printed, plan_seconds, used, _ = timed(["plan", str(path), "--measure", "--json"])
    plan, share = json.loads(printed), (used - before) / plan_seconds
    begin = ["run", str(path), "--run-dir", str(run_dir), "--fresh", "--json"]
    _, run_seconds, whole, at = timed(begin, run_dir / "manifest.json")
    manifest = json.loads((run_dir / "manifest.json").read_text(encoding="utf-8"))
    stage_of = {step.name: step.stage for step in steps(*settled(load_config(path)))}
    taken: dict[str, float] = {}
    processor: dict[str, float] = {}
    for name, entry in manifest["stages"].items():
        stage = stage_of[name]
        # What went before the first step is libraries that are imported and a config that is checked.
        earlier = max((one for one in at.values() if one < at[name]), default=at[name])
        taken[stage] = taken.get(stage, 0.0) + entry["seconds"]
        processor[stage] = processor.get(stage, 0.0) + at[name] - earlier
    model = manifest["stages"]["model"]
    expected = {stage["stage"]: stage["seconds"] for stage in plan["stages"] if stage["stage"] in taken}
    return {
        "case": case,
        "expected": expected,
        "taken": {stage: round(seconds, 2) for stage, seconds in taken.items()},
        "expected_processor": {stage: round(seconds * share, 2) for stage, seconds in expected.items()},
        "taken_processor": {stage: round(seconds, 2) for stage, seconds in processor.items()},
        "anchored_share": round(model["anchored_tokens"] / (model["anchored_tokens"] + model["trained_tokens"]), 3),
        "plan_seconds": round(plan_seconds, 1),
        "run_seconds": round(run_seconds, 1),
        "processors": {"plan": round(share, 2), "run": round((whole - used) / run_seconds, 2)},
        "machine": manifest["machine"] | {"cores": os.cpu_count(), "system": platform.system()},
    }


def _children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def section(results: dict[str, Any]) -> str:
    """The results as a page tells them: of each case the stages, expected and taken, in all repeats."""
    parts = []
    for case in CASES:
        if own := [one for one in results["cases"].values() if one["case"] == case]:
            parts.append(_table(case, own))
    return "\n".join([*parts, provenance_told(results) + "\n"])


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
    lines = [
        f"**{case}**, {times}, on {machine['device']}, {machine['threads']} thread(s), {machine['dtype']}: planning "
        f"took {took} s. The plan got {of_plan} of a processor, the run {of_run}; other work had the rest.",
        "",
        "| stage | expected s | taken s | expected / taken | the same in seconds of a processor |",
        "|---|---|---|---|---|",
    ]
    for stage in repeats[0]["taken"]:
        lines.append(_line(stage, [[one[key][stage] for key in _SECONDS] for one in repeats]))
    lines.append(_line("all", [[sum(one[key].values()) for key in _SECONDS] for one in repeats]))
    return "\n".join(lines) + "\n"


_SECONDS = ("expected", "taken", "expected_processor", "taken_processor")


def _line(stage: str, repeats: list[list[float]]) -> str:
    """Of a stage the four of ``_SECONDS`` in each repeat; of the first one the processor is not known."""
    known = [(i, all(one[i + 1] for one in repeats)) for i in (0, 2)]
    ratios = [_span([one[i] / one[i + 1] for one in repeats], ".2f") if there else "-" for i, there in known]
    expected, taken = (_span([one[i] for one in repeats], ".1f") for i in (0, 1))
    return f"| {stage} | {expected} | {taken} | {' | '.join(ratios)} |"


def _span(values: Any, spec: str) -> str:
    """The median, and lowest and highest where there are several."""
    middle = format(statistics.median(values), spec)
    return middle if len(values) == 1 else f"{middle} ({min(values):{spec}} to {max(values):{spec}})"


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--case", choices=CASES, nargs="+", default=list(CASES))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--write", action="store_true", help="only write the tables of docs/scaling.md")
    args = parser.parse_args()
    if not args.write:
        results = Results(NAME, {})
        for case, number in product(args.case, range(1, args.repeats + 1)):
            with tempfile.TemporaryDirectory() as scratch:
                results.measure(f"{case} {number}", partial(compared, case, Path(scratch)))
    kept = json.loads((RESULTS / f"{NAME}.json").read_text(encoding="utf-8"))
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8"), "plan", section(kept)), encoding="utf-8")


if __name__ == "__main__":
    main()
