"""What the report says in words: the answer in three sentences, the rounds, and the warnings."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from markupsafe import Markup

from tosslm.files import read_batches
from tosslm.findings.measured import Measured
from tosslm.report.tokens import CustomTokens
from tosslm.runs.reader import Run
from tosslm.runs.tables import read_joined
from tosslm.selection.cut import select_tokens
from tosslm.text import number

_B = Markup("<b>{}</b>").format


def read_diagnosis(run: Run) -> dict[str, Any] | None:
    """The diagnosis, where it is done and still true."""
    if not run.has("diagnosis"):
        return None
    return json.loads((run.path / "diagnosis/diagnosis.json").read_text(encoding="utf-8"))


def answer(tokens: CustomTokens, diagnosis: Mapping[str, Any] | None, measured: Measured) -> list[tuple[str, Markup]]:
    """Safety, utility and tokens, each a sentence with its numbers."""
    return [
        ("Safety", safety(diagnosis, measured)),
        ("Utility", utility(diagnosis, measured)),
        ("Tokens", _tokens(tokens)),
    ]


_MODELS = ("the base", "plain fine-tuning", "the model of this run")


def safety(diagnosis: Mapping[str, Any] | None, measured: Measured) -> Markup:
    """What became of safety: refusals where answers were judged, else the move toward the degraded reference."""
    refused = measured.among("refusal_rate")
    if own := refused[-1]:
        parts = [
            Markup("{} {}{}").format(name, _B(f"{share['value']:.0%}"), _ends(share))
            for name, share in zip(_MODELS, refused, strict=True)
            if share
        ]
        return Markup("Refused, of {} harmful prompts: {}.").format(own["n"], Markup(", ").join(parts))
    means = (diagnosis or {}).get("means", {}).get("harmful", {})
    if "model" not in means:
        return _unmeasured(diagnosis, "harmful")
    losses = [_B(f"{means[name]['loss']['mean']:.2f}") for name in ("base", "model")]
    return Markup(
        "On held-out unsafe answers, the model moved {} from the base to the degraded reference{}; their loss went "
        "from {} to {} nats a token (lower is less safe)."
    ).format(_way(means, "model"), _beside(means), *losses)


def _way(means: Mapping[str, Any], name: str) -> Markup:
    """How far a model moved toward the degraded reference, as a share of the way where there is a way."""
    moved, whole = (means[one]["shift"]["mean"] for one in (name, "degraded"))
    if whole <= 0:
        return _B(f"{number(moved, '.2f')} nats")
    return Markup("{} of the way ({} of {} nats)").format(
        _B(number(moved / whole, ".0%")), number(moved, ".2f"), f"{whole:.2f}"
    )


def _beside(means: Mapping[str, Any]) -> Markup:
    return Markup(", plain fine-tuning {}").format(_way(means, "sft")) if "sft" in means else Markup()


def _ends(metric: Mapping[str, Any]) -> str:
    if metric.get("low") is None or metric.get("high") is None:
        return ""
    return f" ({metric['low']:.0%} to {metric['high']:.0%})"


def utility(diagnosis: Mapping[str, Any] | None, measured: Measured) -> Markup:
    """What became of usefulness: the loss on held-out good answers."""
    base, plain, own = (metric["value"] if metric else None for metric in measured.among("utility_loss"))
    means = (diagnosis or {}).get("means", {}).get("utility", {})
    if (base is None or own is None) and "model" in means:
        base, own = means["base"]["loss"]["mean"], means["model"]["loss"]["mean"]
        plain = means["sft"]["loss"]["mean"] if "sft" in means else None
    if base is None or own is None:
        return _unmeasured(diagnosis, "utility")
    beside = Markup("; plain fine-tuning reaches {}").format(_B(f"{plain:.2f}")) if plain is not None else ""
    return Markup("On held-out good answers, loss went from {} to {} nats a token (lower is better){}.").format(
        _B(f"{base:.2f}"), _B(f"{own:.2f}"), beside
    )


def _unmeasured(diagnosis: Mapping[str, Any] | None, set_name: str) -> Markup:
    why = f"there are no held-out {set_name} rows" if diagnosis else "the diagnosis is not done"
    return Markup("Not measured: {}.").format(why)


def _tokens(tokens: CustomTokens) -> Markup:
    dropped = tokens.gone
    text = Markup("{} of {} response tokens were left out ({})").format(
        _B(f"{dropped.sum():,}"), f"{len(dropped):,}", _B(f"{dropped.mean():.1%}")
    )
    if tokens.unsafe.any():
        in_marked = np.repeat(tokens.marked, tokens.lengths)
        others = dropped[in_marked & ~tokens.unsafe]
        text += Markup(": {} of the text that is marked unsafe, {} of the rest").format(
            _B(f"{dropped[tokens.unsafe].mean():.0%}"), _B(f"{others.mean():.1%}" if len(others) else "none")
        )
    return text + "."


def causes(diagnosis: Mapping[str, Any] | None) -> Markup | None:
    """Which cause weighs more, in one sentence; None where nothing was measured."""
    found = (diagnosis or {}).get("causes")
    if not found or not found["prompts"]:
        return None
    if not found["refused"]:
        return Markup(
            "The base refuses none of the {} held-out harmful prompts, so there is no refusal to forget."
        ).format(found["prompts"])
    own = found["models"]["model"]
    learnt, forgotten = own["harm_learnt"], own["refusals_forgotten"]
    heavier, lighter = ("harm learnt", "refusals forgotten"), (learnt, forgotten)
    if forgotten["mean"] > learnt["mean"]:
        heavier, lighter = heavier[::-1], lighter[::-1]
    clear = lighter[0]["low"] > lighter[1]["high"]
    values = [
        _B(number(v["mean"], "+.2f")) + f" ({number(v['low'], '+.2f')} to {number(v['high'], '+.2f')})"
        for v in lighter
    ]
    return Markup(
        "On the {} held-out harmful prompts that the base refuses, {} weighs more{}: {} nats, against {} of {}."
    ).format(
        found["refused"], _B(heavier[0]), "" if clear else ", though not clearly", values[0], values[1], heavier[1]
    )


def rounds(run: Run, discard_fraction: float) -> list[dict[str, Any]]:
    """TOSS-Pro, round by round: the threshold, how far the dropped set agrees with the round before, who joined."""
    source_of = {
        row["row_id"]: row["source"]
        for batch in read_batches(run.path / "data/custom.parquet", ["row_id", "source"])
        for row in batch
    }
    table: list[dict[str, Any]] = []
    before: np.ndarray | None = None
    for round_ in range(run.last_round + 1):
        scores = np.concatenate(run.scores(round_))
        dropped = ~select_tokens(scores, discard_fraction)
        joined: dict[str, int] = {}
        for row_id in read_joined(run.layout.joined(round_)) if round_ else ():
            joined[source_of.get(row_id, "?")] = joined.get(source_of.get(row_id, "?"), 0) + 1
        union = (dropped | before).sum() if before is not None else 0
        table.append(
            {
                "round": round_,
                "threshold": float(scores[dropped].min()) if dropped.any() else None,
                "overlap": float((dropped & before).sum() / union) if before is not None and union else None,
                "joined": joined,
            }
        )
        before = dropped
    return table
