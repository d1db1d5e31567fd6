"""Which device, and which dtype: asked of the machine where the config says auto."""

from __future__ import annotations

import torch

from tosslm.errors import InputError, first_line

ACCELERATORS = ("cuda", "mps", "xpu")
"""Kinds that ``auto`` takes."""
_CHOOSERS = {"cuda": "CUDA_VISIBLE_DEVICES", "xpu": "ZE_AFFINITY_MASK"}


def choose_device(device: str) -> torch.device:
    """``auto`` is the first accelerator, else the CPU.

    Raises:
        InputError: there is no such device, or it is not the first of its kind, where trainers work.
    """
    if device != "auto":
        try:
            chosen = torch.device(device)
            # A tensor would take memory of the first GPU in each process of a launcher, which has one of its own.
            if chosen.type == "cuda" and not torch.cuda.is_available():
                raise RuntimeError("PyTorch sees no GPU of this kind")
            if chosen.type != "cuda":
                torch.zeros(1, device=chosen)
        except (RuntimeError, AssertionError) as error:
            reason = first_line(error)
            raise InputError(f"model.device: {device!r} cannot be used here ({reason}); try auto or cpu") from None
        if chosen.index:
            raise InputError(
                f"model.device: {device!r} is not the first one; set {_CHOOSERS.get(chosen.type, _CHOOSERS['cuda'])}="
                f"{chosen.index} and model.device: {chosen.type}"
            )
        return chosen
    found = torch.accelerator.current_accelerator(check_available=True)
    return torch.device(found.type) if found is not None and found.type in ACCELERATORS else torch.device("cpu")


def wait_for(device: torch.device) -> None:
    """Wait until a device has done what it was told, for what is timed."""
    if device.type != "cpu":
        torch.accelerator.synchronize()


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
