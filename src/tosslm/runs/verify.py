"""Check every checksum and fingerprint of a run folder."""

from __future__ import annotations

from dataclasses import dataclass

from tosslm.files import is_whole
from tosslm.runs.layout import SELECTION
from tosslm.runs.mirror import Mirror, url_of
from tosslm.runs.reader import Run


@dataclass(frozen=True, slots=True)
class Finding:
    """What is wrong with one file.

    Attributes:
        step: the step that wrote it.
        file: its path in the run folder.
        problem: ``missing``, ``altered``, ``of another step``, or ``out of date`` (made from something that has
            changed since, people's decisions among it); ``missing there`` or ``altered there``, at a folder's URL.
    """

    step: str
    file: str
    problem: str


def verify(run: Run) -> tuple[int, list[Finding]]:
    """Check the recorded files of every step; of those that a run folder at a URL keeps back, where they are.

    Returns:
        How many files were checked, and what is wrong.
    """
    findings: list[Finding] = []
    checked = 0
    url = url_of(run.path)
    there = Mirror(url).damaged_there(run.manifest) if url else {}
    for step, entry in run.stages.items():
        altered = set(run.folder.damaged(step))
        absent = run.folder.withholds(step)
        for file in () if absent else entry["files"]:
            checked += 1
            path = run.path / file
            if file in altered:
                findings.append(Finding(step, file, "altered" if path.exists() else "missing"))
            elif path.suffix == ".parquet" and not is_whole(path, entry["fingerprint"]):
                findings.append(Finding(step, file, "of another step"))
        for file in entry["files"] if there else ():
            if file in there:
                findings.append(Finding(step, file, f"{there[file]} there"))
        if not run.has(step) or (step == SELECTION and run.decided_since()):
            findings.append(Finding(step, step, "out of date"))
    return checked, findings


def strangers(run: Run) -> list[str]:
    """Files beside those of the run's steps that no step wrote, in order; what begins with a dot is left out.

    They have no checksum to be checked by, and whoever loads a folder may take them for a part of it.
    """
    known = {file for entry in run.stages.values() for file in entry["files"]}
    begun = tuple(output for outputs in run.manifest.get("begun", {}).values() for output in outputs)
    found = []
    for top in sorted({file.partition("/")[0] for file in known if "/" in file}):
        for path in sorted((run.path / top).rglob("*")):
            file = path.relative_to(run.path).as_posix()
            hidden = any(part.startswith(".") for part in path.relative_to(run.path).parts)
            if path.is_file() and file not in known and not hidden and not file.startswith(begun):
                found.append(file)
    return found
