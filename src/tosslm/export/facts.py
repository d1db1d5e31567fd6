"""What ``export.json`` says: where the rows are from, what chose their labels, what is in them, what is lost."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tosslm.config import Config
from tosslm.export.counts import LENGTHS, Counts
from tosslm.export.hub import Hub
from tosslm.export.kind import ExportKind, Written
from tosslm.export.lost import lost
from tosslm.files import sha256
from tosslm.methods import method_of
from tosslm.methods.method import Method
from tosslm.runs.layout import DATA, SELECTION, UTILITY, degraded, refinement
from tosslm.runs.reader import Run

if TYPE_CHECKING:
    from tosslm.model.base import Base

_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
)


def shown_name(name: str | None, hub: Hub | None) -> str | None:
    """A model's name as others may know it: what is uploaded says of a path the last part alone."""
    return Path(name).resolve().name if name and hub and Path(name).exists() else name


def facts_of(
    run: Run, config: Config, base: Base, kind: ExportKind, counts: Counts, written: Written, hub: Hub | None
) -> dict[str, Any]:
    """All of ``export.json`` but the configs and the files.

    Args:
        run: the run.
        config: of the run.
        base: its base.
        kind: of the export.
        counts: of the rows.
        written: what the kind's writer said.
        hub: where the export is meant for.
    """
    method, model = method_of(config), config.model
    name, adapter = shown_name(model.name, hub), shown_name(model.adapter, hub)
    return {
        "format": 1,
        "kind": kind.key,
        "hub": hub.facts() if hub else None,
        "run": {
            "path": run.path.resolve().name if hub else run.name,
            "method": config.method,
            "seed": run.manifest["seed"],
            "versions": run.manifest["versions"],
            "selection": run.folder.print_of(SELECTION),
            "labels": labels_of(config),
        },
        "base": {
            "name": name,
            "revision": model.revision,
            "adapter": adapter,
            **({"quantize": model.quantize} if model.quantize else {}),
            "identity": base.identity,
        },
        "tokenizer": {
            "name": name,
            "files": {
                name: sha256(base.folder / name) for name in _TOKENIZER_FILES if (base.folder / name).is_file()
            },
        },
        "choice": _choice(run, config, method),
        "rows": counts.rows,
        "tokens": counts.tokens,
        "response_tokens": counts.response_tokens,
        "trained_tokens": counts.trained_tokens,
        "dropped_tokens": counts.dropped_tokens,
        "longest_row": counts.longest_row,
        "rows_that_train_on_nothing": counts.train_on_nothing,
        "cut_at": {
            str(length): {"rows_cut": counts.cut[length], "rows_that_train_on_nothing": counts.cut_to_nothing[length]}
            for length in LENGTHS
        },
        "written": dict(written.facts),
        "lost": [
            *lost(config, method, counts, base=(str(name), adapter), kind=kind.key, weighs=kind.weighs),
            *written.lost,
        ],
    }


def _choice(run: Run, config: Config, method: Method) -> dict[str, Any]:
    """What chose the tokens, and what it learnt that from."""
    selection, sets = run.stages[SELECTION], run.stages[DATA]["sets"]
    learnt = method.builds_on != "data"
    shares = method.choose is None or method.drops_share
    return {
        "method": method.name,
        "summary": method.summary,
        "source": method.source,
        "discard_fraction": selection["discard_fraction"] if shares else None,
        "tokens": selection["tokens"],
        "discarded": selection["discarded"],
        "sources": selection["sources"],
        **({"by_hand": _by_hand(selection["overrides"])} if "overrides" in selection else {}),
        "references": {name: sets[name]["sources"] for name in ("harmful", "utility")} if learnt else {},
        **({"learnt_rows": _learnt_rows(run), "joined_rows": _joined_rows(run)} if learnt else {}),
        **({"utility": "custom"} if learnt and config.data.utility.of_custom else {}),
        "anchor_first": config.finetune.anchor_first if config.finetune.anchors else None,
    }


def labels_of(config: Config) -> dict[str, Any]:
    """What labels depend on beside the selection: by it an export made before is told from this one."""
    return {"context": config.selection.context, "finetune": config.finetune.model_dump(mode="json")}


def _by_hand(decided: Mapping[str, Any]) -> dict[str, int]:
    """How many tokens people decided; who they are stays in the run."""
    return {"kept": decided["tokens_kept"], "dropped": decided["tokens_dropped"]}


def _learnt_rows(run: Run) -> dict[str, int]:
    """How many rows each reference was trained on: those not held out and, in a later round, those that joined."""
    steps = {"utility": [UTILITY], "harmful": [degraded(n) for n in range(run.config.refinement.rounds, -1, -1)]}
    learnt = {name: next((step for step in own if step in run.stages), None) for name, own in steps.items()}
    return {name: run.stages[step]["rows"] for name, step in learnt.items() if step}


def _joined_rows(run: Run) -> int:
    """How many custom rows joined the harmful set, over all rounds."""
    steps = (refinement(number) for number in range(1, run.config.refinement.rounds + 1))
    return sum(run.stages[step]["joined"] for step in steps if step in run.stages)
