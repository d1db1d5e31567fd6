"""How much of the custom set the posterior finds unsafe, beside how much is dropped: of a run, and before one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from tosslm.config import Config
from tosslm.config.idle import idle_keys
from tosslm.errors import InputError
from tosslm.findings.sentence import Sentence, Strong
from tosslm.runs.layout import DATA, SELECTION, scores
from tosslm.runs.ranking import find_unsafe
from tosslm.runs.reader import Run

FAR_TIMES = 2.0
FAR_POINTS = 0.02
"""The dropped and the found share are far apart where one is more than ``FAR_TIMES`` the other and they differ by at
least this: so that neither 10% against 7%, nor 1% against a thousandth, is called far."""
_SCORED_BY = ("model", "data", "references", "refinement", "seed")


def found_by(run: Run) -> Mapping[str, float] | None:
    """What selection recorded; None where no posterior could be learnt, or an earlier version selected."""
    found: Mapping[str, float] | None = run.stages[SELECTION].get("unsafe_found") if run.has(SELECTION) else None
    return found


def before_run(
    config: Config, data: str, *, own_choice: bool = False, scored: bool = True, trains: bool = True
) -> dict[str, Any]:
    """What the run folder of a config tells before the config is carried out.

    Args:
        config: the config.
        data: fingerprint that the data stage would have now, of the contents of files and of the base.
        own_choice: whether its method chooses tokens by itself, so that evidence has no part in it.
        scored: whether its method has use for references and scores.
        trains: whether its method trains a model.

    Returns:
        ``discard_fraction``; ``unsafe_found``, as recorded of selection, None where that folder has no scores of the
        model, data and references that the config names; ``warnings``.
    """
    found, d = None if own_choice else _found_before(config, data), config.selection.discard_fraction
    far = [] if isinstance(d, str) else far_from_found(found, d)
    told = [*idle_keys(config, scored=scored, trains=trains), *far, *_there(config)]
    return {"discard_fraction": d, "unsafe_found": found, "warnings": told}


def _there(config: Config) -> list[str]:
    """That the folder has steps already, which a plan does not subtract."""
    try:
        done = list(Run(config.run_dir, steps=()).stages)
    except InputError:
        return []
    if not done:
        return []
    return [
        f"{config.run_dir} holds steps that are done ({', '.join(done)}). A run skips those that are still right, "
        "and this plan is for all of it."
    ]


def _found_before(config: Config, data: str) -> Mapping[str, float] | None:
    try:
        run = Run(config.run_dir, steps=("data", "scores", "selection"))
        same = all(getattr(run.config, name) == getattr(config, name) for name in _SCORED_BY)
    except InputError:
        return None
    last = config.refinement.rounds
    if not same or run.stages.get(DATA, {}).get("fingerprint") != data or not run.has(scores(last)):
        return None
    return found_by(run) or find_unsafe(run.scores_folder(last), seed=config.seed)


def found_told(found: Mapping[str, float], dropped: float | Literal["auto"]) -> Sentence:
    """How much is found, beside the share that is dropped; ``auto`` before that is known."""
    return Sentence(
        "The posterior finds ",
        Strong(_percent(found["share"])),
        f" of the response tokens more likely unsafe than not (its chain, {_percent(found['chain_share'])} in the "
        "long run); ",
        Strong("as many" if isinstance(dropped, str) else _percent(dropped)),
        " are dropped, or fewer." if isinstance(dropped, str) else " are dropped.",
    )


def threshold_told(selection: Mapping[str, Any]) -> list[str]:
    """What `discard_fraction: auto` could not keep, or had to give up."""
    auto = selection["auto"]
    needed = _bound_takes(auto)
    if auto["rows"] is None:
        return [
            "discard_fraction auto went by even odds alone: the held-out rows are too few to tell how much useful "
            f"text goes. A bound for false_discard {auto['false_discard']:g} takes {needed}"
        ]
    said = []
    if auto.get("bound") is None:
        said.append(
            f"discard_fraction auto: about {auto['risk']:.1%} of a useful row goes, which {auto['rows']} held-out "
            f"utility rows give as an estimate; a bound for false_discard {auto['false_discard']:g} takes {needed}"
        )
    said += _little_harm(auto)
    found = selection.get("unsafe_found")
    dropped = selection["discarded"] / max(selection["tokens"], 1)
    if found is None or dropped >= found["share"] - FAR_POINTS:
        return said
    return [
        *said,
        f"Unsafe tokens may stay: the posterior finds {_percent(found['share'])} more likely unsafe than not, and "
        f"{_percent(dropped)} are dropped: more would cost more than {auto['false_discard']:.1%} of useful text. "
        "References that tell them apart better, or a larger selection.false_discard, drop more.",
    ]


def _bound_takes(auto: Mapping[str, Any]) -> str:
    """What a bound takes; nothing can be bounded by rows of the custom set, of which a trim has chosen the best."""
    if auto.get("rows_needed", 0) is None:
        return "a utility set of its own, where these rows are the custom set's. Name one in data.utility.path."
    return f"about {auto['rows_needed']} held-out utility rows. Raise references.holdout, or name more utility rows."


def _little_harm(auto: Mapping[str, Any]) -> list[str]:
    """Where most of what is more likely unsafe than not is what useful rows would lose too."""
    if auto.get("sooner") is None or auto["threshold"] <= auto["sooner"]:
        return []
    return [
        "discard_fraction auto: the custom set loses hardly more than held-out utility rows would, so most of what "
        f"the posterior suspects is useful text. Tokens go from log-odds {auto['threshold']:.1f} up, not from "
        f"{auto['sooner']:.1f}: {_percent(auto['dropped'])} of a custom row, {_percent(auto['risk'])} of a useful "
        "one."
    ]


def far_from_found(found: Mapping[str, float] | None, dropped: float) -> list[str]:
    """A warning where much more, or much less, is dropped than is found."""
    if found is None:
        return []
    share, d = found["share"], dropped
    if abs(share - d) < FAR_POINTS or max(share, d) <= FAR_TIMES * min(share, d):
        return []
    told = f"{_percent(d)} of the response tokens are dropped, and the posterior finds {_percent(share)} unsafe"
    if d > share:
        return [f"Useful tokens go: {told}. Lower selection.discard_fraction, or look at what is dropped."]
    return [f"Unsafe tokens stay: {told}. Raise selection.discard_fraction, or look at what is kept."]


def _percent(share: float) -> str:
    return f"{share:.1%}" if share >= 0.001 or share == 0 else "less than 0.1%"
