"""Commands that do the work: a config, a plan, a run, each of its stages."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated

import typer

from tosslm import team
from tosslm.commands.frame import (
    AsJson,
    ConfigFile,
    Overrides,
    RunDir,
    RunOrConfig,
    app,
    config_of,
    console_here,
    progress_here,
    reported_errors,
)
from tosslm.errors import InputError
from tosslm.outward import outward
from tosslm.quiet import quiet_libraries
from tosslm.stages.purposes import PURPOSES


def _run(
    source: str, overrides: list[str] | None, run_dir: str | None, until: str, fresh: bool, as_json: bool
) -> None:
    with reported_errors(alone=False):
        team.connect()
        config = config_of(source, overrides, run_dir)
        quiet_libraries()
        from tosslm.findings.summary import summarize
        from tosslm.pipeline import run
        from tosslm.terminal.summary import print_summary

        done = run(config, until=until, fresh=fresh, reporter=progress_here())
        team.leave()
        if not team.place().leads:
            return
        summary = summarize(done)
        if as_json:
            print(json.dumps(summary))
        else:
            print_summary(summary, console_here())


@app.command()
def init(
    folder: Annotated[Path, typer.Argument(help="Folder for the config.")] = Path(),
    full: Annotated[bool, typer.Option("--full", help="Write every key, not only those that people change.")] = False,
    as_json: AsJson = False,
) -> None:
    """Write a commented starter config."""
    with reported_errors():
        from tosslm.files import write_text
        from tosslm.starter import starter_config

        path = folder / "toss.yaml"
        if path.exists():
            raise InputError(f"{path}: exists already; remove it, or name another folder")
        write_text(path, starter_config(full=full))
        print(json.dumps({"config": str(path)}) if as_json else outward(f"Wrote {path}. Next: toss plan {path}"))


@app.command()
def plan(
    config_file: ConfigFile,
    measure: Annotated[
        bool,
        typer.Option("--measure", help="Time a few layers of the model's shape with random weights first."),
    ] = False,
    price: Annotated[
        float | None,
        typer.Option("--price", help="Of an hour of this device, in any currency: what each stage costs."),
    ] = None,
    overrides: Overrides = None,
    run_dir: RunDir = None,
    as_json: AsJson = False,
) -> None:
    """Validate config and data; expect time, memory, disk and cost of each stage. Loads no weights."""
    with reported_errors():
        from tosslm.methods import settled

        config, _ = settled(config_of(config_file, overrides, run_dir))
        quiet_libraries()
        from tosslm.pipeline import check_folder
        from tosslm.plan import make_plan
        from tosslm.terminal.plan import print_plan

        check_folder(config)
        result = make_plan(config, measure=measure, reporter=progress_here(), price=price)
        if as_json:
            print(json.dumps(result))
        else:
            print_plan(result, console_here())
        if result["bad_rows"] and config.data.on_bad_row == "error":
            raise InputError(
                f"{len(result['bad_rows'])} bad rows; mend them, or leave them out with data.on_bad_row: skip"
            )


@app.command("run")
def run_command(
    config_file: RunOrConfig,
    overrides: Overrides = None,
    run_dir: RunDir = None,
    until: Annotated[str, typer.Option("--until", help="The last stage or step to do.")] = "report",
    fresh: Annotated[bool, typer.Option("--fresh", help="Start over: remove this run's earlier work.")] = False,
    as_json: AsJson = False,
) -> None:
    """Do everything; a run that was interrupted goes on where it was."""
    _run(config_file, overrides, run_dir, until, fresh, as_json)


def _stage(name: str, help_text: str) -> None:
    def command(
        source: RunOrConfig, overrides: Overrides = None, run_dir: RunDir = None, as_json: AsJson = False
    ) -> None:
        _run(source, overrides, run_dir, name, False, as_json)

    app.command(name, help=f"{help_text} Does first what earlier stages still miss.")(command)


for _name, _purpose in PURPOSES.items():
    if _name not in ("data", "score", "evaluate"):  # which have options of their own
        _stage(_name, _purpose)


Share = Annotated[
    str | None,
    typer.Option(
        "--shard", help="Only share I/N, beside other processes; auto: as torchrun or Slurm say.", metavar="I/N"
    ),
]


def _share(
    name: str, source: str, shard: str, overrides: list[str] | None, run_dir: str | None, as_json: bool
) -> None:
    with reported_errors(alone=False):
        from tosslm.stages.shard import parse_shard

        share = parse_shard(shard, os.environ)
        config = config_of(source, overrides, run_dir)
        quiet_libraries()
        from tosslm import shares

        work = {"data": shares.data_shard, "score": shares.score_shard}[name]
        facts = work(config, share, reporter=progress_here())
        if as_json:
            print(json.dumps(facts))


def _sharing_stage(name: str, help_text: str) -> None:
    def command(
        source: RunOrConfig,
        shard: Share = None,
        overrides: Overrides = None,
        run_dir: RunDir = None,
        as_json: AsJson = False,
    ) -> None:
        if shard is None:
            _run(source, overrides, run_dir, name, False, as_json)
        else:
            _share(name, source, shard, overrides, run_dir, as_json)

    app.command(name, help=help_text)(command)


_sharing_stage("data", PURPOSES["data"])
_sharing_stage("score", f"{PURPOSES['score']} Does first what earlier stages still miss.")
