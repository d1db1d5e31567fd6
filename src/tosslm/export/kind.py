"""What an export is: a value that says whom it serves, writes rows into a folder, and gives a config that runs."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tosslm.export.counts import Counts
from tosslm.export.rows import MaskedRow

UNMERGED = "BASE-WITH-ITS-ADAPTER-MERGED"
"""Stands for the base in a config that cannot merge: that loads nothing, rather than the plain, unsafe base."""


@dataclass(frozen=True, slots=True)
class Job:
    """What a writer and a snippet may need beside the rows.

    Attributes:
        counts: of the rows.
        base: hub id or folder of the base.
        adapter: ``model.adapter``, hub id or folder; empty where there is none.
        vocabulary: token ids that the base has, from 0.
        eos: id of the tokenizer's end-of-sequence token, where it has one.
        place: the folder that the export will lie in, or the data set on the Hub.
    """

    counts: Counts
    base: str
    adapter: str
    vocabulary: int
    eos: int | None
    place: str


@dataclass(frozen=True, slots=True)
class Written:
    """What a writer has to say.

    Attributes:
        facts: for ``export.json``.
        lost: sentences about what this kind cannot carry.
    """

    facts: Mapping[str, Any] = field(default_factory=dict)
    lost: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Snippet:
    """How a consumer is told to read an export: a file that goes with it.

    Args:
        consumer: who, as the command names it.
        file: its name; the ending says how values are quoted.
        text: with ``@BASE@``, ``@ADAPTER@``, ``@MERGED@`` (the base, unless an adapter has to be merged into it
            first), ``@LONGEST@``, ``@FOLDER@``, and what else the kind's facts have, in capitals.
    """

    consumer: str
    file: str
    text: str

    def filled(self, job: Job, facts: Mapping[str, Any]) -> str:
        """The text with its values, each quoted as a literal: they come from a run folder, so from anywhere."""
        quote = shlex.quote if self.file.endswith(".sh") else json.dumps
        values = {
            "BASE": quote(job.base),
            "ADAPTER": quote(job.adapter),
            "MERGED": quote(UNMERGED if job.adapter else job.base),
            "FOLDER": quote(job.place),
            "LONGEST": str(job.counts.longest_row),
        } | {key.upper(): json.dumps(value) for key, value in facts.items()}
        text = self.text
        for key, value in values.items():
            text = text.replace(f"@{key}@", value)
        return text


@dataclass(frozen=True, slots=True)
class ExportKind:
    """One way to hand masked rows over.

    Args:
        key: its name.
        summary: what is written, in a line.
        write: takes the rows, the folder and the job, and says what was written.
        snippets: one for each consumer; a consumer's name chooses its own.
        weighs: whether it carries a weight for each token, not only whether it is trained.
        data: what `datasets` loads of it, a name or a pattern; empty where it cannot.
    """

    key: str
    summary: str
    write: Callable[[Iterator[MaskedRow], Path, Job], Written]
    snippets: tuple[Snippet, ...]
    weighs: bool = False
    data: str = ""

    @property
    def serves(self) -> tuple[str, ...]:
        """The consumers, by name."""
        return tuple(snippet.consumer for snippet in self.snippets)
