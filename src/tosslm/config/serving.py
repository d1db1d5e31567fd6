"""The inference server that may score: how it is started, and how near its losses have to come."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from tosslm.config.section import PathText, Section

_OURS = {
    "--api-key": "the run makes one, which no other process can read",
    "--hf-token": "it would be written into the run folder; the server reads HF_TOKEN",
    "--grpc-port": "it would let others reach the degraded reference",
    "--host": "the server listens to the run alone, at a socket in a private folder",
    "--port": "the server listens to the run alone, at a socket in a private folder",
    "--uds": "the server listens to the run alone, at a socket in a private folder",
    "--dtype": "set model.dtype",
    "--lora-modules": "the run's references are served, and no other adapter",
    "--served-model-name": "requests name the references",
    "--trust-remote-code": "set model.trust_remote_code",
    "--max-model-len": "it is that of the longest row; set data.max_length",
    "--max-loras": "it is as many as there are references",
    "--max-lora-rank": "it is that of references.lora.r",
}


class ServerConfig(Section):
    """An inference server that scores in this process's place."""

    command: list[PathText] = Field(
        ["vllm"],
        min_length=1,
        description="Starts it, a list of words, such as [/opt/vllm/bin/vllm]; `serve`, a model folder and options "
        "follow.",
    )
    arguments: list[str] = Field(
        [], description="Further options of `vllm serve`, a list of words, such as [--tensor-parallel-size, '2']."
    )
    seconds: float = Field(
        600.0, gt=0, le=1_000_000, description="Until the server has to be ready, and for each of its answers."
    )
    in_flight: int = Field(64, ge=1, le=10_000, description="Rows that the server is asked for at a time.")
    check_rows: int = Field(
        256,
        ge=256,
        le=10_000_000,
        description="Custom rows that this process scores too before the server is trusted; all where they are "
        "fewer.",
    )
    largest_difference: float | Literal["auto"] = Field(
        "auto",
        description="Nats that a loss of these rows may be off, under either reference; auto: 0.001 in float32, 2 in "
        "16 bits.",
    )
    mean_difference: float | Literal["auto"] = Field(
        "auto", description="Nats that losses may be off on average; auto: 0.0001 in float32, 0.1 in 16 bits."
    )
    mask_change: float | Literal["auto"] = Field(
        "auto",
        description="Share of these rows' dropped tokens in whose place the server would drop others; auto: 0.01 in "
        "float32, 0.25 in 16 bits.",
    )

    @field_validator("arguments")
    @classmethod
    def _not_ours(cls, value: list[str]) -> list[str]:
        for word in value:
            name = word.partition("=")[0].replace("_", "-")
            if name in _OURS:
                raise ValueError(f"{name}: {_OURS[name]}; leave it out")
        return value

    @field_validator("largest_difference", "mean_difference", "mask_change")
    @classmethod
    def _a_bound(cls, value: float | Literal["auto"]) -> float | Literal["auto"]:
        if value != "auto" and not 0 <= value < float("inf"):
            raise ValueError("choose a number from 0, or auto")
        return value
