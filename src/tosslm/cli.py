"""The commands, one per stage; no logic."""

from __future__ import annotations

import io
import json
import logging
import os
import sys
import warnings
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console

from tosslm import team
from tosslm.errors import InputError, TosslmError
from tosslm.exits import PipeConsole, end_at_once, reported
from tosslm.outward import outward
from tosslm.stages.purposes import PURPOSES
from tosslm.stopping import StoppableReporter, Stopping
from tosslm.terminal.arguments import with_home

if TYPE_CHECKING:
    from tosslm.config import Config
    from tosslm.progress import Reporter
    from tosslm.runs.reader import Run

app = typer.Typer(
    help="Leave out the risky tokens, keep the rows: token-level data selection for safe LLM fine-tuning.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
)
SELECTED = ("data", "proxy", "scores", "refinement", "selection")
"""Beginnings of the steps whose files rows and masks are read from; others are not fetched from a URL for that."""
debug = False
_stopping = Stopping()

ConfigFile = Annotated[Path, typer.Argument(help="Config file (YAML).", show_default=False)]
RunOrConfig = Annotated[
    str, typer.Argument(help="Run folder, or its URL, or config file.", metavar="SOURCE", show_default=False)
]
RunFolder = Annotated[str, typer.Argument(help="Run folder, or its URL.", metavar="RUN", show_default=False)]
Overrides = Annotated[list[str] | None, typer.Option("--set", help="Override: a.b=value. May be repeated.")]
RunDir = Annotated[str | None, typer.Option("--run-dir", help="Run folder, instead of the config's.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result for machines.")]


def main() -> None:
    """Entry point of ``toss``; ``--debug`` anywhere shows tracebacks."""
    global debug
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # what a terminal of another encoding cannot show it names
            stream.reconfigure(errors="backslashreplace")
    sys.argv[1:] = with_home(sys.argv[1:])
    if "--debug" in sys.argv:
        sys.argv.remove("--debug")
        debug = True
    try:
        app()
    except SystemExit as end:
        if team.current() is None or not isinstance(end.code, int | None):
            raise
        end_at_once(end.code or 0)


@contextmanager
def _reported_errors(*, alone: bool = True) -> Iterator[None]:
    """Errors as messages; a command that works ``alone`` refuses a launcher of several processes."""
    global _stopping
    _stopping = Stopping()
    with reported(_stopping, debug=debug, failed=team.failed):
        if alone:
            team.refuse_several()
        yield


def _reporter() -> Reporter:
    from tosslm.progress import ConsoleReporter, SilentReporter

    return StoppableReporter(ConsoleReporter() if team.place().leads else SilentReporter(), _stopping)


def quiet_libraries() -> None:
    """No warnings and bars of libraries between the project's own lines."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    warnings.filterwarnings("ignore", category=FutureWarning)
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it misses a kernel that is not used, see quantize.py
    import datasets
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    datasets.disable_progress_bars()


def _config(source: str | Path, overrides: list[str] | None, run_dir: str | None) -> Config:
    from tosslm.config import load_config
    from tosslm.remote import is_url
    from tosslm.runs.reader import load_run

    if is_url(str(source)) or Path(source).is_dir():
        return load_run(source, steps=()).config_to_go_on(overrides or (), run_dir=run_dir or str(source))
    return load_config(source, overrides or (), run_dir=run_dir)


def _console() -> Console:
    return PipeConsole()


def _run(
    source: str, overrides: list[str] | None, run_dir: str | None, until: str, fresh: bool, as_json: bool
) -> None:
    with _reported_errors(alone=False):
        team.connect()
        config = _config(source, overrides, run_dir)
        quiet_libraries()
        from tosslm.findings.summary import summarize
        from tosslm.pipeline import run
        from tosslm.terminal.summary import print_summary

        done = run(config, until=until, fresh=fresh, reporter=_reporter())
        team.leave()
        if not team.place().leads:
            return
        summary = summarize(done)
        if as_json:
            print(json.dumps(summary))
        else:
            print_summary(summary, _console())


@app.command()
def init(
    folder: Annotated[Path, typer.Argument(help="Folder for the config.")] = Path(),
    full: Annotated[bool, typer.Option("--full", help="Write every key, not only those that people change.")] = False,
    as_json: AsJson = False,
) -> None:
    """Write a commented starter config."""
    with _reported_errors():
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
    with _reported_errors():
        from tosslm.methods import settled

        config, _ = settled(_config(config_file, overrides, run_dir))
        quiet_libraries()
        from tosslm.plan import make_plan
        from tosslm.terminal.plan import print_plan

        result = make_plan(config, measure=measure, reporter=_reporter(), price=price)
        if as_json:
            print(json.dumps(result))
        else:
            print_plan(result, _console())
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
    if _name not in ("data", "score", "evaluate"):  # the first is no command; the others have options of their own
        _stage(_name, _purpose)


@app.command(help=f"{PURPOSES['score']} Does first what earlier stages still miss.")
def score(
    source: RunOrConfig,
    shard: Annotated[
        str | None,
        typer.Option(
            "--shard", help="Only share I/N, beside other processes; auto: as torchrun or Slurm say.", metavar="I/N"
        ),
    ] = None,
    overrides: Overrides = None,
    run_dir: RunDir = None,
    as_json: AsJson = False,
) -> None:
    """Score everything, or one share of it."""
    if shard is None:
        _run(source, overrides, run_dir, "score", False, as_json)
        return
    with _reported_errors(alone=False):
        from tosslm.stages.shard import parse_shard

        share = parse_shard(shard, os.environ)
        config = _config(source, overrides, run_dir)
        quiet_libraries()
        from tosslm.pipeline import score_shard

        facts = score_shard(config, share, reporter=_reporter())
        if as_json:
            print(json.dumps(facts))


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
    with _reported_errors():
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
        config = _config(source, [*(overrides or ()), *scales], run_dir)
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
            records = [evaluate_external(config, **subject, folder=folder, gates=gates, reporter=_reporter())]
        else:
            records = evaluate_run(config, gates=gates, reporter=_reporter())
        measured = [record for record in records if "scale" not in record][-1]
        reasons = failures(gates, measured["metrics"])
        if as_json:
            print(json.dumps({"records": records, "failed": reasons}))
        else:
            print_results(records, _console())
        if reasons:
            raise TosslmError("the model fails: " + "; ".join(reasons))


@app.command("compare")
def compare_command(
    config_file: RunOrConfig,
    methods: Annotated[
        str, typer.Option("--methods", help="Names, with commas between; --methods help lists them.")
    ] = "base,sft,random,toss",
    seeds: Annotated[
        str | None, typer.Option("--seeds", help="Numbers, with commas between; the config's seed by default.")
    ] = None,
    overrides: Overrides = None,
    run_dir: RunDir = None,
    as_json: AsJson = False,
) -> None:
    """Train and measure several methods on the same data, with the same budget and seeds; one table."""
    with _reported_errors():
        from tosslm.methods import registry

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
        config = _config(config_file, overrides, run_dir)
        quiet_libraries()
        from tosslm.compare import compare, parse_seeds
        from tosslm.terminal.results import print_comparison

        chosen = [name.strip() for name in methods.split(",") if name.strip()]
        results = compare(config, chosen, seeds=parse_seeds(seeds), reporter=_reporter())
        if as_json:
            print(json.dumps(results))
        else:
            print_comparison(results["summary"], results["causes"], _console())
            print(outward(f"To see it in the run's report: toss report {config.run_dir}"))
        if results["failed"]:
            reasons = (f"{entry['method']}, seed {entry['seed']}: {entry['reason']}" for entry in results["failed"])
            raise TosslmError("some methods failed: " + "; ".join(reasons))


def _with_run(path: str, work: Callable[[Run], Any], steps: Collection[str] | None = SELECTED) -> Any:
    from tosslm.runs.reader import load_run

    return work(load_run(path, steps=steps))


@app.command()
def merge(
    run: RunFolder,
    out: Annotated[Path, typer.Argument(help="New folder for the merged model.", show_default=False)],
    scale: Annotated[
        float, typer.Option("--scale", help="Of the adapter: less of it keeps more of the base.", min=0, max=10)
    ] = 1.0,
    trust: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run the model's own code, where the run's config wants that.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Make one ordinary model folder of base, model.adapter and the fine-tuned adapter."""
    with _reported_errors():
        quiet_libraries()
        from tosslm.merge import merge as merge_run
        from tosslm.merge import merged_note

        def merged(opened: Run) -> tuple[Path, str | None]:
            return merge_run(opened, out, scale=scale, trust_remote_code=trust), merged_note(
                opened.config.model.quantize
            )

        folder, note = _with_run(run, merged, ("model",))
        told = {"model": str(folder)} | ({"note": note} if note else {})
        print(json.dumps(told) if as_json else outward(f"Merged model: {folder}" + (f"\n{note}" if note else "")))


@app.command("export")
def export_command(
    run: Annotated[
        str | None, typer.Argument(help="Run folder, or its URL.", metavar="RUN", show_default=False)
    ] = None,
    out: Annotated[Path | None, typer.Argument(help="New folder for the rows.", show_default=False)] = None,
    to: Annotated[
        str, typer.Option("--to", help="Kind of export, or the trainer it is for; --to help lists them.")
    ] = "parquet",
    repo: Annotated[
        str | None, typer.Option("--push-to-hub", help="Upload the folder too: owner/name of a new data set.")
    ] = None,
    private: Annotated[
        bool,
        typer.Option("--private/--public", help="With --push-to-hub: who sees it; --public needs --license."),
    ] = True,
    license_: Annotated[
        str | None, typer.Option("--license", help="With --push-to-hub: of the rows, such as cc-by-4.0.")
    ] = None,
    trust: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run the model's own code, where the run's config wants that.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Write the masked rows for another trainer, with a config that reads them and what is lost on the way."""
    with _reported_errors():
        from tosslm.export import described, named

        if to == "help":
            print(json.dumps(described()) if as_json else "\n".join(described()))
            return
        named(to)
        if run is None or out is None:
            raise InputError("toss export needs a run folder and a new folder: toss export RUN OUT --to KIND")
        quiet_libraries()
        from tosslm.export.handing import export_run
        from tosslm.export.hub import Hub
        from tosslm.export.sharing import share_run
        from tosslm.terminal.export import export_lines

        url = None
        if repo is None:
            if license_ or not private:
                raise InputError("--license and --public say how to upload; name the data set with --push-to-hub")
            facts = _with_run(run, lambda opened: export_run(opened, to, out, trust_remote_code=trust))
        else:
            hub = Hub(repo, private, license_)
            facts, url = _with_run(run, lambda opened: share_run(opened, to, out, hub, trust_remote_code=trust))
        if as_json:
            print(json.dumps(facts | ({"url": url} if url else {})))
        else:
            print("\n".join(map(outward, export_lines(facts, out, url))))


@app.command()
def transfer(
    run: RunFolder,
    out: Annotated[Path, typer.Argument(help="New folder for the rows.", show_default=False)],
    tokenizer: Annotated[
        str, typer.Option("--tokenizer", help="Of the other model: folder, hub id or built-in name.")
    ],
    rule: Annotated[
        Literal["any", "most", "all"],
        typer.Option("--rule", help="A token is dropped where so many of its characters are; most: more than half."),
    ] = "most",
    max_length: Annotated[
        int | None, typer.Option("--max-length", help="Tokens of a row to keep; data.max_length by default.", min=2)
    ] = None,
    on_bad_row: Annotated[
        Literal["error", "skip"],
        typer.Option("--on-bad-row", help="Rows that the other template refuses or that lose all trained tokens."),
    ] = "error",
    as_json: AsJson = False,
) -> None:
    """Carry the keep mask over to another model's tokenizer; rows with labels, ready to train on."""
    with _reported_errors():
        quiet_libraries()
        from tosslm.findings.transferred import told
        from tosslm.transfer import transfer as transfer_run

        facts = _with_run(
            run,
            lambda opened: transfer_run(
                opened,
                out,
                tokenizer=tokenizer,
                rule=rule,
                max_length=max_length,
                on_bad_row=on_bad_row,
                reporter=_reporter(),
            ),
        )
        if as_json:
            print(json.dumps(facts))
        else:
            print(*(outward(line) for line in told(facts, out)), sep="\n")


@app.command()
def show(
    run: RunFolder,
    row_id: Annotated[str | None, typer.Argument(help="Row id or its beginning; none lists rows.")] = None,
    count: Annotated[int | None, typer.Option("--count", help="Rows to list; 20 unless set.", min=1)] = None,
    as_json: AsJson = False,
) -> None:
    """Show one row, its tokens coloured by score and dropped ones struck through; or list the riskiest rows."""
    with _reported_errors():
        from tosslm.findings.rows import riskiest_rows, row_record
        from tosslm.terminal.rows import render_riskiest, render_row

        if row_id is not None and count is not None:
            raise InputError("--count is of rows to list, and one row is named; leave one of them out")
        console = _console()
        if row_id is None:
            rows = _with_run(run, lambda opened: riskiest_rows(opened, count or 20))
            if as_json:
                print(json.dumps(rows))
            else:
                console.print(render_riskiest(rows, console.width))
            return
        record = _with_run(run, lambda opened: row_record(opened, row_id))
        if as_json:
            print(json.dumps(record))
            return
        stages = _with_run(run, lambda opened: opened.stages)
        console.print(render_row(record, stages.get("selection", {}).get("threshold"), console))


@app.command()
def review(
    run: RunFolder,
    port: Annotated[int, typer.Option("--port", help="Of the page; 0 takes a free one.", min=0, max=65535)] = 0,
    by: Annotated[str, typer.Option("--by", help="Your name, kept with each decision.")] = "",
    file: Annotated[
        Path | None, typer.Option("--file", help="Where decisions are kept; overrides.jsonl in the run folder.")
    ] = None,
) -> None:
    """Decide rows and spans by hand, in a browser on this machine; Ctrl-C ends it and says how to apply them."""
    with _reported_errors():
        from tosslm.door import check_local
        from tosslm.review import Server, how_to_apply, open_review

        if file is None:
            check_local(run, "keeping decisions", "say where with --file")
        opened = _with_run(run, lambda found: open_review(found, file=file, by=by))
        server = Server(opened, port)
        print(outward(f"Open this address, which is for you alone: {server.url}"), flush=True)
        print("Decisions are saved as they are made. Ctrl-C ends the review.", flush=True)
        server.run_until(_stopping.obeyed)
        print(*(outward(line) for line in how_to_apply(run, opened)), sep="\n")


@app.command()
def inspect(
    path: Annotated[
        str,
        typer.Argument(help="JSON Lines, JSON, Parquet, a saved datasets folder, or a hub id.", show_default=False),
    ],
    tokenizer: Annotated[
        str | None,
        typer.Option("--tokenizer", help="Its tokenizer: folder, hub id, or builtin:smollm2-135m-instruct."),
    ] = None,
    max_length: Annotated[
        int | None, typer.Option("--max-length", help="Tokens at which your trainer cuts rows; else several.", min=1)
    ] = None,
    rows: Annotated[
        int | None, typer.Option("--rows", help="Rows to show; 3 with a tokenizer, else none.", min=0)
    ] = None,
    split: Annotated[str | None, typer.Option("--split", help="Of a saved DatasetDict, or on the hub.")] = None,
    html: Annotated[Path | None, typer.Option("--html", help="Write it all as one page too, with 50 rows.")] = None,
    as_json: AsJson = False,
) -> None:
    """Say what a trainer would learn from any tokenised set: what trains, what is cut, which masks look wrong."""
    with _reported_errors():
        from tosslm.inspection.inspect import inspect as inspect_set
        from tosslm.terminal.inspection import print_inspection, print_token_rows

        if as_json and rows and html is None:
            raise InputError("--json prints no rows; leave out --rows, or --json")
        if html is not None and (html.is_dir() or html.suffix.lower() not in (".html", ".htm")):
            raise InputError(f"--html {html}: no name of a page; choose one that ends with .html")
        if tokenizer:
            quiet_libraries()
        console = _console()
        found = inspect_set(
            path,
            tokenizer=tokenizer,
            max_length=max_length,
            rows=0 if as_json and html is None else rows,
            split=split,
            with_found=html is not None,
            check=_stopping.check,
        )
        if html is not None:
            from tosslm.inspection.pieces import token_texts
            from tosslm.report.inspection import PageRow, write_inspection

            page_rows = [
                PageRow(row.number, row.ids, token_texts(row.ids, found.tokenizer), row.trained, row.length)
                for row in found.shown
            ]
            write_inspection(found.summary(), found.layout.meaning, page_rows, html)
        if as_json:
            print(json.dumps(found.summary()))
            return
        print_inspection(found.summary(), found.layout.meaning, console)
        if html is None:
            print_token_rows(found.shown, found.tokenizer, console)
        else:
            print(outward(f"Look at its rows in a browser: {html}"))


@app.command()
def verify(run: RunFolder, as_json: AsJson = False) -> None:
    """Check every checksum and fingerprint; say what is damaged."""
    with _reported_errors():
        from tosslm.runs.verify import strangers
        from tosslm.runs.verify import verify as verify_run

        checked, findings = _with_run(run, verify_run, None)
        others = _with_run(run, strangers, None)
        if as_json:
            problems = [{"step": f.step, "file": f.file, "problem": f.problem} for f in findings]
            print(json.dumps({"checked": checked, "problems": problems, "of_no_step": others}))
        else:
            for finding in findings:
                print(outward(f"{run.rstrip('/')}/{finding.file}: {finding.problem} ({finding.step})"))
            for file in others:
                print(outward(f"{run.rstrip('/')}/{file}: no step wrote it, so it is not checked; move it away"))
            counted = f", {len(others)} of no step" if others else ""
            print(f"{checked} files checked, {len(findings)} damaged{counted}")
        if findings:
            raise TosslmError(f"{len(findings)} damaged files; `toss run {run}` makes them again")
