"""The whole config: one tree of sections, and what they ask of one another."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, Field, model_validator

from tosslm.config.data import DataConfig, ModelConfig, SourceConfig
from tosslm.config.evaluation import ClassifierConfig, DiagnosisConfig, EvaluationConfig
from tosslm.config.section import PathText, Section
from tosslm.config.selection import RefinementConfig, ScoringConfig, SelectionConfig
from tosslm.config.training import FinetuneConfig, ReferencesConfig, TrainingConfig


class CompareConfig(Section):
    """What some methods of `toss compare` need beyond the run's own data."""

    harmful_sources: list[str] = Field(
        [], description="Sources of custom rows that are known to be harmful, for the oracle."
    )
    guard: ClassifierConfig | None = Field(
        None,
        description="Guard model for star-dss and star-dss-hard: {model, prompt, unsafe, safe, ...} as "
        "evaluation.classifier.",
    )
    guard_segment: int = Field(
        16,
        ge=1,
        le=10_000_000,
        description="Response tokens after which the guard is asked again, and of datashield's segments.",
    )
    safety: SourceConfig | None = Field(
        None,
        description="Rows of safe answers to unsafe requests, for safeinstr, seal, safemerge, lisa, safegrad, bds, "
        "larf and datashield: {path, ...} as under data.",
    )
    safety_share: float = Field(
        0.025, gt=0, description="How many of them safeinstr mixes in, as a share of the custom rows."
    )
    soft_temperature: float = Field(
        1.0, gt=0, le=1e6, description="For toss-soft. Nats over which a token's weight falls around the threshold."
    )
    part_of: str | None = Field(
        None,
        description="Written by `toss compare` into its methods' run folders: the comparison's folder, seen from "
        "there. Base and judged rival are measured there, once for all methods.",
        json_schema_extra={"hidden": True},
    )


class Config(Section):
    """The whole config of a run."""

    run_dir: PathText = Field("runs/toss", description="Folder that holds everything of this run, or its URL.")
    seed: int = Field(0, ge=0, lt=2**32, description="Seed of all that is random.")
    method: str | None = Field(
        None,
        description="null goes by the keys below; else a method of `toss compare --methods help`, such as toss-pro, "
        "the paper's way, which sets some of them.",
    )
    report_to: list[str] = Field(
        [],
        description="Where trainings and scoring log to: tensorboard, wandb, trackio, mlflow (install yours).",
    )
    model: ModelConfig = Field(default_factory=lambda: ModelConfig.model_validate({}), description="The base.")
    data: DataConfig = Field(description="The three sets of rows.")
    references: ReferencesConfig = Field(
        default_factory=lambda: ReferencesConfig.model_validate({}), description="The two references."
    )
    scoring: ScoringConfig = Field(default_factory=lambda: ScoringConfig.model_validate({}), description="Scoring.")
    selection: SelectionConfig = Field(
        default_factory=lambda: SelectionConfig.model_validate({}), description="Selection."
    )
    refinement: RefinementConfig = Field(
        default_factory=lambda: RefinementConfig.model_validate({}), description="TOSS-Pro."
    )
    finetune: FinetuneConfig = Field(
        default_factory=lambda: FinetuneConfig.model_validate({}), description="Selective fine-tuning."
    )
    evaluation: EvaluationConfig = Field(
        default_factory=lambda: EvaluationConfig.model_validate({}), description="Evaluation."
    )
    compare: CompareConfig = Field(
        default_factory=lambda: CompareConfig.model_validate({}), description="Comparison of methods."
    )
    diagnosis: DiagnosisConfig = Field(
        default_factory=lambda: DiagnosisConfig.model_validate({}), description="Where safety goes."
    )

    @model_validator(mode="after")
    def _learns_from_held_out_rows(self) -> Config:
        if self.selection.evidence == "posterior" and not self.references.holdout:
            raise ValueError(
                "selection.evidence: posterior learns from held-out rows, and references.holdout is 0; set it to 0.1 "
                "or more, or choose evidence token or window, with a number as discard_fraction"
            )
        return self

    @model_validator(mode="after")
    def _serves_what_is_trained(self) -> Config:
        if self.scoring.engine != "vllm":
            return self
        if self.data.utility.of_custom:
            raise ValueError(
                "scoring.engine: vllm serves one utility reference, and data.utility: {from: custom} trains one for "
                "each fold; set scoring.engine: local, or name a utility set"
            )
        if self.model.quantize and not self.references.model:
            raise ValueError(
                f"scoring.engine: vllm serves the whole weights, and references are trained on model.quantize: "
                f"{self.model.quantize}; set scoring.engine: local, or model.quantize: null"
            )
        return self

    @model_validator(mode="after")
    def _computes_on_what_it_reserves(self) -> Config:
        gpus, device = self.scoring.gpus_per_worker, self.model.device.partition(":")[0]
        if gpus == 1 and device == "cpu":
            raise ValueError(
                "scoring.gpus_per_worker: 1 reserves a GPU for each worker, and with model.device: "
                f"{self.model.device} none of them would use it; set gpus_per_worker: 0, or model.device: auto"
            )
        if gpus == 0 and device == "cuda":
            raise ValueError(
                "scoring.gpus_per_worker: 0 shows workers no GPU, and model.device: "
                f"{self.model.device} has them use one; set gpus_per_worker: 1, or model.device: auto"
            )
        return self

    @model_validator(mode="after")
    def _has_a_guard(self) -> Config:
        if self.references.harmful_tokens == "guard" and self.compare.guard is None:
            raise ValueError(
                "references.harmful_tokens: guard asks a guard model; name one in compare.guard, or set it to all"
            )
        return self

    @model_validator(mode="after")
    def _anchors_what_is_read(self) -> Config:
        if self.selection.context == "drop" and self.finetune.anchors:
            raise ValueError(
                "selection.context: drop takes dropped tokens out of the input, and finetune.dropped: anchor holds "
                "the model to the base at them; set context: keep, or dropped: ignore"
            )
        return self


def covered(settings: TrainingConfig | DataConfig) -> dict[str, Any]:
    """What a fingerprint covers of the settings of a training, or of the data.

    A key that came later is left out while it has its default, the value that was meant before there was one, so that
    what was made then is known to be the same now. Where a model lies is left out: its identity is covered. Where
    nothing is anchored, how it would be has no part.
    """
    later = {"betas": (0.9, 0.999), "max_row_bytes": 10_000_000, "anchor_normalize": "anchored"}
    # The tokens that a guard chooses are of the degraded reference alone, which covers them.
    values = settings.model_dump(exclude={"model", "adapter", "revision", "harmful_tokens"})
    if isinstance(settings, DataConfig):
        values["utility"].pop("trim", None)  # of the references, which cover it
    if "checkpoint_steps" in values:  # changes no byte of what is trained
        values["checkpoint_steps"] = TrainingConfig.model_fields["checkpoint_steps"].default
    if isinstance(settings, FinetuneConfig) and not settings.anchors:
        values |= {"dropped": "ignore", "anchor_weight": 1.0, "anchor_first": 3, "anchor_normalize": "anchored"}
    return {key: value for key, value in values.items() if key not in later or value != later[key]}


def explicit_value(config: BaseModel, key: str) -> tuple[bool, Any]:
    """Whether a key was given, not left to its default; and its value.

    Args:
        config: the config.
        key: dotted, such as ``selection.evidence``.
    """
    given, value = True, config
    for part in key.split("."):
        given = given and part in value.model_fields_set
        value = getattr(value, part)
    return given, value
