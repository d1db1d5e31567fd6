"""What an anchor costs: time and peak memory of anchored against plain selective fine-tuning.

    python -m benchmarks.anchor                      # 48 rows, 5 repeats: about 5 minutes of one idle core
    python -m benchmarks.anchor --rows 16 --repeats 1

Every training is a process of its own, on the demo's rows with a tenth of the response tokens dropped, and the kinds
take turns, so that a drift of the machine's speed falls on all of them. Tokens are dropped at random, which puts an
anchor into nearly every row, or the last half of every fifth answer, as where a posterior finds stretches. Time is
that of the training alone, in seconds of the processor; peak memory is the process's largest resident set. Ratios are
between neighbours in time.
"""

from __future__ import annotations

import json
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks.measuring import Results, in_process, measured, parser_of, provenance_told, spread

NAME = "anchor"
DISCARD = 0.1
BAR = 1.25
"""An anchored training at most so many times a plain one, tokens dropped at random."""
KINDS: dict[str, tuple[int | None, bool]] = {
    "plain": (None, False),
    "anchor_first 0": (0, False),
    "anchor_first 5": (5, False),
    "plain, stretches": (None, True),
    "anchor_first 0, stretches": (0, True),
}
"""``anchor_first``, None for no anchors, and whether tokens are dropped in stretches."""
SETTINGS = {"learning_rate": 5e-4, "epochs": 1, "batch_size": 64, "micro_batch_size": 8}
ROWS, REPEATS = 48, 5


def kept(count: int, number: int, rng: np.random.Generator, *, stretches: bool) -> np.ndarray:
    """Which response tokens of a row are kept, bool ``[count]``; about a tenth of all are not."""
    if stretches:
        return (np.arange(count) < count // 2) | (number % 5 > 0)
    return rng.random(count) >= DISCARD


def one(kind: str, count: int) -> dict[str, float]:
    """Train one kind in this process: seconds and peak memory."""
    import tosslm
    from tosslm.config import ModelConfig, TrainingConfig
    from tosslm.data.rows import BadRow, read_rows
    from tosslm.model.base import open_base
    from tosslm.quiet import quiet_libraries
    from tosslm.training.fine_tune import fine_tune
    from tosslm.training.labels import anchored_tokens, training_row
    from tosslm.training.train import Recipe

    quiet_libraries()
    (first, stretches), base = KINDS[kind], open_base(ModelConfig.model_validate({}))
    found = read_rows([str(Path(__file__).parents[1] / "examples/demo/data/custom.jsonl")])
    messages = [{"messages": row.messages} for row in found if not isinstance(row, BadRow)][:count]
    rng, rows = np.random.default_rng(0), []
    for number, row in enumerate(tosslm.tokenize_rows(messages, base.tokenizer)):
        keep = kept(sum(row["response_mask"]), number, rng, stretches=stretches)
        anchored = None if first is None else anchored_tokens(keep, np.arange(len(keep)), first)
        rows.append(training_row(row["input_ids"], row["response_mask"], keep, anchored))
    _ = base.model
    recipe = Recipe(TrainingConfig.model_validate(SETTINGS), seed=0, anchor_weight=0.0 if first is None else 1.0)
    with tempfile.TemporaryDirectory() as folder:
        out, work = Path(folder) / "adapter", Path(folder) / "work"
        return measured(lambda: fine_tune(base, rows, recipe, out=out, work=work))


def ratios(cases: dict[str, Any], key: str = "cpu_seconds") -> dict[str, list[float]]:
    """Of each anchored kind, its figure over that of the plain training with the same mask in the same turn."""
    found: dict[str, list[float]] = {}
    for kind, (first, stretches) in KINDS.items():
        plain = "plain, stretches" if stretches else "plain"
        turns = [name.rpartition(" ")[2] for name in cases if name.startswith(f"{kind}, turn ")]
        if first is not None:
            both = [turn for turn in turns if f"{plain}, turn {turn}" in cases]
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
        "anchor and the base reads nearly all of the set.",
        "",
        "| | time against plain | peak memory against plain |",
        "|---|---|---|",
    ]
    times, peaks = ratios(results["cases"]), ratios(results["cases"], "peak_mb")
    lines += [f"| {kind} | {_told(times[kind])} | {_told(peaks[kind])} |" for kind in times]
    found = spread(times["anchor_first 0"])
    verdict = "met" if found["median"] <= BAR else "not met"
    bar = f"- At random, `anchor_first` 0, at most {BAR:g} times: **{verdict}** ({_told(times['anchor_first 0'])})."
    why = (
        "A step's products are one pass forward and two backward; the base's is one more pass forward, without "
        "gradients, over the rows that have an anchor, to the last of it. So where nearly every row has one, about a "
        "third is added whatever is done about it, and less only where anchors stand in few rows, as under "
        "*stretches*."
    )
    return "\n".join([*lines, "", bar, "", why, "", provenance_told(results)])


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
    results = Results(NAME, {"rows": args.rows} | SETTINGS)
    for repeat in range(args.repeats):
        for kind in KINDS:
            results.measure(f"{kind}, turn {repeat}", partial(in_process, NAME, kind, args.rows))
    times, peaks = ratios(results.cases), ratios(results.cases, "peak_mb")
    told = {f"{kind}, {what}": found[kind] for kind in times for what, found in (("seconds", times), ("peak", peaks))}
    for name, values in told.items():
        print(f"{name} against plain: {_told(values)}")


if __name__ == "__main__":
    main()
