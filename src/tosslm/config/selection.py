"""How tokens are scored and chosen."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from tosslm.config.section import PathText, Section
from tosslm.config.serving import ServerConfig
from tosslm.errors import InputError


class ScoringConfig(Section):
    """How the response tokens of the custom set are scored."""

    batch_tokens: int = Field(
        16384,
        ge=1,
        le=1_000_000_000,
        description="Padded tokens in one forward pass, at most; on a CPU never more than 1,024, though a change "
        "above that scores anew there too.",
    )
    rows_per_part: int = Field(1024, ge=1, le=10_000_000, description="Rows in one file of scores.")
    engine: Literal["local", "ray", "vllm"] = Field(
        "local",
        description="Where scoring runs. local: in this process; ray: shared among workers of the Ray cluster that "
        "RAY_ADDRESS names, else of one on this machine (install tosslm[ray]); vllm: by an inference server that is "
        "started for it, once its losses of some rows agree with this process's own.",
    )
    workers: int | Literal["auto"] = Field(
        "auto", description="For engine: ray. How many, each with a model of its own; auto: as many as there is room."
    )
    gpus_per_worker: int | Literal["auto"] = Field(
        "auto",
        description="For engine: ray. 1, or 0 to score on CPUs; auto: 1 where the cluster has GPUs and model.device "
        "is not cpu.",
    )
    server: ServerConfig = Field(
        default_factory=lambda: ServerConfig.model_validate({}),
        description="For engine: vllm. The server; nobody but the run can reach it, and it ends with the scoring.",
    )

    @field_validator("workers")
    @classmethod
    def _some(cls, value: int | Literal["auto"]) -> int | Literal["auto"]:
        if value != "auto" and not 1 <= value <= 10_000:
            raise ValueError("choose a number of workers from 1 to 10000, or auto")
        return value

    @field_validator("gpus_per_worker")
    @classmethod
    def _one_at_most(cls, value: int | Literal["auto"]) -> int | Literal["auto"]:
        if value != "auto" and not 0 <= value <= 1:
            raise ValueError(
                "a worker's model has one device: choose 0, 1 or auto. A model that is larger than a GPU is scored "
                "with engine: local by several processes that accelerate launch starts with "
                "configs/accelerate/fsdp2.yaml; or a smaller one is in its place: references.model"
            )
        return value

    @model_validator(mode="after")
    def _of_ray(self) -> ScoringConfig:
        said = [key for key in ("workers", "gpus_per_worker") if getattr(self, key) != "auto"]
        if self.engine != "ray" and said:
            raise ValueError(
                f"{said[0]} is for engine: ray, and engine is {self.engine}; set engine: ray, or {said[0]}: auto"
            )
        return self

    @model_validator(mode="after")
    def _of_a_server(self) -> ScoringConfig:
        if self.engine != "vllm" and self.server != ServerConfig.model_validate({}):
            said = next(key for key, value in self.server if value != type(self.server).model_fields[key].default)
            raise ValueError(
                f"server.{said} is for engine: vllm, and engine is {self.engine}; set engine: vllm, or leave it out"
            )
        return self

    def covered(self) -> dict[str, Any]:
        """What a fingerprint of scores covers: not which process or worker of Ray computes, for the bytes are equal.

        ``engine`` stands there as it did when there was but one, so that older scores stay done. A server's losses
        are its own; which server it was, and how near it came, is recorded and not covered.
        """
        engine = "vllm" if self.engine == "vllm" else "local"
        return {"batch_tokens": self.batch_tokens, "rows_per_part": self.rows_per_part, "engine": engine}


class SelectionConfig(Section):
    """Which response tokens are left out."""

    discard_fraction: float | Literal["auto"] = Field(
        "auto",
        description="auto: tokens are dropped that the posterior finds more likely unsafe than not, but no more "
        "useful text than false_discard, and no more useful text than harm. A number below 1: that share of all "
        "response tokens, highest evidence first; the paper has 0.1.",
    )
    false_discard: float = Field(
        0.05, gt=0, lt=1, description="For discard_fraction: auto. Share of a useful row's tokens that may go."
    )
    scope: Literal["global", "row"] = Field(
        "global", description="global: over the whole custom set; row: inside each row (an ablation)."
    )
    evidence: Literal["token", "window", "posterior"] = Field(
        "posterior",
        description="What is ranked. posterior: log-odds of unsafe given the token's whole row, learnt from held-out "
        "rows; token: each token's own score, as in the paper; window: the mean score of a window around it. These "
        "two need a number as discard_fraction.",
    )
    window: int = Field(
        5,
        ge=1,
        le=1_000_000,
        description="For evidence: window. Tokens in a window, the token in its middle; an even number is taken as "
        "the next odd one.",
    )
    alpha: float = Field(
        1.0,
        ge=0,
        le=1_000,
        description="For evidence: token. What is ranked is alpha * loss_utility - beta * loss_degraded; 1 and 1 are "
        "the paper's score.",
    )
    beta: float = Field(1.0, ge=0, le=1_000, description="As alpha.")
    context: Literal["keep", "drop"] = Field(
        "keep",
        description="keep: the fine-tuning reads dropped tokens as context, as in the paper; drop: they are taken "
        "out of its input too.",
    )

    overrides: PathText | None = Field(
        None,
        description="Rows and spans that people want kept or dropped, whatever the scores say: JSON Lines, as "
        "`toss review` writes them.",
    )

    @field_validator("discard_fraction")
    @classmethod
    def _a_share(cls, value: float | Literal["auto"]) -> float | Literal["auto"]:
        if value == "auto":
            return value
        if value >= 1:
            raise ValueError("1 or more would drop every response token; choose a value below 1, such as 0.1")
        if not value >= 0:
            raise ValueError("choose a share from 0 up to 1, such as 0.1, or auto")
        return value

    @model_validator(mode="after")
    def _auto_has_a_posterior(self) -> SelectionConfig:
        if self.discard_fraction == "auto" and (self.evidence, self.scope) != ("posterior", "global"):
            raise ValueError(
                "discard_fraction: auto goes by the posterior over the whole set; set evidence: posterior and scope: "
                "global, or give a share such as 0.1"
            )
        return self

    @model_validator(mode="after")
    def _weighs_token_scores(self) -> SelectionConfig:
        if not self.alpha and not self.beta:
            raise ValueError("alpha and beta are both 0, which ranks nothing; make one of them 1")
        if self.weighs_losses and self.evidence != "token":
            raise ValueError(
                f"alpha {self.alpha:g} and beta {self.beta:g} go with evidence: token, and evidence is "
                f"{self.evidence}, which is made of the paper's score; leave them at 1, or set evidence: token"
            )
        return self

    @property
    def weighs_losses(self) -> bool:
        """Whether another score than the paper's is ranked."""
        return (self.alpha, self.beta) != (1, 1)

    @property
    def kind(self) -> str:
        """What is ranked, as a key of ``selection.kinds.KINDS``."""
        return "weighted" if self.weighs_losses else self.evidence

    @property
    def share(self) -> float:
        """The share that is dropped.

        Raises:
            InputError: none is given, and who asks drops by a share.
        """
        if isinstance(self.discard_fraction, str):
            raise InputError(
                "selection.discard_fraction: auto goes by the posterior, and this method drops a share of the "
                "tokens; give one, such as --set selection.discard_fraction=0.1"
            )
        return self.discard_fraction

    def covered(self) -> dict[str, Any]:
        """What a fingerprint of the mask covers: a key that came later is left out where it has no part.

        Of ``overrides`` the content counts, not the path; it is covered beside this.
        """
        apart = {"context", "overrides"}  # the first is of the fine-tuning's input, not of the mask
        apart |= set() if self.discard_fraction == "auto" else {"false_discard"}
        apart |= set() if self.weighs_losses else {"alpha", "beta"}
        found = {"auto": "estimated where rows are few; most that goes is not useful"}
        return self.model_dump(exclude=apart) | (found if self.discard_fraction == "auto" else {})


class RefinementConfig(Section):
    """TOSS-Pro: rounds in which the degraded reference learns from the riskiest custom rows."""

    rounds: int = Field(0, ge=0, le=1_000, description="0 is plain TOSS.")
    samples_per_round: int = Field(
        512, ge=1, le=1_000_000_000, description="Rows that join the harmful set in a round."
    )
