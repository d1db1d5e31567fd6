"""Does token selection keep a model safe? All methods on real data, and a ladder of settings.

    python -m studies.safety.study                         # the headline table and docs/results.md
    python -m studies.safety.study --only headline:0 --methods base sft toss    # these, and no page
    python -m studies.safety.study --ladder                # the settings around it too
    python -m studies.safety.study --page                  # the page from the results that are kept
    python -m studies.safety.study --results DIR           # all of it again, results and page in another folder

Results are kept, value by value, in ``studies/safety/results``: a method that has a line there is not run again, so a
study can be cut into as many sittings as it takes, and several processes may each take some. What is needed to go on
lies under ``runs/safety``: what was trained there is not trained again either, unless that folder is removed.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from studies.provenance import code_version
from studies.safety.base import COMMON, make_base
from studies.safety.data import SPLITS, check_leaks, leak_files, write_common, write_sets
from studies.safety.guard import make_guard
from studies.safety.ledger import add_result, check_bases, ledger, read_results, short
from studies.safety.page import write_page
from studies.safety.settings import (
    CELLS,
    HEADLINE,
    METHODS,
    REFERENCES,
    UNTRAINED,
    config,
    methods_of,
    run_folder,
    sets_folder,
)

import tosslm
from tosslm.cli import quiet_libraries
from tosslm.compare import compare
from tosslm.config import Config, load_config
from tosslm.data.rows import read_rows
from tosslm.evaluation.generate import generate_answers
from tosslm.evaluation.measures import Sample, answer_samples, read_samples
from tosslm.evaluation.prompts import read_prompts
from tosslm.files import fingerprint
from tosslm.methods import registry
from tosslm.methods.needs import GUARD
from tosslm.model.base import attached_adapters, open_base
from tosslm.pipeline import outputs
from tosslm.progress import ConsoleReporter
from tosslm.ragged import answer_positions
from tosslm.runs.folder import RunFolder
from tosslm.runs.layout import MODEL, UTILITY, Layout, degraded, evaluation

RESULTS = Path(__file__).parent / "results"
FIRST_POSITIONS = 20


def measure(cell: str, seed: int, methods: Sequence[str], results: Path = RESULTS) -> None:
    """Train and evaluate every method of a setting and seed that has no result yet."""
    file = ledger(results, cell)
    known = read_results(file)
    left = [method for method in methods if seed not in known.get(method, {})]
    own = () if cell != HEADLINE and CELLS[cell].headline_references else REFERENCES
    asked = [name for name in own if seed not in known.get(f"{name}-reference", {})]
    if not left and not asked:
        return
    code = code_version()
    settings = _prepared(cell, seed)
    about: dict[str, Any] = {"seed": seed, "base": open_base(settings.model).identity, "code": code}
    for table in (known, read_results(ledger(results, HEADLINE))):  # refused before hours of work
        check_bases(table, about["base"])
    for group in groups(left):
        if any(GUARD in registry()[method].needs for method in group):
            make_guard(Path(sets_folder(cell, seed)), Path(run_folder(cell, seed)) / "guard", seed)
        started = time.monotonic()
        failed = {
            one["method"]: one["reason"] for one in compare(settings, group, reporter=ConsoleReporter())["failed"]
        }
        seconds = (time.monotonic() - started) / len(group)
        for method in group:
            if method in failed:
                print(f"{cell}, seed {seed}: {method} came to nothing: {failed[method]}", flush=True)
                continue
            add_result(file, about | {"method": method, "seconds": round(seconds, 1)} | _extract(settings, method))
    for name in asked:
        if _reference(settings, name).exists():  # a method that needs no score trains no reference
            add_result(file, about | {"method": f"{name}-reference"} | _reference_refusals(settings, name))


def groups(methods: Sequence[str]) -> list[list[str]]:
    """Each method by itself, but those with TOSS-Pro's rounds together: in one comparison they share them."""
    refined = [method for method in methods if registry()[method].builds_on == "refine"]
    found = [refined if method in refined else [method] for method in methods]
    return [group for number, group in enumerate(found) if group not in found[:number]]


def _prepared(cell: str, seed: int) -> Config:
    """The config of a setting and seed, its base made, its sets written and checked for leaks."""
    make_base()
    sets = Path(sets_folder(cell, seed))
    if not (COMMON / f"xstest_{SPLITS[-1]}.jsonl").exists():
        write_common(COMMON)
    if not sets.exists():
        write_sets(sets, seed, CELLS[cell].share)
    check_leaks(leak_files(COMMON, sets))
    if cell != HEADLINE and CELLS[cell].headline_rows:  # what is trained there in the same way is not trained again
        RunFolder(run_folder(cell, seed)).adopt(RunFolder(run_folder(HEADLINE, seed)), outputs(), skip=())
    overrides = [f"{key}={json.dumps(value)}" for key, value in CELLS[cell].overrides.items()]
    return load_config(config(cell, seed), overrides)


def _extract(settings: Config, method: str) -> dict[str, Any]:
    """What is kept of a method: every metric's values, split by split, and where its dropped tokens lie."""
    trains = method != UNTRAINED
    folder = Layout(Path(settings.run_dir)).method(method, settings.seed if trains else None)
    samples = read_samples(Layout(folder).of(evaluation(MODEL if trains else UNTRAINED)))
    ids = _split_ids(settings)
    metrics = {
        name: {split: _kept(sample, known) for split, known in ids.items() if not known.isdisjoint(sample.ids)}
        for name, sample in samples.items()
    }
    versions = tosslm.load_run(folder).manifest["versions"]
    return {"versions": versions, "metrics": metrics, "dropped": _dropped(folder) if trains else None}


def _split_ids(settings: Config) -> dict[str, set[str]]:
    """Ids of the prompts and rows of each split."""
    ids: dict[str, set[str]] = {}
    for split in SPLITS:
        prompts = [COMMON / f"{name}_{split}.jsonl" for name in ("advbench", "xstest")]
        rows = [COMMON / f"{name}_{split}.jsonl" for name in ("harmful", "utility")]
        ids[split] = {prompt.prompt_id for file in prompts for prompt in read_prompts(str(file))}
        ids[split] |= {row.row_id for row in read_rows([str(file) for file in rows]) if hasattr(row, "row_id")}
    return ids


def _kept(sample: Sample, known: set[str]) -> dict[str, Any]:
    """Values of the prompts of one split; the print tells whether two results are of the same prompts."""
    chosen = [i for i, id_ in enumerate(sample.ids) if id_ in known]
    weights = None if sample.weights is None else [short(sample.weights[i]) for i in chosen]
    values = [short(sample.values[i]) for i in chosen]
    return {"values": values, "weights": weights, "print": fingerprint(*(sample.ids[i] for i in chosen))[:16]}


def _dropped(folder: Path) -> dict[str, Any]:
    """Response tokens and dropped ones, by source and by position in the answer."""
    run = tosslm.load_run(folder)
    counts: dict[str, dict[str, list[int]]] = {"source": defaultdict(lambda: [0, 0]), "position": {}}
    places = np.zeros((2, FIRST_POSITIONS + 1), dtype=np.int64)  # the last column is all later tokens
    for row, keep in zip(run.rows, run.keep(), strict=True):
        counts["source"][row["source"]][0] += len(keep)
        counts["source"][row["source"]][1] += int((~keep).sum())
        positions = np.minimum(answer_positions(np.asarray(row["response_mask"])), FIRST_POSITIONS)
        places[0] += np.bincount(positions, minlength=FIRST_POSITIONS + 1)
        places[1] += np.bincount(positions[~keep], minlength=FIRST_POSITIONS + 1)
    return {"source": dict(counts["source"]), "tokens": places[0].tolist(), "dropped": places[1].tolist()}


def _reference(settings: Config, name: str) -> Path:
    return Layout(Path(settings.run_dir)).of(UTILITY if name == "utility" else degraded(0))


def _reference_refusals(settings: Config, name: str) -> dict[str, Any]:
    """Whether a reference itself still refuses, on the test prompts."""
    base, asked, started = open_base(settings.model), settings.evaluation, time.monotonic()
    with attached_adapters(base, {name: _reference(settings, name)}) as model:
        answers = generate_answers(
            model,
            base.tokenizer,
            read_prompts(str(COMMON / "advbench_test.jsonl")),
            max_new_tokens=asked.max_new_tokens,
            batch_size=asked.batch_size,
            name=f"{name} reference",
            reporter=ConsoleReporter(),
        )
    ids = _split_ids(settings)["test"]
    return {
        "seconds": round(time.monotonic() - started, 1),
        "versions": tosslm.load_run(settings.run_dir).manifest["versions"],
        "metrics": {metric: {"test": _kept(s, ids)} for metric, s in answer_samples("harmful", answers).items()},
        "dropped": None,
    }


def _runs(only: Sequence[str], ladder: bool) -> Iterator[tuple[str, int]]:
    for item in only:
        cell, _, seed = item.rpartition(":")
        if cell not in CELLS or not seed.isdecimal():
            raise SystemExit(f"--only {item}: expected CELL:SEED, with a cell of {', '.join(CELLS)}")
        yield cell, int(seed)
    if not only:
        for cell, setting in CELLS.items():
            if cell == HEADLINE or ladder:
                yield from ((cell, seed) for seed in setting.seeds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--page", action="store_true", help="write the page from what is there")
    parser.add_argument("--ladder", action="store_true", help="the settings around the headline too")
    parser.add_argument("--only", nargs="*", default=[], metavar="CELL:SEED", help="only these runs, and no page")
    parser.add_argument(
        "--results",
        type=Path,
        default=RESULTS,
        metavar="DIR",
        help="where results are kept; in a new folder nothing is known yet, and the page is written there too",
    )
    parser.add_argument("--methods", nargs="*", choices=METHODS, help="only these methods")
    arguments = parser.parse_args()
    quiet_libraries()
    if not arguments.page:
        for cell, seed in _runs(arguments.only, arguments.ladder):
            measure(cell, seed, arguments.methods or methods_of(cell, seed), arguments.results)
    if not arguments.only:
        write_page(arguments.results, Path("docs") if arguments.results == RESULTS else arguments.results)


if __name__ == "__main__":
    main()
