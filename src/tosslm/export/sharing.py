"""`toss export --push-to-hub`: an export that names no path of this machine, and its upload."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tosslm.errors import InputError
from tosslm.export import named
from tosslm.export.card import CARD
from tosslm.export.facts import labels_of
from tosslm.export.handing import FACTS, export_run
from tosslm.export.hub import Hub, check_hub, push
from tosslm.files import sha256
from tosslm.runs.layout import SELECTION
from tosslm.runs.reader import Run


def share_run(
    run: Run, to: str, out: Path, hub: Hub, *, trust_remote_code: bool = False
) -> tuple[dict[str, Any], str]:
    """Write the masked rows of a run into a folder and upload that folder's files, no others.

    An export that was made for the same data set of the same selection is uploaded as it lies there: so an upload
    that broke goes on, and the card can be edited before.

    Args:
        run: a run whose selection is done.
        to: a kind of export, or a consumer that one serves.
        out: a folder that does not exist yet, or holds such an export.
        hub: where to.
        trust_remote_code: as of ``load_run``.

    Returns:
        What is in ``export.json``; the address of the data set.

    Raises:
        InputError: as ``export_run`` and ``check_hub``, or ``out`` holds something else.
        TosslmError: as ``export_run`` and ``push``.
    """
    check_hub(hub)
    if out.exists():
        facts = _made_before(run, to, out, hub)
    else:
        facts = export_run(run, to, out, trust_remote_code=trust_remote_code, hub=hub)
    return facts, push(hub, out, [*facts["files"], FACTS])


def _made_before(run: Run, to: str, out: Path, hub: Hub) -> dict[str, Any]:
    """The facts of an export that may be uploaded as it is.

    Raises:
        InputError: it is another one, or not as it was made, its card aside.
    """
    try:
        facts = json.loads((out / FACTS).read_text(encoding="utf-8"))
        made_of = facts["run"]["selection"], facts["run"].get("labels")
        made_for = facts["kind"], facts["hub"], *made_of, set(facts["configs"])
        files: dict[str, str] = dict(facts["files"])
    except (OSError, ValueError, KeyError, TypeError):
        raise InputError(f"{out}: exists already and is no export; name a folder that does not exist") from None
    kind, consumer = named(to)
    own = run.folder.print_of(SELECTION), labels_of(run.config)
    wanted = kind.key, hub.facts(), *own, {consumer} if consumer else set(kind.serves)
    if made_for != wanted:
        raise InputError(
            f"{out}: holds another export than this one for {hub.repo}; name a folder that does not exist"
        )
    there = {file.relative_to(out).as_posix(): file for file in out.rglob("*") if not file.is_dir()}
    changed = {name for name in files if name != CARD and (name not in there or sha256(there[name]) != files[name])}
    if odd := sorted((there.keys() ^ {*files, FACTS}) | changed):
        raise InputError(
            f"{out / odd[0]}: is not as the export made it; remove {out} and export again (only {CARD} may be edited)"
        )
    return dict(facts)
