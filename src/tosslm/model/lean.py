"""A model whose adapters cost two small products and no copy, for reading alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from peft.tuners.lora.layer import Linear as LoraLinear


@contextmanager
def lean_adapters(model: Any) -> Iterator[None]:
    """The model with each plain LoRA that is set added in the dtype of its layer; as it was afterwards.

    PEFT keeps adapters in float32, and of a model in bfloat16 copies every input of an adapted layer to float32 and
    its output back. Rounding the two small matrices instead loses a 256th of the update at most. (To add their
    product to the layer's own weights would lose the update itself: most of a small one is less than half of what
    a bfloat16 weight can be told apart by.) Adapters of other kinds, merged or switched off are left as they are.
    """
    changed = [module for module in model.modules() if type(module) is LoraLinear and _is_plain(module)]
    for module in changed:
        module.forward = _lean_forward(module)
    try:
        yield
    finally:
        for module in changed:
            del module.forward


def _is_plain(module: Any) -> bool:
    if module.disable_adapters or module.merged or "forward" in vars(module):
        return False
    base, names = module.base_layer, _active(module)
    return (
        type(base) is torch.nn.Linear
        and base.weight.is_floating_point()
        and all(name not in module.lora_variant and module.lora_B[name].bias is None for name in names)
        and not any(module.lora_dropout[name].training for name in names)
    )


def _active(module: Any) -> list[str]:
    return [name for name in module.active_adapters if name in module.lora_A]


def _lean_forward(module: Any) -> Callable[..., torch.Tensor]:
    base, dtype = module.base_layer, module.base_layer.weight.dtype
    factors = [
        (
            (module.lora_A[name].weight.detach() * module.scaling[name]).to(dtype),
            module.lora_B[name].weight.detach().to(dtype).T,
        )
        for name in _active(module)
    ]

    def forward(x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        if args or kwargs:  # PEFT's own, such as an adapter for each row
            return type(module).forward(module, x, *args, **kwargs)
        result = base(x)
        flat, inputs = result.reshape(-1, result.shape[-1]), x.reshape(-1, x.shape[-1])
        for a, b in factors:
            flat = torch.addmm(flat, torch.nn.functional.linear(inputs, a), b)
        return flat.view(result.shape)

    return forward
