"""Dual-reference fine-tuning: a token counts the less, the likelier the degraded reference finds it beside the base.

Torch is imported where it is used: a list of the methods does not wait for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tosslm.files import read_batches
from tosslm.methods.material import Material
from tosslm.methods.method import Method, keep_all
from tosslm.runs.tables import row_ids

if TYPE_CHECKING:
    from tosslm.workbench import Workbench

BASE_LOSSES = "base losses"
LEAST_WEIGHT = 1e-3


def soft_weights(loss_base: np.ndarray, loss_degraded: np.ndarray) -> np.ndarray:
    """``min(1, 2 p_base / (p_base + p_degraded))``, not below ``LEAST_WEIGHT``.

    Their ``eta`` is ``1 - 4 min(1/2, sigmoid(log p_base - log p_degraded))``, and their weight ``(1 - eta)
    sigmoid(-z)`` with ``z = beta / 2 (log(p / p_base) - eta log(p / p_degraded))``. At a ``beta`` of 0, which theirs
    of 0.001 comes near, it is this.

    Args:
        loss_base: ``[N]``, nats, of the positive reference.
        loss_degraded: ``[N]``, nats, of the negative reference.

    Returns:
        float32 ``[N]``: 1 for what the base finds no less likely than the degraded reference does.

    Examples:
        >>> soft_weights(np.log([2.0, 4.0, 3.0]), np.log([4.0, 2.0, 1.0])).tolist()
        [1.0, 0.6666666865348816, 0.5]
    """
    odds = np.exp(loss_base.astype(np.float64) - loss_degraded)
    return np.clip(2 / (1 + odds), LEAST_WEIGHT, 1).astype(np.float32)


def token_weights(material: Material) -> np.ndarray:
    """Each token's soft weight, float32 ``[N]``."""
    return soft_weights(material.signals[BASE_LOSSES], material.loss_degraded)


def base_losses(bench: Workbench) -> np.ndarray:
    """Loss of every response token of a run's custom set under the base, nats, float32 ``[N]``."""
    from tosslm.model.losses import response_losses

    scoring, path = bench.config.scoring, bench.layout.rows("custom")
    losses: list[np.ndarray] = []
    with bench.reporter.task("scoring under the base", len(row_ids(path))) as task:
        for rows in read_batches(path, ("row_id", "input_ids", "response_mask"), scoring.rows_per_part):
            of_rows = response_losses(bench.base.model, rows, batch_tokens=scoring.batch_tokens, advance=task.advance)
            losses.append(np.concatenate(of_rows))  # not an array a row: most rows are short
    return np.concatenate(losses)


DR_SFT = Method(
    "dr-sft",
    summary="weighs each token by how likely the base finds it beside the degraded reference",
    source="An et al. 2026, arXiv 2606.30263, as their code has it",
    badge="variant",
    differs="the paper itself could not be read; the factor of a weight that follows the model in training is left "
    "out: at the beta of 0.001 in all but one of their scripts it stays within 1% while a token's log-probability is "
    "within 20 nats of both references'; the negative reference is the run's degraded one, theirs a model trained on "
    "2,500 rows of SafeRLHF; AdamW as in every method, theirs has a first beta of 0.5; no budget: discard_fraction "
    "plays no part",
    choose=keep_all,
    token_weights=token_weights,
    signals={BASE_LOSSES: base_losses},
)
