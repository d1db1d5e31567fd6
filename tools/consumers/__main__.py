"""Export a run, have each consumer read it with its own code, and compare with what the run trains on.

``python -m tools.consumers [CONSUMER ...]`` installs and asks those named, or all. What they find is written into
``docs/export.md`` when all of them were asked. The status is 1 where one trains something that it should not.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tools.consumers.compared import Found, Row, compared
from tools.consumers.environments import FOLDER, python_of, run_reader
from tools.consumers.material import made_run

import tosslm
from tosslm.export.handing import export_run
from tosslm.model.builtin import SMOLLM2, builtin_folder

PAGE = Path(__file__).parents[2] / "docs" / "export.md"
BEGIN, END = "<!-- found by consumers -->\n", "<!-- end of what they found -->\n"
EOS, NEWLINE, VOCABULARY, ROOM = 2, 198, 49152, 4096
SYSTEM = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
"""What the tokenizer's template says where a row has no system prompt; ms-swift has to be told."""


def exactly(found: Found, facts: dict[str, Any]) -> bool:
    """Whether the consumer trains what the run does, to the last token."""
    return found.same


def as_told(found: Found, facts: dict[str, Any]) -> bool:
    """Whether it loses and lets in as many tokens as ``export.json`` says, and ends of turn alone are let in."""
    told = facts["written"]
    whole = not (found.missing or found.strange or found.wrong or found.let_in)
    return whole and (found.lost, found.ends) == (told["tokens_lost"], told["ends_of_turn_let_in"])


def no_dropped_text(found: Found, facts: dict[str, Any]) -> bool:
    """Whether no token is trained that the run does not train, but for ends of turn."""
    return not (found.let_in or found.wrong)


@dataclass(frozen=True, slots=True)
class Check:
    """A consumer, and what it is asked.

    Attributes:
        consumer: its environment.
        version: what is installed there.
        kind: of export.
        runs: what of it is run, in words.
        reader: the script.
        arguments: of the script, after export and output.
        holds: what has to be so.
    """

    consumer: str
    version: str
    kind: str
    runs: str
    reader: str
    arguments: tuple[object, ...] = ()
    holds: Callable[[Found, dict[str, Any]], bool] = exactly


def checks() -> tuple[Check, ...]:
    """All of them."""
    axolotl, tokenizer = ("axolotl", "Axolotl 0.19.0"), builtin_folder(SMOLLM2)
    return (
        Check(*axolotl, "parquet", "its config, `load_datasets`, its collator", "axolotl_rows"),
        Check(*axolotl, "parquet", "the same with `sample_packing: true`", "axolotl_rows", ("packed",)),
        Check(*axolotl, "axolotl-text", "its config, `load_datasets`, its collator", "axolotl_rows", holds=as_told),
        Check(
            "llamafactory",
            "LLaMA-Factory 0.9.5",
            "llamafactory",
            "its config, `get_dataset`, its collator",
            "llamafactory_rows",
        ),
        Check(
            "olmo",
            "OLMo-core 3.0.0",
            "olmo",
            "`NumpyPackedFSLDataset`, `get_labels`",
            "olmo_rows",
            (EOS, VOCABULARY, ROOM),
        ),
        Check(
            "swift",
            "ms-swift 4.6.0",
            "swift",
            "`load_dataset`, its template `chatml` with the tokenizer's system prompt",
            "swift_rows",
            (tokenizer, SYSTEM),
            no_dropped_text,
        ),
        Check(
            "megatron",
            "Megatron-Bridge 0.6.2",
            "megatron",
            "`GPTSFTPackedParquetDataset` and its collator, as files by themselves",
            "megatron_rows",
            (EOS, ROOM),
        ),
    )


def main(names: list[str]) -> int:
    """Ask the consumers of these names, or all; the exit status."""
    chosen = [check for check in checks() if not names or check.consumer in names]
    work = FOLDER / "work"
    shutil.rmtree(work, ignore_errors=True)
    run = made_run(work)
    rows = [_row(row["input_ids"], row["labels"]) for row in tosslm.masked_dataset(run)]
    lines, failed = [], False
    for number, check in enumerate(chosen):
        found, good = _asked(check, run, rows, work / str(number))
        failed |= not good
        print(f"{'ok  ' if good else 'FAIL'} {check.version}, {check.kind}, {check.runs}: {found}", flush=True)
        lines.append(f"| {check.version} | `{check.kind}` | {check.runs} | {found} |\n")
    if not names and not failed:
        PAGE.write_text(written(PAGE.read_text(encoding="utf-8"), lines), encoding="utf-8")
    return int(failed)


def _asked(check: Check, run: tosslm.Run, rows: list[Row], folder: Path) -> tuple[str, bool]:
    facts = export_run(run, check.kind, folder / "export")
    try:
        run_reader(
            python_of(check.consumer), check.reader, folder / "export", folder / "rows.jsonl", *check.arguments
        )
    except subprocess.CalledProcessError as error:
        return f"could not be run here ({error})", False
    lines = (folder / "rows.jsonl").read_text(encoding="utf-8").splitlines()
    read = (_row(record["ids"], record["labels"], record.get("weights")) for record in map(json.loads, lines))
    found = compared(rows, read, ends=frozenset({EOS, NEWLINE}) if check.holds is not exactly else frozenset())
    return found.told(), check.holds(found, facts)


def _row(ids: list[int], labels: list[int], weights: list[float] | None = None) -> Row:
    own = tuple(float(label != -100) for label in labels) if weights is None else tuple(weights)
    return Row(tuple(ids), tuple(labels), own)


def written(page: str, lines: list[str]) -> str:
    """The page with these lines in place of those that it had."""
    head, _, rest = page.partition(BEGIN)
    _, _, tail = rest.partition(END)
    table = "| consumer | kind | what was run | what was found |\n|---|---|---|---|\n"
    return f"{head}{BEGIN}{table}{''.join(lines)}{END}{tail}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
