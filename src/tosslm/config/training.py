"""How adapters are trained: the references, and the fine-tuning."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from tosslm.config.section import PathText, Section


class LoraConfig(Section):
    """A low-rank adapter, as in PEFT."""

    r: int = Field(16, ge=1, le=65_536, description="Rank.")
    alpha: int = Field(16, ge=1, description="Scale; the update is multiplied by alpha / r.")
    dropout: float = Field(0.0, ge=0, lt=1, description="Dropout on the adapter's input.")
    target_modules: Annotated[list[str], Field(min_length=1)] | Literal["all-linear"] = Field(
        ["q_proj", "v_proj"], description="Names of the linear layers that get an adapter, or all-linear."
    )


Beta = Annotated[float, Field(ge=0, lt=1)]


class TrainingConfig(Section):
    """What the trainings of references and of the model have in common."""

    lora: LoraConfig = Field(
        default_factory=lambda: LoraConfig.model_validate({}), description="The adapter that is trained."
    )
    learning_rate: float = Field(1.0e-5, gt=0, description="Peak learning rate of AdamW.")
    lr_scheduler: Literal["constant", "linear", "cosine"] = Field(
        "constant", description="How the learning rate goes on from its peak."
    )
    warmup_steps: int = Field(0, ge=0, le=1_000_000_000, description="Steps of linear warm-up.")
    weight_decay: float = Field(0.0, ge=0, description="AdamW's weight decay.")
    betas: tuple[Beta, Beta] = Field((0.9, 0.999), description="AdamW's betas; the authors' code has [0.9, 0.95].")
    max_grad_norm: float = Field(1.0, gt=0, description="Gradients are clipped to this norm.")
    epochs: int = Field(2, ge=1, le=10_000, description="Passes over the rows.")
    batch_size: int = Field(64, ge=1, le=1_000_000, description="Rows in an optimizer step, over all forward passes.")
    micro_batch_size: int = Field(8, ge=1, le=1_000_000, description="Rows in one forward pass; divides batch_size.")
    gradient_checkpointing: bool = Field(
        False, description="Recompute activations in the backward pass: less memory, about a third more time."
    )
    checkpoint_steps: int = Field(
        50, ge=1, description="A killed training goes on from the last multiple of this many steps."
    )

    @property
    def rows_at_once(self) -> int:
        """Rows in one forward pass: never more than an optimizer step has."""
        return min(self.micro_batch_size, self.batch_size)

    @model_validator(mode="after")
    def _divides(self) -> TrainingConfig:
        if self.batch_size % self.rows_at_once:
            raise ValueError(
                f"batch_size ({self.batch_size}) is not a multiple of micro_batch_size "
                f"({self.micro_batch_size}); set micro_batch_size to a divisor of it"
            )
        return self


class ReferencesConfig(TrainingConfig):
    """How the degraded and the utility reference are trained."""

    model: PathText | None = Field(
        None,
        description="A proxy: a smaller chat model, named as model.name is, that the references are trained on and "
        "that scores; its losses reach the base's tokens through characters. null is the base.",
    )
    adapter: PathText | None = Field(
        None, description="Of the proxy: LoRA merged into it before all else, as model.adapter is into the base."
    )
    revision: str | None = Field(None, description="Of the proxy: branch, tag or commit of a hub id.")
    holdout: float = Field(
        0.1,
        ge=0,
        lt=1,
        description="Share of harmful and utility rows never trained on, chosen by row_id.",
    )
    harmful_tokens: Literal["all", "guard"] = Field(
        "all",
        description="What of the harmful rows the degraded reference learns: all response tokens, or those of "
        "segments that the guard of compare.guard calls unsafe.",
    )

    @model_validator(mode="after")
    def _of_a_proxy(self) -> ReferencesConfig:
        if not self.model and (said := [key for key in ("adapter", "revision") if getattr(self, key)]):
            raise ValueError(
                f"{said[0]} is of a proxy, and none is named; name it in references.model, or set model.{said[0]}, "
                "which is of the base"
            )
        if self.model and self.harmful_tokens == "guard":
            raise ValueError(
                "harmful_tokens: guard goes by the base's tokens, and model names a proxy, which has its own; set "
                "harmful_tokens: all, or leave out references.model"
            )
        return self


class FinetuneConfig(TrainingConfig):
    """How the base is fine-tuned on the tokens kept."""

    normalize: Literal["kept", "all", "row"] = Field(
        "kept",
        description="kept divides the loss by the kept tokens of the optimizer batch; all by all its response tokens "
        "(the paper's formula); row takes the mean over each row's kept tokens, then over the rows that keep any "
        "(the authors' code, which reads one row at a time).",
    )
    dropped: Literal["ignore", "anchor"] = Field(
        "anchor",
        description="What becomes of dropped tokens: anchor, the model is held there to what the base says, by "
        "KL(base || model); ignore, they teach nothing, as in the paper.",
    )
    anchor_weight: float = Field(
        3.0, ge=0, description="For dropped: anchor. Weight of the KL; 0 is the same as dropped: ignore."
    )
    anchor_normalize: Literal["all", "anchored"] = Field(
        "all",
        description="For dropped: anchor. What the KL of an optimizer batch is divided by: all its kept and anchored "
        "tokens, so that an anchored one counts for as much however few there are; or the anchored ones alone, whose "
        "mean then weighs as much where a single token is dropped as where half of them are.",
    )
    anchor_first: int = Field(
        0,
        ge=0,
        description="For dropped: anchor. The first so many response tokens of each answer are anchored too, kept or "
        "not: it is there that refusing is forgotten. 3 keeps more refusals and costs utility.",
    )

    @property
    def anchors(self) -> bool:
        """Whether any token is anchored."""
        return self.dropped == "anchor" and self.anchor_weight > 0

    @model_validator(mode="after")
    def _anchored_means(self) -> FinetuneConfig:
        if self.anchors and self.normalize != "kept":
            raise ValueError(
                f"normalize: {self.normalize} does not go with dropped: anchor, whose cross-entropy is the mean over "
                "kept tokens; set normalize: kept, or dropped: ignore"
            )
        return self
