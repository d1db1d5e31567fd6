"""Which device, and which dtype: asked of the machine where the config says auto."""

from __future__ import annotations

import torch

from tosslm.errors import InputError


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
