"""Find a base and its tokenizer, load its weights on first use, and save a model of its kind."""

from __future__ import annotations

import gc
import platform
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from tosslm.config import DataConfig, ModelConfig
from tosslm.data.tokenized import Limits
from tosslm.errors import InputError
from tosslm.files import fingerprint
from tosslm.model.device import choose_device, choose_dtype
from tosslm.model.fit import check_adapter_fits, refuse_misfits
from tosslm.model.folders import (
    HAZARD_MARK,
    WEIGHTS,
    adapter_folder,
    answering_checksum,
    folder_checksums,
    has_own_code,
    local_folder,
)
from tosslm.model.merging import with_merged
from tosslm.model.quantize import check_quantization, load_settings, quantized, settle

if TYPE_CHECKING:
    from tosslm.data.tokenize import RowTokenizer
    from tosslm.model.sharded import Shards


@dataclass(frozen=True, slots=True)
class Keys:
    """Where the config names a model and its adapter, for messages; empty: it takes no adapter."""

    name: str = "model.name"
    adapter: str = "model.adapter"


BASE_KEYS = Keys()


@dataclass(slots=True)
class Base:
    """The aligned base, loaded on first use, so that a run with nothing to do loads no weights.

    Attributes:
        config: where it comes from.
        tokenizer: its tokenizer, with a padding token.
        folder: the model's files.
        identity: fingerprint of the files of model and adapter, of the dtype, of what it is quantised to, and of
            whether its own code runs; equal on every machine.
        limits: token ids and positions that it has.
        adapter_folder: of ``model.adapter``.
        keys: where the config names it.
        shards: what loads it, where its layers lie spread over several processes.
    """

    config: ModelConfig
    tokenizer: Any
    folder: Path
    identity: str
    limits: Limits
    adapter_folder: Path | None
    keys: Keys = BASE_KEYS
    shards: Shards | None = field(default=None, repr=False)
    _model: Any = field(default=None, repr=False)

    @property
    def answering(self) -> list[str]:
        """What answers depend on beside the identity, for a fingerprint."""
        return answering_checksum(self.folder)

    @property
    def model(self) -> Any:
        """The model with ``model.adapter`` merged, on its device, in evaluation mode."""
        if self._model is None:
            self._model = self.shards.load(self) if self.shards else load_model(self)
        return self._model

    def row_tokenizer(self, data: DataConfig) -> RowTokenizer:
        """The one tokenisation of rows, by a config's settings."""
        from tosslm.data.tokenize import RowTokenizer

        return RowTokenizer(self.tokenizer, max_length=data.max_length, turns=data.turns, limits=self.limits)

    def with_weights(self, model: Any) -> Base:
        """The base with other weights in memory, such as a few layers of its shape."""
        return replace(self, _model=model)

    def unquantized(self) -> Base:
        """The same base with its weights as they are stored."""
        return replace(self, config=self.config.model_copy(update={"quantize": None}), _model=None)

    def release(self) -> None:
        """Let the weights go; who asks for them again waits for them again."""
        self._model = None
        if self.shards:
            self.shards.release(self)


def where_it_runs(config: ModelConfig) -> dict[str, Any]:
    """What figures and speed depend on: device, dtype, the threads of a CPU, and what the base is quantised to."""
    device = choose_device(config.device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    return {
        "device": f"{device.type} ({name})",
        "dtype": str(choose_dtype(config.dtype, device)).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        **({"quantize": config.quantize} if config.quantize else {}),
    }


def open_base(config: ModelConfig, keys: Keys = BASE_KEYS) -> Base:
    """Find a base's files and load its tokenizer, not yet its weights.

    Args:
        config: where it comes from.
        keys: where the config names it, for messages.

    Raises:
        InputError: a model or adapter cannot be found, is not stored as safetensors, or cannot be quantised.
    """
    device = choose_device(config.device)
    folder = local_folder(keys.name, config.name, config.revision, config.trust_remote_code)
    if (folder / "adapter_config.json").exists() or (folder / HAZARD_MARK).exists():
        rest = (
            f"put its base into {keys.name} and, unless it is a degraded reference, the adapter into {keys.adapter}"
        )
        raise InputError(
            f"{keys.name}: {config.name} is an adapter, not a model; "
            f"{rest if keys.adapter else 'name a whole model, into which it is merged'}"
        )
    section, dot, _ = keys.name.partition(".")
    check_quantization(config, device, folder, section if dot else "model")
    adapter = adapter_folder(config.adapter, keys.adapter) if config.adapter else None
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=config.trust_remote_code)
    except Exception as error:  # the tokenizers' own are plain Exceptions
        raise InputError(
            f"{keys.name}: {config.name}: its tokenizer cannot be loaded ({_said(error)}); fetch tokenizer.json and "
            "tokenizer_config.json anew"
        ) from error
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    limits = model_limits(config, folder, keys.name)
    _check_special_tokens(config, tokenizer, limits, keys.name)
    identity = fingerprint(
        folder_checksums(folder),
        folder_checksums(adapter) if adapter else None,
        str(choose_dtype(config.dtype, device)),
        *([config.quantize] if config.quantize else []),
        *(["its own code"] if config.trust_remote_code and has_own_code(folder) else []),
    )
    return Base(config, tokenizer, folder, identity, limits, adapter, keys)


def model_limits(config: ModelConfig, folder: Path, key: str = "model.name") -> Limits:
    """Token ids and positions that a model has, by its config.json.

    Args:
        config: where it comes from.
        folder: its files.
        key: who names it, for messages.

    Raises:
        InputError: the file cannot be read.
    """
    try:
        text = AutoConfig.from_pretrained(folder, trust_remote_code=config.trust_remote_code).get_text_config()
    except Exception as error:
        raise InputError(
            f"{key}: {config.name}: its config.json cannot be read ({_said(error)}); fetch it anew"
        ) from error
    return Limits(getattr(text, "vocab_size", None), getattr(text, "max_position_embeddings", None))


def _said(error: Exception) -> str:
    """What a library says, with the kind of error: of a KeyError the text alone is a bare word."""
    return f"{type(error).__name__}: {error}"


def _check_special_tokens(config: ModelConfig, tokenizer: Any, limits: Limits, key: str) -> None:
    if tokenizer.pad_token_id is None:
        raise InputError(
            f"{key}: {config.name}: its tokenizer has no padding and no end-of-sequence token; set pad_token in "
            "its tokenizer_config.json"
        )
    for kind in ("pad", "eos"):
        token = getattr(tokenizer, f"{kind}_token_id")
        if token is not None and limits.vocabulary is not None and token >= limits.vocabulary:
            raise InputError(
                f"{key}: {config.name}: the tokenizer's {kind}_token has the id {token}, beyond the model's "
                f"vocabulary of {limits.vocabulary}; use the model's own tokenizer, or resize its embeddings"
            )


def load_model(base: Base, device: torch.device | None = None) -> Any:
    """A base's weights on their device, its adapter merged, frozen and in evaluation mode.

    What is quantised is so after the merge: of weights in four bits most of an update would be lost to rounding.

    Args:
        base: the base.
        device: another one to put them on.

    Raises:
        InputError: they cannot be loaded, or the adapter does not fit.
    """
    config, keys = base.config, base.keys
    dtype = choose_dtype(config.dtype, choose_device(config.device))
    device = device or choose_device(config.device)
    if not any(base.folder.glob(WEIGHTS)):
        raise InputError(
            f"{keys.name}: {config.name} has no .safetensors weights; pickled weights are never loaded, "
            "so convert them first"
        )
    quantize_later = config.quantize is not None and base.adapter_folder is not None
    quantize_now = config.quantize is not None and not quantize_later
    try:
        model, report = AutoModelForCausalLM.from_pretrained(
            base.folder,
            dtype=dtype,
            use_safetensors=True,
            trust_remote_code=config.trust_remote_code,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are told, and refused below
            **(load_settings(dtype, device) if quantize_now else {}),
        )
    except (torch.OutOfMemoryError, MemoryError):
        raise
    except Exception as error:
        raise InputError(
            f"{keys.name}: {config.name} cannot be loaded ({_said(error)}); fetch config.json and .safetensors anew"
        ) from error
    refuse_misfits(keys.name, config.name, report)
    if config.quantize is None:
        model = model.to(device)
    if base.adapter_folder:
        check_adapter_fits(model, base.adapter_folder, keys.adapter)
        try:
            model = with_merged(model, base.adapter_folder, keys.adapter)
        except (torch.OutOfMemoryError, MemoryError, InputError):
            raise
        except Exception as error:
            raise InputError(
                f"{keys.adapter}: {config.adapter} does not fit {config.name} ({_said(error)})"
            ) from error
    if quantize_later:
        model = quantized(model, dtype, device)
    if config.quantize is not None:
        settle(model)
    return model.eval().requires_grad_(False)


def let_go(*bases: Base) -> None:
    """Free the memory of some bases' weights, for other processes of this machine."""
    for base in bases:
        base.release()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def save_model(base: Base, model: Any, folder: Path) -> None:
    """Write a model of a base's kind, and the base's tokenizer, as an ordinary model folder.

    Args:
        base: whose tokenizer goes with it.
        model: the weights.
        folder: is there.
    """
    model.save_pretrained(folder)
    # Anew from its files: the one in use has been given a padding token, which a trainer after us may mask.
    AutoTokenizer.from_pretrained(base.folder, trust_remote_code=base.config.trust_remote_code).save_pretrained(
        folder
    )
