"""Whether tensors and names fit a model: what a library would load, or leave out, without a word is refused."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from peft import PeftConfig
from peft.tuners.tuners_utils import check_target_module_exists
from safetensors import safe_open

from tosslm.errors import InputError

_PREFIX = "base_model.model."
_SHOWN = 3


def refuse_misfits(key: str, name: str, report: Mapping[str, Any]) -> None:
    """Refuse weights that a library has loaded in part.

    Args:
        key: of the config.
        name: of the model.
        report: what transformers says of its loading: ``missing_keys``, ``unexpected_keys``, ``mismatched_keys``.

    Raises:
        InputError: names tensors. A missing one would have random values, others in every process.
    """
    for kind, said in (
        ("missing_keys", "lacks tensors of the model, which would be random"),
        ("unexpected_keys", "holds tensors that the model has no place for"),
        ("mismatched_keys", "holds tensors of other shapes than the model's"),
    ):
        names = sorted(str(one[0] if isinstance(one, tuple) else one) for one in report.get(kind) or ())
        if names:
            raise InputError(f"{key}: {name} {said}: {_listed(names)}; name a folder whose weights and config agree")


def check_targets(model: Any, targets: Sequence[str] | str, key: str) -> None:
    """Refuse a name among a LoRA's targets that matches no layer; the others would be trained without it.

    Args:
        model: the base; its weights may be on the meta device.
        targets: names of layers, or ``all-linear``.
        key: of the config.

    Raises:
        InputError: names it, and layers that are there.
    """
    if isinstance(targets, str):
        return
    modules = [name for name, _ in model.named_modules()]
    lost = [target for target in targets if not any(_matches(name, target) for name in modules)]
    if lost:
        layers = (name for name, module in model.named_modules() if hasattr(module, "weight"))
        known = sorted({name.rpartition(".")[2] for name in layers})
        raise InputError(f"{key}: no layer of the model is called {_listed(lost)}; there are: {', '.join(known)}")


def _matches(name: str, target: str) -> bool:
    return name == target or name.endswith(f".{target}")


def check_adapter_fits(model: Any, folder: Path, key: str) -> None:
    """Refuse an adapter that PEFT would put on the model in part, or not at all.

    Args:
        model: the base that it goes on, without adapters; its weights may be on the meta device.
        folder: of the adapter.
        key: what names it, for the message.

    Raises:
        InputError: a tensor has no place, has another shape than its place, or a layer's tensors are missing.
    """
    tensors = adapter_shapes(folder, key)
    modules = dict(model.named_modules())
    try:
        config = PeftConfig.from_pretrained(str(folder))
    except Exception as error:  # whatever PEFT raises over a file that is none
        raise InputError(f"{key}: {folder}: adapter_config.json cannot be read ({error}); save it anew") from None
    if getattr(config, "peft_type", None) is None:
        raise InputError(f"{key}: {folder}: adapter_config.json names no peft_type, such as LORA; save it anew")
    found: set[str] = set()
    for name, shape in tensors.items():
        module_name, _, part = name.removeprefix(_PREFIX).partition(".lora_")
        module = modules.get(module_name)
        if part and (module is None or not hasattr(module, "weight")):
            raise InputError(
                f"{key}: {folder} {_MISFIT} it has weights for {module_name}, which is no layer; {_ELSEWHERE}"
            )
        if not part or module is None:
            continue
        found.add(module_name)
        out_size, in_size = _sizes(module)
        if (part.startswith("A.") and shape[1] != in_size) or (part.startswith("B.") and shape[0] != out_size):
            raise InputError(f"{key}: {folder} {_MISFIT} {name} is of shape {shape}, not its layer's; {_ELSEWHERE}")
    wanted = {
        name for name, module in modules.items() if name and hasattr(module, "weight") and _targeted(config, name)
    }
    if missing := sorted(wanted - found):
        raise InputError(
            f"{key}: {folder} {_MISFIT} no weights for {_listed(missing)}, which its config names; it would do "
            f"nothing there: {_ELSEWHERE}"
        )
    if not found:
        raise InputError(f"{key}: {folder} {_MISFIT} no weights of it have a place; {_ELSEWHERE}")


_MISFIT = "does not fit the model:"
_ELSEWHERE = "name the adapter of this base, saved whole"


def adapter_shapes(folder: Path, key: str) -> dict[str, tuple[int, ...]]:
    """Names and shapes of an adapter's tensors, from the header of its file.

    Raises:
        InputError: the file is damaged.
    """
    try:
        with safe_open(str(folder / "adapter_model.safetensors"), "pt") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except Exception as error:
        raise InputError(f"{key}: {folder}/adapter_model.safetensors is damaged ({error}); save it anew") from None


def adapted_modules(folder: Path, key: str) -> set[str]:
    """Names of the layers that a LoRA changes, by its file.

    Raises:
        InputError: the file is damaged.
    """
    names = (name.removeprefix(_PREFIX).partition(".lora_") for name in adapter_shapes(folder, key))
    return {module for module, mark, _ in names if mark}


def _targeted(config: Any, name: str) -> bool:
    targets = getattr(config, "target_modules", None)
    if targets is None or targets == "all-linear":
        return False
    return bool(check_target_module_exists(config, name))


def _sizes(module: Any) -> tuple[int, int]:
    """How many values a linear layer gives, and takes."""
    if hasattr(module, "out_features"):
        return int(module.out_features), int(module.in_features)
    rows, columns = module.weight.shape  # transformers' Conv1D and embeddings
    return int(columns), int(rows)


def _listed(names: Iterable[str]) -> str:
    names = list(names)
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
