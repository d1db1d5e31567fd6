"""Commands that hand over what a run made: a model, rows for another trainer or another tokenizer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from tosslm.commands.frame import (
    AsJson,
    RunFolder,
    app,
    progress_here,
    reported_errors,
    with_run,
)
from tosslm.errors import InputError
from tosslm.outward import outward
from tosslm.quiet import quiet_libraries

if TYPE_CHECKING:
    from tosslm.runs.reader import Run


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
    with reported_errors():
        quiet_libraries()
        from tosslm.merge import merge as merge_run
        from tosslm.merge import merged_note

        def merged(opened: Run) -> tuple[Path, str | None]:
            return merge_run(opened, out, scale=scale, trust_remote_code=trust), merged_note(
                opened.config.model.quantize
            )

        folder, note = with_run(run, merged, ("model",))
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
    with reported_errors():
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
            facts = with_run(run, lambda opened: export_run(opened, to, out, trust_remote_code=trust))
        else:
            hub = Hub(repo, private, license_)
            facts, url = with_run(run, lambda opened: share_run(opened, to, out, hub, trust_remote_code=trust))
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
    with reported_errors():
        quiet_libraries()
        from tosslm.findings.transferred import told
        from tosslm.transfer import transfer as transfer_run

        facts = with_run(
            run,
            lambda opened: transfer_run(
                opened,
                out,
                tokenizer=tokenizer,
                rule=rule,
                max_length=max_length,
                on_bad_row=on_bad_row,
                reporter=progress_here(),
            ),
        )
        if as_json:
            print(json.dumps(facts))
        else:
            print(*(outward(line) for line in told(facts, out)), sep="\n")
