"""Commands that measure models and methods."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from tosslm.commands.frame import (
    AsJson,
    Overrides,
    RunDir,
    RunOrConfig,
    app,
    config_of,
    console_here,
    progress_here,
    reported_errors,
)
from tosslm.errors import InputError, TosslmError
from tosslm.outward import outward
from tosslm.quiet import quiet_libraries


@app.command()
def evaluate(
    source: RunOrConfig,
    model: Annotated[
        str | None, typer.Option("--model", help="Measure this model instead: hub id or folder.")
    ] = None,
    adapter: Annotated[
        str | None, typer.Option("--adapter", help="Measure this PEFT adapter instead, on --model or the base.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="With --model or --adapter: folder for the results.")
    ] = None,
    scale: Annotated[
        str | None, typer.Option("--scale", help="Measure the adapter at further scales too: 0.4,0.6,0.8.")
    ] = None,
    fail_if: Annotated[
        list[str] | None,
        typer.Option("--fail-if", help="Exit with 1 if so: 'refusal_rate<0.9'. May be repeated."),
    ] = None,
    overrides: Overrides = None,
    run_dir: RunDir = None,
    as_json: AsJson = False,
) -> None:
    """Measure safety and utility of base and fine-tuned model, or of any other. Does first what is still missing."""
    with reported_errors():
        from tosslm.config.evaluation import parse_scales
        from tosslm.evaluation.gate import failures, parse_gate

        gates = [parse_gate(text) for text in fail_if or ()]
        if scale is not None and (model or adapter):
            raise InputError("--scale is for the adapter of a run; leave out --model and --adapter")
        if out and not (model or adapter):
            raise InputError(
                "--out is for results that lie in no run; name what is measured with --model or --adapter"
            )
        scales = [f"evaluation.scales={parse_scales(scale)}"] if scale is not None else []
        config = config_of(source, [*(overrides or ()), *scales], run_dir)
        quiet_libraries()
        from tosslm.door import check_local
        from tosslm.evaluation.external import evaluate_external
        from tosslm.pipeline import evaluate as evaluate_run
        from tosslm.terminal.results import print_results

        if model or adapter:
            if out is None:
                check_local(config.run_dir, "writing results beside it", "say where with --out")
            beside = Path(config.run_dir).resolve()
            folder = out or beside.with_name(f"{beside.name}-evaluation")
            subject = {"model": model, "adapter": adapter}
            records = [evaluate_external(config, **subject, folder=folder, gates=gates, reporter=progress_here())]
        else:
            records = evaluate_run(config, gates=gates, reporter=progress_here())
        measured = [record for record in records if "scale" not in record][-1]
        reasons = failures(gates, measured["metrics"])
        if as_json:
            print(json.dumps({"records": records, "failed": reasons}))
        else:
            print_results(records, console_here())
        if reasons:
            raise TosslmError("the model fails: " + "; ".join(reasons))


@app.command("compare")
def compare_command(
    config_file: Annotated[
        str | None,
        typer.Argument(help="Run folder, or its URL, or config file.", metavar="SOURCE", show_default=False),
    ] = None,
    methods: Annotated[
        str | None,
        typer.Option(
            "--methods",
            help="Names, with commas between; --methods help lists them. By default base,sft,random,toss and the one "
            "that does what the config says.",
        ),
    ] = None,
    seeds: Annotated[
        str | None, typer.Option("--seeds", help="Numbers, with commas between; the config's seed by default.")
    ] = None,
    overrides: Overrides = None,
    run_dir: RunDir = None,
    as_json: AsJson = False,
) -> None:
    """Train and measure several methods on the same data, with the same budget and seeds; one table."""
    with reported_errors():
        from tosslm.methods import named_alike, registry

        if methods == "help":
            if as_json:
                keys = ("name", "summary", "source", "badge", "differs")
                print(json.dumps([{key: getattr(method, key) for key in keys} for method in registry().values()]))
                return
            for method in registry().values():
                print(
                    f"{method.name}: {method.summary}. Source: {method.source} ({method.badge}). "
                    f"Differs: {method.differs}."
                )
            return
        if config_file is None:
            raise InputError("SOURCE is missing: a run folder or a config file; --methods help alone needs none")
        config = config_of(config_file, overrides, run_dir)
        quiet_libraries()
        from tosslm.compare import compare, parse_seeds
        from tosslm.terminal.results import print_comparison

        own = named_alike(config)
        chosen = [name.strip() for name in (methods or "base,sft,random,toss").split(",") if name.strip()]
        chosen += [own] if own and methods is None and own not in chosen else []
        results = compare(config, chosen, seeds=parse_seeds(seeds), reporter=progress_here())
        if as_json:
            print(json.dumps(results))
        else:
            print_comparison(results["summary"], results["causes"], console_here())
            if own not in chosen:
                print(outward(_not_compared(config.run_dir, own)))
            print(outward(f"To see it in the run's report: toss report {config.run_dir}"))
        if results["failed"]:
            reasons = (f"{entry['method']}, seed {entry['seed']}: {entry['reason']}" for entry in results["failed"])
            raise TosslmError("some methods failed: " + "; ".join(reasons))


def _not_compared(run_dir: str, own: str | None) -> str:
    """That no line of a table is the run's own."""
    if own is None:
        return (
            "None of these is what this run does, and no method by name does the same: "
            f"toss evaluate {run_dir} measures it"
        )
    return f"None of these is what this run does, which is {own}: add it to --methods"
