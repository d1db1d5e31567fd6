"""What an anchor costs: time and peak memory of anchored against plain selective fine-tuning.

    python -m benchmarks.anchor                      # 48 rows, 5 repeats: about 10 minutes of one idle core
    python -m benchmarks.anchor --rows 16 --repeats 1

Every training is a process of its own, on the demo's rows with a tenth of the response tokens dropped, and the kinds
take turns, so that a drift of the machine's speed falls on all of them. Tokens are dropped at random, which puts an
anchor into nearly every row, or the last half of every fifth answer, as where a posterior finds stretches. In one
epoch the base reads in every step; in two, the tool's default, it reads once and what it says is kept. Time is that
of the training alone, in seconds of the processor; peak memory is the process's largest resident set. Ratios are
between neighbours in time.
"""

from __future__ import annotations

import json
import tempfile
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from benchmarks.measuring import (
    Results,
    dtype_told,
    folder_of,
    in_process,
    lacking,
    measured,
    parser_of,
    provenance_told,
    spread,
    verdict,
)

NAME = "anchor"
DISCARD = 0.1
BAR = 1.25
"""An anchored training of ``JUDGED`` at most so many times a plain one."""


class Kind(NamedTuple):
    """A training.

    Attributes:
        first: ``anchor_first``; None for no anchors.
        stretches: whether tokens are dropped in stretches, not at random.
        epochs: passes over the rows.
    """

    first: int | None
    stretches: bool = False
    epochs: int = 1


KINDS = {
    "plain": Kind(None),
    "anchor_first 0": Kind(0),
    "anchor_first 5": Kind(5),
    "plain, stretches": Kind(None, stretches=True),
    "anchor_first 0, stretches": Kind(0, stretches=True),
    "plain, two epochs": Kind(None, epochs=2),
    "anchor_first 0, two epochs": Kind(0, epochs=2),
}
JUDGED, WORST = "anchor_first 0, two epochs", "anchor_first 0"
"""The tool's default number of epochs; and where the base reads in every step, and nearly every row."""
SETTINGS = {"learning_rate": 5e-4, "batch_size": 64, "micro_batch_size": 8}
ROWS, REPEATS = 48, 5


def kept(count: int, number: int, rng: np.random.Generator, *, stretches: bool) -> np.ndarray:
    """Which response tokens of a row are kept, bool ``[count]``; about a tenth of all are not."""
    if stretches:
        return (np.arange(count) < count // 2) | (number % 5 > 0)
    return rng.random(count) >= DISCARD


def one(kind: str, count: int) -> dict[str, Any]:
    """Train one kind in this process: seconds and peak memory, and the dtype of the base."""
    import tosslm
    from tosslm.config import ModelConfig, TrainingConfig
    from tosslm.data.rows import BadRow, read_rows
    from tosslm.model.base import open_base
    from tosslm.quiet import quiet_libraries
    from tosslm.training.fine_tune import fine_tune
    from tosslm.training.labels import anchored_tokens, training_row
    from tosslm.training.train import Recipe

    quiet_libraries()
    (first, stretches, epochs), base = KINDS[kind], open_base(ModelConfig.model_validate({}))
    found = read_rows([str(Path(__file__).parents[1] / "examples/demo/data/custom.jsonl")])
    messages = [{"messages": row.messages} for row in found if not isinstance(row, BadRow)][:count]
    rng, rows = np.random.default_rng(0), []
    for number, row in enumerate(tosslm.tokenize_rows(messages, base.tokenizer)):
        keep = kept(sum(row["response_mask"]), number, rng, stretches=stretches)
        anchored = None if first is None else anchored_tokens(keep, np.arange(len(keep)), first)
        rows.append(training_row(row["input_ids"], row["response_mask"], keep, anchored))
    _ = base.model
    settings = TrainingConfig.model_validate(SETTINGS | {"epochs": epochs})
    recipe = Recipe(settings, seed=0, anchor_weight=0.0 if first is None else 1.0)
    with tempfile.TemporaryDirectory() as folder:
        out, work = Path(folder) / "adapter", Path(folder) / "work"
        taken = measured(lambda: fine_tune(base, rows, recipe, out=out, work=work))
    return taken | {"dtype": str(base.model.dtype).removeprefix("torch.")}


def ratios(cases: dict[str, Any], key: str = "cpu_seconds") -> dict[str, list[float]]:
    """Of each anchored kind that was measured, its figure over that of its plain training in the same turn.

    That is the one with the same mask, for as many epochs.
    """
    found: dict[str, list[float]] = {}
    for kind, own in KINDS.items():
        plain = next(name for name, other in KINDS.items() if other == own._replace(first=None))
        turns = [name.rpartition(" ")[2] for name in cases if name.startswith(f"{kind}, turn ")]
        both = [turn for turn in turns if f"{plain}, turn {turn}" in cases]
        if own.first is not None and both:
            found[kind] = [cases[f"{kind}, turn {n}"][key] / cases[f"{plain}, turn {n}"][key] for n in both]
    return found


def section(results: dict[str, Any]) -> str:
    """The page's section."""
    lines = [
        "## What an anchor costs",
        "",
        f"`python -m benchmarks.anchor`: {results['settings']['rows']} rows of the demo, a tenth of the response "
        "tokens dropped, anchored against plain selective fine-tuning with the same mask; each training a process of "
        "its own, in turns. Processor seconds of the training, and the process's peak memory. *Stretches*: the later "
        "half of every fifth answer is dropped; else tokens are dropped at random, so that nearly every row has an "
        "anchor and the base reads nearly all of the set. One epoch, unless two are named. "
        f"{dtype_told(results)}",
        "",
        "| | time against plain | peak memory against plain |",
        "|---|---|---|",
    ]
    times, peaks = ratios(results["cases"]), ratios(results["cases"], "peak_mb")
    lines += [f"| {kind} | {_told(times[kind])} | {_told(peaks[kind])} |" for kind in times]
    why = (
        "A step of a LoRA training takes about 2.3 passes forward: one, and the gradients of the activations; those "
        "of the frozen weights are not computed. The base's reading is one more pass forward, over the rows that "
        "have an anchor, to the last of it. In one epoch, where nearly every row has one, that adds up to "
        "0.4 of a step, whatever is done about it; less where anchors stand in few rows, as under *stretches*. In "
        "several epochs the base reads in the first alone, where what it says at the anchored tokens can be held in "
        "memory, so that two epochs add half as much to each."
    )
    turns = range(results["settings"].get("repeats", REPEATS))
    lacks = lacking(results, [f"{kind}, turn {turn}" for kind in KINDS for turn in turns])
    return "\n".join([*lines, "", *_bars(times, lacks), "", why, "", provenance_told(results, lacks)])


def _bars(times: dict[str, list[float]], lacks: str) -> list[str]:
    name = f"- At random, `anchor_first` 0, two epochs (the default), at most {BAR:g} times"
    if JUDGED in times:
        bar = f"{name}: {verdict(spread(times[JUDGED])['median'] <= BAR, lacks)} ({_told(times[JUDGED])})."
    else:
        bar = f"{name}: not measured yet."
    worst = f"- The worst case, the same in one epoch: {_told(times[WORST])}." if WORST in times else ""
    return [bar, worst] if worst else [bar]


def _told(values: list[float]) -> str:
    found = spread(values)
    return f"{found['median']:.2f} ({found['low']:.2f} to {found['high']:.2f}, {found['n']:.0f} pairs)"


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--repeats", type=int, default=REPEATS)
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--one", nargs=2, metavar=("KIND", "ROWS"), help="train one, in this process")
    args = parser.parse_args()
    if args.one:
        print(json.dumps(one(args.one[0], int(args.one[1]))))
        return
    results = Results(NAME, {"rows": args.rows, "repeats": args.repeats} | SETTINGS, folder_of(parser, args))
    for repeat in range(args.repeats):
        for kind in KINDS:
            results.measure(f"{kind}, turn {repeat}", partial(in_process, NAME, kind, args.rows))
    times, peaks = ratios(results.cases), ratios(results.cases, "peak_mb")
    told = {f"{kind}, {what}": found[kind] for kind in times for what, found in (("seconds", times), ("peak", peaks))}
    for name, values in told.items():
        print(f"{name} against plain: {_told(values)}")


if __name__ == "__main__":
    main()
