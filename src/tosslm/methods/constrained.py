"""Constrained fine-tuning: the first tokens of an answer are held near the base."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tosslm.methods.method import Method, keep_all

if TYPE_CHECKING:
    import torch

FIRST_BETA = 0.5
EARLY_BETA = 2.0
LATER_BETA = 0.1
EARLY_TOKENS = 5


def constrained_loss(losses: torch.Tensor, base_losses: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """``-(2 / beta_t) log sigmoid(beta_t log(p(x_t) / p_base(x_t)))`` of each token, their objective.

    Its gradient is that of the plain loss times ``2 sigmoid(beta_t log(p_base / p))``: 1 where the model still is the
    base, and the nearer to 0 the more likely the model has made the token; a high beta stops it early.

    Args:
        losses: float32 ``[N]``, ``-log p`` under the model.
        base_losses: float32 ``[N]``, the same under the base, without a gradient.
        positions: int64 ``[N]``, how many tokens of the same answer stand before each.

    Returns:
        Float32 ``[N]``.
    """
    import torch  # a list of the methods does not wait for it

    beta = torch.full_like(losses, LATER_BETA)
    beta[positions < EARLY_TOKENS] = EARLY_BETA
    beta[positions == 0] = FIRST_BETA
    return 2 / beta * torch.nn.functional.softplus(beta * (losses - base_losses))


CONSTRAINED_SFT = Method(
    "constrained-sft",
    summary="standard fine-tuning with a token-wise constraint that is strong on the first five tokens of an answer",
    source="Qi et al. 2025, arXiv 2406.05946, betas 0.5, 2 (tokens 2 to 5) and 0.1",
    badge="variant",
    differs="a LoRA is trained instead of all weights, at the learning rate of every method",
    builds_on="data",
    choose=keep_all,
    token_loss=constrained_loss,
    version=2,  # counts dropped tokens that stand before one in its answer
)
