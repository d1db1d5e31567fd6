"""What a run did, in sentences: safety, utility, tokens, causes; and TOSS-Pro's rounds in numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from tosslm.findings.measured import PLAIN, Measured
from tosslm.findings.sentence import Sentence, Strong, listed
from tosslm.runs.reader import Run
from tosslm.runs.tables import LEAST_SHIFT, read_joined, read_scores, stored_rows
from tosslm.selection.cut import Cut, apply_cut, find_cut
from tosslm.text import number

_MODELS = ("the base", "plain fine-tuning", "the model of this run")

FEW_PROMPTS = 5
"""Fewer prompts than these tell nothing of which cause weighs more."""


def safety(diagnosis: Mapping[str, Any] | None, measured: Measured) -> Sentence:
    """What became of safety: refusals where answers were judged, else how far the model moved, and whereto."""
    refused = measured.among("refusal_rate")
    if own := refused[-1]:
        shares = [
            Sentence(f"{name} ", Strong(f"{share['value']:.0%}"), _ends(share))
            for name, share in zip(_MODELS, refused, strict=True)
            if share
        ]
        return Sentence(f"Refused, of {own['n']} harmful prompts: ", listed(shares), ".")
    means = (diagnosis or {}).get("means", {}).get("harmful", {})
    if "model" not in means:
        return _unmeasured(diagnosis, "harmful")
    base, model = (Strong(f"{means[name]['loss']['mean']:.2f}") for name in ("base", "model"))
    whereto = _whereto(means) if "shift" in means["model"] else " away from the base"
    beside = ("", "") if PLAIN not in means else (", plain fine-tuning ", _way(means, PLAIN))
    return Sentence(
        "On held-out unsafe answers, the model moved ",
        _way(means, "model"),
        whereto,
        *beside,
        "; their loss went from ",
        base,
        " to ",
        model,
        " nats a token (lower is less safe).",
    )


def _way(means: Mapping[str, Any], name: str) -> Sentence:
    """How far a model moved: toward the degraded reference, as a share of the way, where there is such a way."""
    if "shift" not in means[name]:
        return Sentence(Strong(f"{means[name]['kl']['mean']:.2f} nats"))
    moved, whole = (means[one]["shift"]["mean"] for one in (name, "degraded"))
    if not _has_way(means):
        return Sentence(Strong(f"{number(moved, '.2f')} nats"))
    share = Strong(number(moved / whole, ".0%"))
    return Sentence(share, f" of the way ({number(moved, '.2f')} of {whole:.2f} nats)")


def _has_way(means: Mapping[str, Any]) -> bool:
    """Whether the degraded reference moved clearly; a share of next to nothing says nothing."""
    whole = means["degraded"]["shift"]
    return whole["mean"] >= LEAST_SHIFT and whole.get("low", whole["mean"]) > 0


def _whereto(means: Mapping[str, Any]) -> str:
    if _has_way(means):
        return " from the base to the degraded reference"
    whole = number(means["degraded"]["shift"]["mean"], ".2f")
    return f" toward the degraded reference, which hardly moved itself ({whole} nats), so there is no way to go"


def _ends(metric: Mapping[str, Any]) -> str:
    if metric.get("low") is None or metric.get("high") is None:
        return ""
    return f" ({metric['low']:.0%} to {metric['high']:.0%})"


def utility(diagnosis: Mapping[str, Any] | None, measured: Measured) -> Sentence:
    """What became of usefulness: the loss on held-out good answers."""
    base, plain, own = (metric["value"] if metric else None for metric in measured.among("utility_loss"))
    means = (diagnosis or {}).get("means", {}).get("utility", {})
    if (base is None or own is None) and "model" in means:
        base, own = means["base"]["loss"]["mean"], means["model"]["loss"]["mean"]
        plain = means[PLAIN]["loss"]["mean"] if PLAIN in means else None
    if base is None or own is None:
        return _unmeasured(diagnosis, "utility")
    beside = ("", "") if plain is None else ("; plain fine-tuning reaches ", Strong(f"{plain:.2f}"))
    return Sentence(
        "On held-out good answers, loss went from ",
        Strong(f"{base:.2f}"),
        " to ",
        Strong(f"{own:.2f}"),
        " nats a token (lower is better)",
        *beside,
        ".",
    )


def _unmeasured(diagnosis: Mapping[str, Any] | None, set_name: str) -> Sentence:
    why = f"there are no held-out {set_name} rows" if diagnosis else "the diagnosis is not done"
    return Sentence(f"Not measured: {why}.")


@dataclass(frozen=True, slots=True)
class LeftOut:
    """Tokens that were left out, in all and of rows that say which of their text is unsafe.

    Attributes:
        tokens: all of them.
        dropped: those left out.
        unsafe: those with marked unsafe text.
        unsafe_dropped: of these, those left out.
        rest: the others of rows with marks.
        rest_dropped: of these, those left out.
    """

    tokens: int
    dropped: int
    unsafe: int
    unsafe_dropped: int
    rest: int
    rest_dropped: int


def left_out(counted: LeftOut) -> Sentence:
    """How much was left out, and how much of what people marked."""
    share = Strong(f"{counted.dropped / counted.tokens:.1%}")
    head = Sentence(
        Strong(f"{counted.dropped:,}"), f" of {counted.tokens:,} response tokens were left out (", share, ")"
    )
    if not counted.unsafe:
        return Sentence(head, ".")
    found = Strong(f"{counted.unsafe_dropped / counted.unsafe:.0%}")
    rest = Strong(f"{counted.rest_dropped / counted.rest:.1%}" if counted.rest else "none")
    return Sentence(head, ": ", found, " of the text that is marked unsafe, ", rest, " of the rest.")


def causes(diagnosis: Mapping[str, Any] | None) -> Sentence | None:
    """Which cause weighs more; None where nothing was measured."""
    found = (diagnosis or {}).get("causes")
    if not found or not found["prompts"]:
        return None
    if not found["refused"] and found.get("reasoning"):
        return Sentence(
            f"Of {found['reasoning']} of the {found['prompts']} held-out harmful prompts the base still reasons "
            f"after {found['tokens']} tokens, so it is not known what it refuses, and forgets."
        )
    if not found["refused"]:
        return Sentence(
            f"The base refuses none of the {found['prompts']} held-out harmful prompts, so there is no refusal to "
            "forget."
        )
    own = found["models"]["model"]
    weighed = [("harm learnt", own["harm_learnt"]), ("refusals forgotten", own["refusals_forgotten"])]
    (name, heavier), (other, lighter) = sorted(weighed, key=lambda cause: -cause[1]["mean"])
    on = f"On the {found['refused']} held-out harmful prompts that the base refuses, "
    if max(heavier["low"], lighter["low"]) <= 0 or found["refused"] < FEW_PROMPTS:
        few = f" ({found['refused']} prompts tell little)" if found["refused"] < FEW_PROMPTS else ""
        return Sentence(
            on,
            Strong("neither is clearly there"),
            f"{few}: {name} ",
            _with_ends(heavier),
            f" nats, {other} ",
            _with_ends(lighter),
            ".",
        )
    apart = own.get("difference")  # paired, on the same prompts; earlier versions did not measure it
    clear = apart["low"] > 0 or apart["high"] < 0 if apart else heavier["low"] > lighter["high"]
    return Sentence(
        on,
        Strong(name),
        f" weighs more{'' if clear else ', though not clearly'}: ",
        _with_ends(heavier),
        " nats, against ",
        _with_ends(lighter),
        f" of {other}.",
    )


def _with_ends(value: Mapping[str, float]) -> Sentence:
    mean, low, high = (number(value[key], "+.2f") for key in ("mean", "low", "high"))
    return Sentence(Strong(mean), f" ({low} to {high})")


def own_choice(run: Run) -> str | None:
    """The method whose own choice of tokens stands in place of a selection by evidence; None where there is none."""
    name: str | None = run.stages.get("selection", {}).get("method")
    return name


def rounds(run: Run, discard_fraction: float) -> list[dict[str, Any]]:
    """TOSS-Pro, round by round: the threshold, how far the dropped set agrees with the round before, who joined."""
    last = run.last_round if run.scored else -1
    joined = {round_: read_joined(run.layout.joined(round_)) for round_ in range(1, last + 1)}
    sources = _sources_of(run, {row_id for ids in joined.values() for row_id in ids})
    table: list[dict[str, Any]] = []
    folders = [run.scores_folder(round_) for round_ in range(last + 1)]
    cuts = [find_cut(partial(_scores, folder), discard_fraction) for folder in folders]
    for round_, cut in enumerate(cuts):
        table.append(
            {
                "round": round_,
                "threshold": cut.threshold,
                "overlap": _overlap(folders[: round_ + 1][-2:], cuts[: round_ + 1][-2:]),
                "joined": dict(Counter(sources.get(row_id, "?") for row_id in joined.get(round_, ()))),
            }
        )
    return table


def _scores(folder: Path) -> Iterator[np.ndarray]:
    return (scores for _, _, scores in read_scores(folder))


def _sources_of(run: Run, row_ids: Collection[str]) -> dict[str, str]:
    rows = stored_rows(run.layout.rows("custom"), ["row_id", "source"])
    return {row["row_id"]: row["source"] for row in rows if row["row_id"] in row_ids}


def _overlap(folders: Sequence[Path], cuts: Sequence[Cut]) -> float | None:
    """Tokens that two rounds drop, as a share of those that either does; None of one round, or of no tokens."""
    if len(folders) < 2:
        return None
    both = either = 0
    ties = [0, 0]
    for parts in zip(*map(_scores, folders), strict=True):
        kept = []
        for i, part in enumerate(parts):
            keep, ties[i] = apply_cut(part, cuts[i], ties[i])
            kept.append(keep)
        both += int((~kept[0] & ~kept[1]).sum())
        either += int((~kept[0] | ~kept[1]).sum())
    return both / either if either else None
