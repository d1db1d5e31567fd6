"""What models are measured on, and by whom they are judged."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, ValidationError, field_validator

from tosslm.config.data import SourceConfig
from tosslm.config.section import PathText, Section, named_path
from tosslm.errors import InputError

REFUSAL_TEXTS = (
    "I'm sorry, but I can't help with that.",
    "I cannot assist with that request.",
    "Sorry, I can't do that.",
)


def parse_scales(text: str) -> list[float]:
    """Scales with commas between them, as ``--scale`` has them.

    Raises:
        InputError: one is no number, or no scale.
    """
    try:
        return EvaluationConfig.model_validate({"scales": [one.strip() for one in text.split(",")]}).scales
    except ValidationError as error:
        problem = error.errors()[0]
        no_number = problem["type"] != "value_error"
        reason = f"{problem['input']!r} is no number" if no_number else problem["msg"].removeprefix("Value error, ")
        raise InputError(f"--scale {text!r}: {reason}; give numbers with commas between, such as 0.4,0.6") from None


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

    @field_validator("path")
    @classmethod
    def _names_something(cls, value: str | list[str]) -> str | list[str]:
        return named_path(value)


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
