"""What the method costs: the whole job beside plain fine-tuning, on the same rows and model, stage by stage.

    python -m benchmarks.cost                  # 50 rows, 5 repeats: about 15 minutes of one idle core
    python -m benchmarks.cost --rows 20 --repeats 1

Five jobs take turns, each a process of its own: ``sft``, method sft of `toss compare`; ``job``, references on a
tenth as many rows each, scoring, selection and fine-tuning; ``proxy``, the same with ``references.model``, an eighth
of the base's size; ``job-mask`` and ``proxy-mask``, these two without the anchor. Rows are the demo's, trainings have
the tool's defaults. What differs from the defaults is the
selection: a tenth of the tokens by their own scores, since the posterior asks for more held-out rows than these.
There is no proxy an eighth of SmolLM2-135M, so one is made with random weights: its time is a real one's, its choice
is not. Times are seconds of the processor.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.measuring import (
    MADE,
    Results,
    dtype_told,
    folder_of,
    in_process,
    lacking,
    parser_of,
    provenance_told,
    spread,
    verdict,
)

NAME = "cost"
_PROXY_NAME = "whole job, proxy an eighth of the size"
KINDS = {
    "sft": "plain fine-tuning",
    "job": "whole job",
    "proxy": _PROXY_NAME,
    "job-mask": "whole job, dropped tokens ignored",
    "proxy-mask": f"{_PROXY_NAME}, dropped tokens ignored",
}
BARS = {"job": 1.6, "proxy": 1.15, "job-mask": 1.6, "proxy-mask": 1.15}
"""The whole job at most so many times plain fine-tuning, what both take to load left out of either."""
ROWS, REPEATS = 50, 5
START = "libraries and weights"
STAGES = ("data", "references", "score", "select", "finetune")
_LATE = " Scoring has the loading of scikit-learn in it, which the benchmark has since counted with the libraries."
"""Of results of before that."""
_DATA = Path(__file__).parents[1] / "examples/demo/data"
_PROXY = MADE / "proxy"


def settings(kind: str, rows: int, run_dir: Path) -> dict[str, Any]:
    """The config of a job."""
    limits = {"custom": rows, "harmful": max(rows // 10, 2), "utility": max(rows // 10, 2)}
    config: dict[str, Any] = {
        "run_dir": str(run_dir),
        "data": {name: {"path": str(_DATA / f"{name}.jsonl"), "limit": limit} for name, limit in limits.items()},
        "selection": {"evidence": "token", "discard_fraction": 0.1},
    }
    if kind == "sft":
        config["method"] = "sft"
    if kind.endswith("-mask"):
        config["finetune"] = {"dropped": "ignore"}
    if kind.startswith("proxy"):
        config["references"] = {"model": str(proxy_folder())}
    return config


def proxy_folder() -> Path:
    """A Llama with random weights, an eighth of SmolLM2-135M's size, with its tokenizer, made unless it is there."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    from tosslm.files import atomic_folder
    from tosslm.model.builtin import SMOLLM2, builtin_folder

    if not _PROXY.exists():
        _PROXY.parent.mkdir(parents=True, exist_ok=True)
        tokenizer = AutoTokenizer.from_pretrained(builtin_folder(SMOLLM2))
        shape = {"hidden_size": 192, "intermediate_size": 512, "num_hidden_layers": 19, "vocab_size": len(tokenizer)}
        heads = {"num_attention_heads": 3, "num_key_value_heads": 1, "tie_word_embeddings": True}
        torch.manual_seed(0)
        model = LlamaForCausalLM(LlamaConfig(**shape, **heads)).to(torch.bfloat16)
        with atomic_folder(_PROXY) as beside:
            model.save_pretrained(beside)
            tokenizer.save_pretrained(beside)
    return _PROXY


def one(kind: str, rows: int) -> dict[str, Any]:
    """One job in this process: seconds of the processor a stage."""
    from tosslm.config import load_config
    from tosslm.methods import settled
    from tosslm.pipeline import carry_out, steps, upto, workbench
    from tosslm.progress import SilentReporter
    from tosslm.quiet import quiet_libraries

    quiet_libraries()
    with tempfile.TemporaryDirectory() as scratch:
        config, method = settled(load_config(settings(kind, rows, Path(scratch) / "run")))
        bench = workbench(config, SilentReporter())
        import sklearn.metrics  # noqa: F401  # loaded late by a stage, as is what trains

        import tosslm.training.train  # noqa: F401

        _ = bench.base.model
        taken = {START: time.process_time()}
        every = steps(config, method)
        for step in upto(every, "finetune"):
            begin = time.process_time()
            carry_out([step], bench, every=every)
            taken[step.stage] = taken.get(step.stage, 0.0) + time.process_time() - begin
        model = bench.folder.stages["model"]
        facts = {name: model[name] for name in ("tokens", "trained_tokens", "anchored_tokens")}
        facts["dtype"] = str(bench.base.model.dtype).removeprefix("torch.")
    return {"seconds": taken, **facts}


def ratios(results: dict[str, Any], kind: str, *, start: bool) -> list[float]:
    """A job's seconds over plain fine-tuning's of the same turn, with or without libraries and weights."""
    cases, found, number = results["cases"], [], 0
    while all(f"{name} {number}" in cases for name in (kind, "sft")):
        own, plain = (
            sum(taken for stage, taken in cases[f"{name} {number}"]["seconds"].items() if start or stage != START)
            for name in (kind, "sft")
        )
        found.append(own / plain)
        number += 1
    return found


def section(results: dict[str, Any]) -> str:
    """The page's section."""
    cases, asked = results["cases"], results["settings"]
    facts = next(iter(cases.values()))
    lines = [
        "## What the method costs",
        "",
        f"`python -m benchmarks.cost`: {asked['rows']} rows of the demo ({facts['tokens']} tokens in two epochs), "
        "references on a tenth as many rows each, scoring, selection and fine-tuning, beside plain fine-tuning "
        "(method `sft`) of the same base on the same rows; trainings with the tool's defaults, the anchor among them "
        "unless dropped tokens are ignored, as in the paper. "
        "Jobs take turns, each a process of its own; processor seconds, medians, lowest to highest. A tenth of the "
        "tokens is dropped by their own scores, so that nearly every row has an anchor: where the posterior drops "
        "stretches of few rows, the base reads less. The proxy has random weights, for want of a real one an eighth "
        "of the size: its time is what is measured, not its choice. Bars are judged without the libraries and "
        "weights that every job loads, which a short job makes look smaller; ratios with them are beside. "
        f"{dtype_told(results)}{'' if 'repeats' in asked else _LATE}",
        "",
        "| | " + " | ".join(KINDS.values()) + " |",
        "|---|" + "---|" * len(KINDS),
    ]
    for stage in (START, *STAGES):
        told = []
        for kind in KINDS:
            values = [
                case["seconds"][stage]
                for name, case in cases.items()
                if name.startswith(f"{kind} ") and stage in case["seconds"]
            ]
            told.append(_seconds(values))
        lines.append(f"| {stage} | {' | '.join(told)} |")
    return "\n".join([*lines, "", *map(partial(_bar, results), BARS), "", provenance_told(results, lacks(results))])


def lacks(results: dict[str, Any]) -> str:
    """What is lacking of all jobs in all turns."""
    repeats = results["settings"].get("repeats", REPEATS)
    return lacking(results, [f"{kind} {repeat}" for kind in KINDS for repeat in range(repeats)])


def _seconds(values: list[float]) -> str:
    if not values:
        return "-"
    found = spread(values)
    return f"{found['median']:.1f} ({found['low']:.1f} to {found['high']:.1f})"


def _bar(results: dict[str, Any], kind: str) -> str:
    name, found = (
        f"- {KINDS[kind]}, at most {BARS[kind]:g} times plain fine-tuning",
        ratios(results, kind, start=False),
    )
    if not found:
        return f"{name}: not measured yet."
    whole, bare = spread(ratios(results, kind, start=True)), spread(found)
    met = bare["median"] <= BARS[kind]
    return (
        f"{name}: {verdict(met, lacks(results))} ({bare['median']:.2f}, {bare['low']:.2f} to {bare['high']:.2f}; "
        f"with libraries and weights {whole['median']:.2f}; {bare['n']:.0f} turns)."
        f"{'' if met else _parts(results, kind)}"
    )


def _parts(results: dict[str, Any], kind: str) -> str:
    """Where a job's seconds beyond plain fine-tuning's go, as shares of the latter: medians over turns."""
    cases = results["cases"]
    turns = [number for number in range(len(cases)) if f"{kind} {number}" in cases and f"sft {number}" in cases]
    beyond = {}
    for stage in STAGES:
        shares = []
        for number in turns:
            own, plain = (cases[f"{name} {number}"]["seconds"] for name in (kind, "sft"))
            whole = sum(taken for name, taken in plain.items() if name != START)
            shares.append((own.get(stage, 0.0) - plain.get(stage, 0.0)) / whole)
        beyond[stage] = spread(shares)["median"]
    told = ", ".join(f"{stage} {share:+.0%}" for stage, share in beyond.items() if abs(share) >= 0.005)
    return f" Beyond plain fine-tuning, in shares of it: {told}."


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--repeats", type=int, default=REPEATS)
    parser.add_argument("--one", nargs=2, metavar=("KIND", "ROWS"), help="measure one, in this process")
    args = parser.parse_args()
    if args.one:
        print(json.dumps(one(args.one[0], int(args.one[1]))))
        return
    proxy_folder()
    results = Results(NAME, {"rows": args.rows, "repeats": args.repeats}, folder_of(parser, args))
    for repeat in range(args.repeats):
        for kind in KINDS:
            results.measure(f"{kind} {repeat}", partial(in_process, NAME, kind, args.rows))
    shutil.rmtree(_PROXY)
    for kind in BARS:
        print(_bar({"cases": results.cases, "settings": {"repeats": args.repeats}}, kind))


if __name__ == "__main__":
    main()
