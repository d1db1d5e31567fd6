"""What models of 8 and 70 billion parameters would take: the plan's arithmetic with shapes and counts put in by hand.

    python -m benchmarks.sizes     # writes the tables of docs/scaling.md; a test fails while the page says otherwise

No such run was made. All that is assumed stands in the constants below, and on the page.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

from tosslm.config import Config, load_config
from tosslm.data.sets import SetCounts
from tosslm.evaluation.workload import Asked
from tosslm.model.shape import Shape
from tosslm.planning.pace import Batches, Device, constant_pace, expected_pace
from tosslm.planning.sample import MicroBatch
from tosslm.planning.sizes import stage_bytes, weight_bytes
from tosslm.planning.stages import stage_records
from tosslm.planning.work import UNKNOWN_ANCHORED_ROWS, Sets, begun, stage_work

PAGE = Path(__file__).parents[1] / "docs" / "scaling.md"
SHAPES = {
    "8B": (Shape(8_030_261_248, 32, 4096, 128_256, 2, tied=False), {"micro_batch_size": 4}),
    "70B": (
        Shape(70_553_706_496, 80, 8192, 128_256, 2, tied=False),
        {"micro_batch_size": 2, "gradient_checkpointing": True},
    ),
}
"""Llama 3's, and what lets a training of 2,048-token rows fit beside the weights."""
FOUR_BIT = {
    "8B": 32 * (2 * 4096 * 4096 + 2 * 4096 * 1024 + 3 * 4096 * 14_336),
    "70B": 80 * (2 * 8192 * 8192 + 2 * 8192 * 1024 + 3 * 8192 * 28_672),
}
"""Weights of their layers' linear maps: queries and outputs, keys and values, the three of the feed-forward part."""
ROWS = (112_000, 10_000_000)
REFERENCE_ROWS = 11_200
TOKENS, RESPONSES, LONGEST = 350, 200, 2048
GPUS = (1, 8, 64)
PEAK, SHARE, BANDWIDTH, BANDWIDTH_SHARE = 989e12, 0.35, 3.35e12, 0.6
"""An H100's bfloat16 multiplications and memory, by its data sheet, and the share of each that is assumed."""
SCORING_PADDING = 1.05
TRAINING_PADDING = {1: 1.0, 2: 1.02, 4: 1.07, 8: 1.18}
"""Of log-normal lengths (sigma 0.5), the 64 rows of a batch sorted; unsorted, 2 rows have 1.28 and 8 rows 1.88."""
ASKED = 64
"""Prompts that the base answers at once: 128 held-out ones, in two batches of the default budget of tokens."""
TOKENISE, DISK, BEGIN = 5e-6, 2e9, 30.0
PRICE = 3.0


def planned(model: str, rows: int) -> list[dict[str, Any]]:
    """The stages of a run of the default config on one GPU."""
    shape, training = SHAPES[model]
    config = _config(training)
    sets = {"custom": _set(rows), "harmful": _set(REFERENCE_ROWS), "utility": _set(REFERENCE_ROWS)}
    micro = training["micro_batch_size"]
    batch = MicroBatch(micro * TOKENS * TRAINING_PADDING[micro], micro * RESPONSES)
    batches = Batches(batch, batch, SCORING_PADDING, RESPONSES / TOKENS, TOKENS, RESPONSES, ASKED)
    device = Device(PEAK * SHARE, BANDWIDTH * BANDWIDTH_SHARE, 40.0)
    weights = shape.parameters * shape.bytes_per_value
    pace = {
        **expected_pace(config, shape, device, batches),
        **constant_pace(begin=BEGIN, load=weights / DISK, tokenise=TOKENISE),
    }
    work = begun(stage_work(config, sets, sets, Asked(), anchored=UNKNOWN_ANCHORED_ROWS))
    return stage_records(work, pace, {}, _sizes(config, sets, shape), PRICE)


def _sizes(config: Config, sets: Sets, shape: Shape) -> dict[str, tuple[float, float]]:
    """Memory and disk of each stage, on a GPU."""
    tokens = config.scoring.batch_tokens
    return stage_bytes(config, sets, sets, shape, shape, evaluates=False, batch_tokens=tokens)


def table() -> str:
    """A line for each model and number of rows."""
    gpus = " / ".join(map(str, GPUS))
    heads = [
        "model",
        "rows",
        f"scoring, h, on {gpus} GPUs",
        "references, h",
        "fine-tuning, h",
        f"all, h, scoring shared by {gpus}",
        "all, h, trainings too, at best",
        "GPU-hours",
        f"at {PRICE:g} an hour",
        "memory scoring / training",
        "disk",
    ]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    return "\n".join(lines + [_line(model, rows) for model in SHAPES for rows in ROWS]) + "\n"


def four_bit_table() -> str:
    """A line for each model: its weights and a run's memory, whole and with linear layers in four bits."""
    lines = [
        "| model | in four bits | weights, bfloat16 | weights, NF4 | scoring, NF4 | training, NF4 |",
        "|---|---|---|---|---|---|",
    ]
    for model, (whole, training) in SHAPES.items():
        shape = replace(whole, four_bit=FOUR_BIT[model])
        sets = {name: _set(REFERENCE_ROWS) for name in ("custom", "harmful", "utility")}
        stages = _sizes(_config(training), sets, shape)
        sizes = [weight_bytes(whole), weight_bytes(shape), stages["score"][0], stages["finetune"][0]]
        share = f"{shape.four_bit / shape.parameters:.0%} of the weights"
        lines.append(f"| {' | '.join([model, share, *(f'{size / 1e9:.1f} GB' for size in sizes)])} |")
    return "\n".join(lines) + "\n"


def _line(model: str, rows: int) -> str:
    stages = {stage["stage"]: stage for stage in planned(model, rows)}
    hours = {name: stage["seconds"] / 3600 for name, stage in stages.items()}
    others = sum(hours.values()) - hours["score"]
    trainings = hours["references"] + hours["finetune"]
    alone = others - trainings
    gpu = sum(hours[name] for name in ("references", "score", "finetune", "diagnose"))
    memory = " / ".join(f"{max(stages[name]['memory_bytes'] for name in of) / 1e9:.0f} GB" for of in _MEMORY)
    disk = sum(stage["disk_bytes"] for stage in stages.values())
    cells = [
        model,
        f"{rows:,}",
        " / ".join(_figure(hours["score"] / count) for count in GPUS),
        _figure(hours["references"]),
        _figure(hours["finetune"]),
        " / ".join(_figure(others + hours["score"] / count) for count in GPUS),
        " / ".join(_figure(alone + (hours["score"] + trainings) / count) for count in GPUS),
        _figure(gpu),
        _figure(gpu * PRICE),
        memory,
        f"{disk / 1e9:.1f} GB",
    ]
    return f"| {' | '.join(cells)} |"


_MEMORY = (("score",), ("references", "finetune"))


def _figure(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"


def _config(training: dict[str, Any]) -> Config:
    places = {name: {"path": f"{name}.jsonl"} for name in ("custom", "harmful", "utility")}
    return load_config({"data": places, "references": training, "finetune": training})


def _set(rows: int) -> SetCounts:
    return SetCounts(rows=rows, tokens=rows * TOKENS, response_tokens=rows * RESPONSES, longest=LONGEST)


def written(page: str, name: str, found: str) -> str:
    """A page with this table between the markers of that name."""
    begin, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->\n"
    head, _, rest = page.partition(begin)
    return f"{head}{begin}\n{found}\n{end}{rest.partition(end)[2]}"


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    page = written(PAGE.read_text(encoding="utf-8"), "sizes", table())
    PAGE.write_text(written(page, "sizes in four bits", four_bit_table()), encoding="utf-8")


if __name__ == "__main__":
    main()
