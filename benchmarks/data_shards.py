"""What a row of the data stage costs: by one process, in a shard that reads it or tokenises it, and when taken.

    python -m benchmarks.data_shards            # a minute; writes results/data_shards.json and docs/scaling.md
    python -m benchmarks.data_shards --write    # writes the page alone

Rows are made; the tokenizer is the real model's. Processor seconds of one process, after its libraries are loaded.
"""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.made import conversations, write_jsonl
from benchmarks.measuring import Results, folder_of, kept, lacking, measured, parser_of, provenance_told, spread
from benchmarks.sizes import PAGE, written
from transformers import AutoTokenizer, LlamaConfig

from tosslm.config import Config, load_config
from tosslm.data.rows import source_rows
from tosslm.files import sha256
from tosslm.methods import settled
from tosslm.model.base import open_base
from tosslm.model.builtin import SMOLLM2, builtin_folder
from tosslm.pipeline import carry_out, workbench
from tosslm.progress import SilentReporter
from tosslm.runs.layout import SETS
from tosslm.stages.blocks import ROWS_PER_BLOCK
from tosslm.stages.data import data_step
from tosslm.stages.shard import Shard
from tosslm.stages.sharing import data_next
from tosslm.workbench import Workbench

NAME = "data_shards"
SHARDS = 4
ROWS = SHARDS * ROWS_PER_BLOCK
WORDS = (190, 460)
MILLIONS = 10
REPEATS = 3
WAYS = ("alone", "read", "share", "take")


def compared(folder: Path) -> dict[str, float]:
    """Milliseconds a row of each way, and tokens a row; the files of both ways have the same checksums."""
    _made(folder)
    base = open_base(_config(folder, "alone").model)
    one, several = (workbench(_config(folder, name), SilentReporter(), base=base) for name in ("alone", "shared"))
    source = one.config.data.custom
    alone = measured(lambda: _run(one))
    read = measured(lambda: sum(1 for _ in source_rows(source)))
    shares = [measured(partial(data_next, several, data_step(), Shard(index, SHARDS))) for index in range(SHARDS)]
    take = measured(lambda: _run(several))
    files = [[sha256(folder / name / f"data/{one}.parquet") for one in SETS] for name in ("alone", "shared")]
    assert files[0] == files[1]
    counts = several.folder.stages["data"]["sets"]["custom"]
    seconds = (alone, read, {"cpu_seconds": sum(one["cpu_seconds"] for one in shares)}, take)
    found = {way: 1000 * one["cpu_seconds"] / ROWS for way, one in zip(WAYS, seconds, strict=True)}
    # Every shard reads all rows; what is left is done once for each row.
    found["share"] -= SHARDS * found["read"]
    return found | {"tokens": counts["tokens"] / ROWS}


def _run(bench: Workbench) -> None:
    carry_out([data_step()], bench, every=[data_step()])


def _made(folder: Path) -> None:
    """Rows, and a model without weights: the data stage loads none."""
    tokenizer = AutoTokenizer.from_pretrained(builtin_folder(SMOLLM2))
    LlamaConfig(vocab_size=len(tokenizer), hidden_size=32).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    for seed, (name, rows) in enumerate((("custom", ROWS), ("harmful", 8), ("utility", 8))):
        write_jsonl(folder / f"{name}.jsonl", conversations(rows, seed, words_of=WORDS))


def _config(folder: Path, run: str) -> Config:
    tree = {
        "run_dir": str(folder / run),
        "model": {"name": str(folder / "model"), "dtype": "float32", "device": "cpu"},
        "data": {name: {"path": str(folder / f"{name}.jsonl")} for name in SETS},
    }
    return settled(load_config(tree))[0]


def section(results: dict[str, Any]) -> str:
    """The table, and what it comes to for many rows."""
    cases = list(results["cases"].values())
    ms = {way: spread([one[way] for one in cases]) for way in WAYS}
    middle = {way: one["median"] for way, one in ms.items()}
    cells = [f"{one['median']:.2f} ({one['low']:.2f} to {one['high']:.2f})" for one in ms.values()]

    def hours(milliseconds: float) -> str:
        return f"{milliseconds * MILLIONS / 3.6:.1f}"

    lacks = lacking(results, [str(1 + number) for number in range(results["settings"].get("repeats", REPEATS))])
    told = [f"{count}: {hours(middle['read'] + middle['share'] / count)} h" for count in (4, 16, 64)]
    return "\n".join(
        [
            "| ms a row | by one process | read by each shard | tokenised by one shard | taken by the run |",
            "|---|---|---|---|---|",
            f"| {len(cases)} times | {' | '.join(cells)} |",
            "",
            f"So {MILLIONS} million such rows are {hours(middle['alone'])} h for one process. Shared, each shard is "
            f"done after reading all rows and tokenising its own ({', '.join(told)}, by the number of shards), and "
            f"the run takes them in {hours(middle['take'])} h, which no number of shards makes less.",
            "",
            f"{ROWS:,} made rows of {cases[0]['tokens']:.0f} tokens on average, {SHARDS} shards one after the other, "
            f"processor seconds; hours are by multiplication. {provenance_told(results, lacks)}",
            "",
        ]
    )


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--repeats", type=int, default=REPEATS)
    parser.add_argument("--write", action="store_true", help="only write the table of docs/scaling.md")
    args = parser.parse_args()
    if not args.write:
        settings = {"rows": ROWS, "words": list(WORDS), "shards": SHARDS, "repeats": args.repeats}
        results = Results(NAME, settings, folder_of(parser, args))
        for number in range(1, args.repeats + 1):
            with tempfile.TemporaryDirectory() as scratch:
                results.measure(str(number), partial(compared, Path(scratch)))
    told = "\n".join(map(section, kept(NAME)))
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8"), "data shards", told), encoding="utf-8")


if __name__ == "__main__":
    main()
