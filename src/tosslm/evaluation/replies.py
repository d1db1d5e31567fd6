"""What a judge replied, in a JSONL file that grows line by line; what says nothing is left out."""

from __future__ import annotations

import json
import os
from pathlib import Path

from tosslm.outward import whole_text


def keep_reply(path: Path, key: str, reply: str) -> None:
    """Append a reply; the file is readable by its owner alone."""
    line = json.dumps({"key": key, "reply": reply}, ensure_ascii=False) + "\n"
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab") as file:
        file.write(line.encode())


def kept_replies(path: Path) -> tuple[dict[str, str], int]:
    """What was replied before, by its key, and how many lines are damaged.

    Earlier versions kept empty replies too. They are no verdicts, and left out.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        return {}, 0
    data = path.read_bytes()
    whole = data.rfind(b"\n") + 1
    if whole < len(data):
        os.truncate(path, whole)  # what a kill cut off
    lines = [_kept(line) for line in data[:whole].split(b"\n")[:-1]]
    return {key: reply for key, reply in filter(None, lines) if reply.strip()}, lines.count(None)


def _kept(line: bytes) -> tuple[str, str] | None:
    try:
        entry = json.loads(line)
        key, reply = entry["key"], entry["reply"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    return (key, whole_text(reply)) if isinstance(key, str) and isinstance(reply, str) else None
