"""What a transfer to another tokenizer came to, and what a reader should know before training on its rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any


def told(facts: Mapping[str, Any], out: Path) -> list[str]:
    """What a transfer came to, line by line.

    Args:
        facts: as ``transfer`` gives them.
        out: where the rows lie.
    """
    rows, before, after, sides = (facts[name] for name in ("rows", "source", "target", "characters"))
    return [
        f"{rows['transferred']} rows for {facts['target_tokenizer']['name']}, {rows['skipped']} left out: {out}",
        f"Dropped: {before['dropped']} of {before['tokens']} tokens before ({before['dropped_share']:.1%}), "
        f"{after['dropped']} of {after['tokens']} after ({after['dropped_share']:.1%})",
        f"Characters: {sides['dropped_before']} of {sides['characters']} dropped before, {sides['dropped_after']} "
        f"after; {sides['newly_dropped']} newly dropped, {sides['newly_kept']} newly kept (rule: {facts['rule']})",
    ]


def notes(facts: Mapping[str, Any], left: Mapping[str, bool]) -> Iterator[str]:
    """What is not as a reader may expect.

    Args:
        facts: as ``transfer`` gives them.
        left: whether the run weighs tokens (``weights``), anchors some (``anchors``) and takes dropped ones out of
            its input (``context``).
    """
    if skipped := facts["rows"]["skipped"]:
        yield f"{skipped} rows are left out; skipped.jsonl names them"
    if lost := facts["source"]["without_text_dropped_not_carried"]:
        yield (
            f"{lost} dropped tokens without text in the source (reasoning, template parts) have no place in the "
            "target; what stands for them there goes as the end of turn of its answer does: look at these rows"
        )
    if unknown := facts["target"]["not_in_source"]:
        yield (
            f"{unknown} target tokens stand for text that the source never scored (cut off, or not written by its "
            "template); they are not trained"
        )
    if left["weights"]:
        yield "the run weighs tokens; the weights are not transferred, only which tokens are trained"
    if left["anchors"]:
        yield "the run anchors tokens to its base; here dropped ones are not trained, and nothing is anchored"
    if left["context"]:
        yield "the run takes dropped tokens out of its input; here they stay in it, without labels"
