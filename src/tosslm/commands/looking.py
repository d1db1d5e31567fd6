"""Commands that look: at a run's rows, at a set's masks, at what is damaged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from tosslm.commands.frame import (
    FRAME,
    AsJson,
    RunFolder,
    app,
    console_here,
    reported_errors,
    with_run,
)
from tosslm.errors import InputError, TosslmError
from tosslm.outward import outward
from tosslm.quiet import quiet_libraries


@app.command()
def show(
    run: RunFolder,
    row_id: Annotated[str | None, typer.Argument(help="Row id or its beginning; none lists rows.")] = None,
    count: Annotated[int | None, typer.Option("--count", help="Rows to list; 20 unless set.", min=1)] = None,
    as_json: AsJson = False,
) -> None:
    """Show one row, its tokens coloured by score and dropped ones struck through; or list the riskiest rows."""
    with reported_errors():
        from tosslm.findings.rows import riskiest_rows, row_record
        from tosslm.terminal.rows import render_riskiest, render_row

        if row_id is not None and count is not None:
            raise InputError("--count is of rows to list, and one row is named; leave one of them out")
        console = console_here()
        if row_id is None:
            rows = with_run(run, lambda opened: riskiest_rows(opened, count or 20))
            if as_json:
                print(json.dumps(rows))
            else:
                console.print(render_riskiest(rows, console.width))
            return
        record = with_run(run, lambda opened: row_record(opened, row_id))
        if as_json:
            print(json.dumps(record))
            return
        selection = with_run(run, lambda opened: opened.stages).get("selection", {})
        common = selection.get("scope") != "row"  # else each row has an end of its own
        console.print(render_row(record, selection.get("threshold") if common else None, console))


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
    with reported_errors():
        from tosslm.door import check_local
        from tosslm.review import Server, how_to_apply, open_review

        if file is None:
            check_local(run, "keeping decisions", "say where with --file")
        opened = with_run(run, lambda found: open_review(found, file=file, by=by))
        server = Server(opened, port)
        print(outward(f"Open this address, which is for you alone: {server.url}"), flush=True)
        print("Decisions are saved as they are made. Ctrl-C ends the review.", flush=True)
        server.run_until(FRAME.stopping.obeyed)
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
    with reported_errors():
        from tosslm.inspection.inspect import inspect as inspect_set
        from tosslm.terminal.inspection import print_inspection, print_token_rows

        if as_json and rows and html is None:
            raise InputError("--json prints no rows; leave out --rows, or --json")
        if html is not None and (html.is_dir() or html.suffix.lower() not in (".html", ".htm")):
            raise InputError(f"--html {html}: no name of a page; choose one that ends with .html")
        if tokenizer:
            quiet_libraries()
        console = console_here()
        found = inspect_set(
            path,
            tokenizer=tokenizer,
            max_length=max_length,
            rows=0 if as_json and html is None else rows,
            split=split,
            with_found=html is not None,
            check=FRAME.stopping.check,
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
    with reported_errors():
        from tosslm.runs.verify import strangers
        from tosslm.runs.verify import verify as verify_run

        checked, findings = with_run(run, verify_run, None)
        others = with_run(run, strangers, None)
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
