"""Load a base and its tokenizer; attach, switch and save adapters; choose dtype and device."""

from __future__ import annotations

import gc
import json
import platform
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from peft import LoraConfig as PeftLoraConfig
from peft import PeftModel, get_peft_model
from peft.helpers import rescale_adapter_scale
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from tosslm.config import LoraConfig, ModelConfig
from tosslm.data.tokenized import Limits
from tosslm.errors import InputError, TosslmError
from tosslm.files import atomic_folder, fingerprint, sha256
from tosslm.model.builtin import builtin_folder
from tosslm.model.fit import check_adapter_fits, check_targets, refuse_misfits
from tosslm.model.quantize import check_quantization, load_settings, quantized, settle

if TYPE_CHECKING:
    from tosslm.model.sharded import Shards

HAZARD_MARK: Literal["HAZARDOUS.md"] = "HAZARDOUS.md"
_WEIGHTS = "*.safetensors"
_CODE = ("*.json", "*.jinja", "*.txt", "*.model", "*.tiktoken")
_NOT_THE_MODEL = {"checksums.json", "README.md", "generation_config.json", "trainer_state.json", "measured.json"}


@dataclass(frozen=True, slots=True)
class Keys:
    """Where the config names a model and its adapter, for messages."""

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
        identity: fingerprint of the files of model and adapter, of the dtype, and of what it is quantised to; equal
            on every machine.
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
    def model(self) -> Any:
        """The model with ``model.adapter`` merged, on its device, in evaluation mode."""
        if self._model is None:
            self._model = self.shards.load(self) if self.shards else load_model(self)
        return self._model

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
        raise InputError(
            f"{keys.name}: {config.name} is an adapter, not a model; put its base into {keys.name} and, unless it is "
            f"a degraded reference, the adapter into {keys.adapter}"
        )
    check_quantization(config, device, folder, keys.name.partition(".")[0])
    adapter = _adapter_folder(config.adapter, keys.adapter) if config.adapter else None
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


def folder_checksums(folder: Path) -> dict[str, str]:
    """SHA-256 of each file that makes a model or adapter what it is."""
    files = {file for pattern in (_WEIGHTS, *_CODE, "*.py") for file in folder.glob(pattern)}
    return {file.name: sha256(file) for file in sorted(files) if file.name not in _NOT_THE_MODEL}


def choose_device(device: str) -> torch.device:
    """``auto`` is the first accelerator, else the CPU.

    Raises:
        InputError: there is no such device, or it is not the first of its kind, where trainers work.
    """
    if device != "auto":
        try:
            chosen = torch.device(device)
            torch.zeros(1, device=chosen)
        except (RuntimeError, AssertionError) as error:
            reason = str(error).strip().splitlines()[0]
            raise InputError(f"model.device: {device!r} cannot be used here ({reason}); try auto or cpu") from None
        if chosen.index:
            raise InputError(
                f"model.device: {device!r} is not the first one; set CUDA_VISIBLE_DEVICES={chosen.index} and "
                f"model.device: {chosen.type}"
            )
        return chosen
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def multiplies_bfloat16_fast() -> bool:
    """Whether this machine's CPU multiplies bfloat16 matrices in hardware, as PyTorch sees it."""
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def choose_dtype(dtype: str, device: torch.device) -> torch.dtype:
    """``auto`` is bfloat16 where the processor multiplies it fast, else float32.

    A CPU without AVX512 or AMX multiplies bfloat16 matrices over 100 times slower than float32 ones.
    """
    if dtype != "auto":
        return getattr(torch, dtype)
    if device.type == "cpu":
        fast = multiplies_bfloat16_fast()
    else:
        fast = device.type != "cuda" or torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.bfloat16 if fast else torch.float32


def local_folder(
    key: str, name: str, revision: str | None, trust_remote_code: bool, *, weights: bool = True, fetch: bool = True
) -> Path:
    """The files of a model or adapter, on this machine.

    Args:
        key: who names it, for messages.
        name: a folder, a hub id or a built-in model.
        revision: of a hub id.
        trust_remote_code: whether its own code comes along.
        weights: whether its weights do.
        fetch: whether the hub is asked for what is not here yet.

    Raises:
        InputError: there is no such model, or it cannot be fetched.
    """
    if name.startswith("builtin:"):
        return builtin_folder(name, key)
    if Path(name).is_dir():
        return Path(name)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    patterns = [*([_WEIGHTS] * weights), *_CODE, HAZARD_MARK, *(["*.py"] if trust_remote_code else [])]
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=patterns, local_files_only=not fetch))
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(
            f"{key}: {name!r} is neither a folder here nor a model that the hub gives ({reason}); "
            "check the name, the network, and your access rights"
        ) from None


def _adapter_folder(name: str, key: str) -> Path:
    folder = local_folder(key, name, None, False)
    if (folder / HAZARD_MARK).exists():
        raise InputError(
            f"{key}: {name} is marked {HAZARD_MARK}: a degraded reference is never merged into a base; "
            "name a safety-tuned adapter instead"
        )
    check_adapter(folder)
    return folder


def check_adapter(folder: Path) -> None:
    """Refuse a folder that is not a PEFT adapter in safetensors.

    Raises:
        InputError: a file is missing; pickled weights are never loaded.
    """
    for file in ("adapter_config.json", "adapter_model.safetensors"):
        if not (folder / file).is_file():
            raise InputError(f"{folder}: no {file} there; name a folder with a PEFT adapter saved as safetensors")


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
    if not any(base.folder.glob(_WEIGHTS)):
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
            model = PeftModel.from_pretrained(model, base.adapter_folder).merge_and_unload()
        except (torch.OutOfMemoryError, MemoryError):
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


@contextmanager
def fresh_adapter(base: Base, lora: LoraConfig, seed: int) -> Iterator[PeftModel]:
    """The base with a new LoRA on it, taken off again at the end; the base's own weights are never touched."""
    plain = base.model  # loading draws random numbers too: it must come before the seed
    check_targets(plain, lora.target_modules, "lora.target_modules")
    torch.manual_seed(seed)
    settings = PeftLoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=lora.target_modules,
        task_type="CAUSAL_LM",
    )
    try:
        model = get_peft_model(plain, settings)
    except ValueError as error:
        raise InputError(f"lora.target_modules: {error}") from None
    try:
        yield model
    finally:
        model.unload()
        # Trainers wrap the forward of the model they are given.
        base.model.__dict__.pop("forward", None)
        base.model.eval().requires_grad_(False)


@contextmanager
def without_adapter(model: Any) -> Iterator[None]:
    """A model in training as it was before: without its adapter, and without dropout."""
    was_training = model.training
    model.eval()
    try:
        with model.disable_adapter():
            yield
    finally:
        model.train(was_training)


@contextmanager
def attached_adapters(base: Base, folders: dict[str, Path], *, scale: float = 1.0) -> Iterator[PeftModel]:
    """The base with several stored adapters on one copy of its weights; switch with ``set_adapter``.

    Args:
        base: the base.
        folders: the adapters, by name.
        scale: of all their updates.
    """
    (first, folder), *rest = folders.items()
    for name, path in folders.items():
        check_adapter(path)
        check_adapter_fits(base.model, path, f"adapter {name}")
    model = PeftModel.from_pretrained(base.model, folder, adapter_name=first)
    try:
        for name, folder in rest:
            model.load_adapter(folder, name)
        with rescale_adapter_scale(model, scale) if scale != 1 else nullcontext():
            yield model.eval()
    finally:
        model.unload()
        base.model.eval().requires_grad_(False)


def save_adapter(
    model: PeftModel, folder: Path, base: ModelConfig, notes: dict[Literal["README.md", "HAZARDOUS.md"], str]
) -> None:
    """Save an adapter as a PEFT folder: safetensors, config, and the notes that go with it.

    Raises:
        TosslmError: a weight is not finite, or its square is not.
    """
    with atomic_folder(folder) as beside:
        model.save_pretrained(beside, save_embedding_layers=False)
        weights = {name: value.detach() for name, value in model.named_parameters() if value.requires_grad}
        # Of states that huge weights make, a norm makes zeros: the loss is that of chance, a number, and stays so.
        if bad := [name for name, value in weights.items() if not value.float().square().isfinite().all()]:
            raise TosslmError(
                f"{folder.name}: weights of {bad[0]} are not finite, or too large for a norm of them to be; lower "
                "the learning_rate"
            )
        settings_file = beside / "adapter_config.json"
        settings = json.loads(settings_file.read_text(encoding="utf-8"))
        # PEFT keeps these names in a set, so their order would change from one process to the next.
        if isinstance(settings.get("target_modules"), list):
            settings["target_modules"].sort()
        settings["base_model_name_or_path"] = base.name
        settings_file.write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        (beside / "README.md").unlink(missing_ok=True)
        for name, text in notes.items():
            (beside / name).write_text(text, encoding="utf-8")
