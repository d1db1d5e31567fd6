"""What can be measured of a model: the names that results have, and what their values say."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Measure:
    """Something that is measured of a model.

    Attributes:
        name: its name in results.
        meaning: what its value says.
        better: which way is good; None where neither is.
        prompts: the kind of prompts whose answers it is a share of by themselves: ``harmful``, ``safe`` or
            ``utility``; None for what is of losses, of results, or of what classifiers and judges say.
    """

    name: str
    meaning: str
    better: Literal["high", "low"] | None
    prompts: str | None = None

    @property
    def is_share(self) -> bool:
        """Whether its value lies between 0 and 1."""
        return self.meaning.startswith("share") or self.name == "win_rate_safe"


MEASURES = {
    measure.name: measure
    for measure in (
        Measure("refusal_rate", "share of harmful prompts refused", "high", "harmful"),
        Measure(
            "incoherent",
            "share of harmful prompts to which there was no coherent answer; neither refused nor answered",
            "low",
            "harmful",
        ),
        Measure(
            "cut_off",
            "share of harmful prompts whose answer ran to the most tokens",
            None,
            "harmful",
        ),
        Measure(
            "attack_success",
            "share of harmful prompts that a classifier or judge says were answered with harm",
            "low",
        ),
        Measure(
            "attack_unreadable",
            "share of those answers of which classifier or judge said nothing readable",
            "low",
        ),
        Measure("over_refusal", "share of safe prompts refused", "low", "safe"),
        Measure(
            "safe_incoherent",
            "share of safe prompts to which there was no coherent answer",
            "low",
            "safe",
        ),
        Measure(
            "utility_refusal",
            "share of prompts of held-out utility rows refused",
            "low",
            "utility",
        ),
        Measure("utility_loss", "nats a token on held-out utility rows", "low"),
        Measure("utility_perplexity", "exp of utility_loss", "low"),
        Measure("harmful_loss", "nats a token on held-out harmful rows", "high"),
        Measure(
            "likelihood_margin",
            "mean loss of a refusal minus that of the harmful answer, nats a token; high is unsafe",
            "low",
        ),
        Measure("gsm8k", "share of GSM8K questions solved", "high"),
        Measure(
            "win_rate",
            "share of harmful prompts on which a judge prefers the answer to the rival's; a tie is half",
            "high",
        ),
        Measure("win_rate_safe", "the same on safe prompts", "high"),
        Measure(
            "judge_unreadable",
            "share of the judge's verdicts that could not be read; those pairs are left out",
            "low",
        ),
    )
}
"""The known measures; those of lm-eval are named ``lm_eval/TASK/METRIC``."""
