"""Keys of a config that say something and have no part in what it does: told, so that nobody relies on them; pure."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from tosslm.config.evaluation import EvaluationConfig
from tosslm.config.tree import Config


def idle_keys(config: Config, *, scored: bool = True, trains: bool = True) -> list[str]:
    """Keys with another value than their default that nothing heeds, in sentences, each with the reason.

    Args:
        config: the config.
        scored: whether its method has use for references and scores.
        trains: whether its method trains a model.

    Examples:
        >>> from tosslm.config import load_config
        >>> sets = {name: {"path": "x"} for name in ("custom", "harmful", "utility")}
        >>> changes = ["finetune.dropped=ignore", "finetune.anchor_first=3"]
        >>> idle_keys(load_config({"run_dir": "x", "data": sets}, changes))
        ['finetune.anchor_first: 3 has no part, as finetune.dropped or finetune.anchor_weight anchors nothing.']
    """
    selection, evaluation = config.selection, config.evaluation
    heeded = {
        "finetune.anchor_first": (
            config.finetune.anchors,
            "finetune.dropped or finetune.anchor_weight anchors nothing",
        ),
        "finetune.anchor_weight": (
            config.finetune.anchors or not config.finetune.anchor_weight,
            f"finetune.dropped is {config.finetune.dropped}",
        ),
        "finetune.anchor_normalize": (
            config.finetune.anchors,
            "finetune.dropped or finetune.anchor_weight anchors nothing",
        ),
        "references.harmful_tokens": (scored, f"method {config.method} scores nothing"),
        "selection.window": (selection.evidence == "window", f"selection.evidence is {selection.evidence}"),
        "selection.false_discard": (
            selection.discard_fraction == "auto",
            f"selection.discard_fraction is {selection.discard_fraction}, not auto",
        ),
        "refinement.samples_per_round": (config.refinement.rounds > 0, "refinement.rounds is 0"),
        "references.model": (scored, f"method {config.method} scores nothing"),
        "evaluation.scales": (
            evaluation.asks and trains,
            "evaluation names nothing to measure" if trains else f"method {config.method} trains no adapter",
        ),
        **_of_evaluation(evaluation, held_out=config.references.holdout > 0),
    }
    told = [
        f"{key}: {_shown(value)} has no part, as {why}."
        for key, (heeds, why) in heeded.items()
        if not heeds and (value := _changed(config, key)) is not None
    ]
    if selection.evidence == "window" and selection.window % 2 == 0:
        told.append(f"selection.window: {selection.window} has no middle token; {selection.window + 1} is taken.")
    return told


def idle_outside(settings: EvaluationConfig, *, held_out: bool) -> list[str]:
    """The same of an evaluation, where what is measured is the model of no run.

    Args:
        settings: of the evaluation.
        held_out: whether rows of the reference sets are held out.

    Examples:
        >>> idle_outside(EvaluationConfig(scales=[0.5]), held_out=True)
        ['evaluation.scales: [0.5] has no part, as it is the adapter of a run that is measured at scales.']
    """
    told = [
        f"{key}: {_shown(getattr(settings, key.partition('.')[2]))} has no part, as {why}."
        for key, (heeds, why) in _of_evaluation(settings, held_out=held_out).items()
        if not heeds and _changed_in(settings, key.partition(".")[2])
    ]
    if settings.scales:
        told.append(
            f"evaluation.scales: {settings.scales} has no part, as it is the adapter of a run that is measured at "
            "scales."
        )
    if settings.judge and (settings.harmful or settings.safe):
        told.append("evaluation.judge: no answers are compared, as there is no other model's.")
    return told


def _of_evaluation(settings: EvaluationConfig, *, held_out: bool) -> dict[str, tuple[bool, str]]:
    """Whether keys of the section are heeded, and why not."""
    by_judge = bool(settings.judge and settings.judge.attack_prompt)
    prompts = bool(settings.harmful or settings.safe)
    return {
        "evaluation.classifier": (
            bool(settings.harmful) and not by_judge,
            "evaluation.judge.attack_prompt has the judge say it" if by_judge else "evaluation.harmful is not set",
        ),
        "evaluation.judge": (prompts, "neither evaluation.harmful nor evaluation.safe is set"),
        "evaluation.gsm8k_result": (settings.gsm8k is not None, "evaluation.gsm8k is not set"),
        "evaluation.lm_eval_limit": (bool(settings.lm_eval), "evaluation.lm_eval names no task"),
        "evaluation.harmful_rows": (settings.losses, "evaluation.losses is false"),
        "evaluation.utility_rows": (
            settings.losses or settings.utility_prompts > 0,
            "evaluation.losses is false, and evaluation.utility_prompts 0",
        ),
        "evaluation.utility_prompts": (
            held_out or settings.utility_rows is not None,
            "references.holdout is 0, and evaluation.utility_rows is not set",
        ),
        "evaluation.refusals": (settings.losses, "evaluation.losses is false"),
    }


def _shown(value: Any) -> str:
    """A value that is short as it is; of a section its first key."""
    if isinstance(value, BaseModel):
        name = next(iter(type(value).model_fields))
        return f"{{{name}: {getattr(value, name)}, ...}}"
    return str(value)


def _changed(config: Config, key: str) -> Any:
    """A key's value, None where it is the default."""
    section, _, name = key.partition(".")
    own: BaseModel = getattr(config, section)
    return getattr(own, name) if _changed_in(own, name) else None


def _changed_in(section: BaseModel, name: str) -> bool:
    default = type(section).model_fields[name].get_default(call_default_factory=True)
    return bool(getattr(section, name) != default)
