"""A LoRA trained on rows by themselves, without a run: a safety adapter, say, or a guard."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tosslm.files import fingerprint, sha256
from tosslm.model.base import Base
from tosslm.progress import Reporter, SilentReporter
from tosslm.training.labels import write_training_rows
from tosslm.training.train import Notes, Recipe, train_adapter


def fine_tune(
    base: Base,
    rows: Iterable[Mapping[str, Any]],
    recipe: Recipe,
    *,
    out: Path,
    work: Path,
    notes: Notes | None = None,
    name: str = "adapter",
    reporter: Reporter | None = None,
) -> dict[str, Any]:
    """Train an adapter on rows and save it; a killed call goes on where it was.

    Args:
        base: the frozen base.
        rows: training rows, as ``training_row`` makes them; with ``anchored`` where the recipe anchors.
        recipe: how it is trained.
        out: the folder of the adapter.
        work: a folder for what is unfinished, of this training alone; removed at the end.
        notes: files of text that go into ``out``.
        name: what progress calls it.
        reporter: where progress goes.

    Returns:
        As ``train_adapter``.

    Raises:
        InputError: there is no row, or no token to train on.
        TosslmError: the loss or a weight is no number.
    """
    dataset = write_training_rows(
        work / "rows.arrow", rows, anchored=recipe.anchor_weight > 0, placed=recipe.token_loss is not None
    )
    parts = [recipe.settings.model_dump(), recipe.seed, base.identity, sha256(work / "rows.arrow"), _loss_of(recipe)]
    known, own = work / "fingerprint", fingerprint(*parts)
    if not known.exists() or known.read_text(encoding="utf-8") != own:
        shutil.rmtree(work / "checkpoints", ignore_errors=True)
        known.write_text(own, encoding="utf-8")
    facts = train_adapter(
        base,
        dataset,
        recipe,
        name=name,
        work=work,
        out=out,
        notes=notes or {},
        reporter=reporter or SilentReporter(),
    )
    shutil.rmtree(work)
    return facts


def _loss_of(recipe: Recipe) -> list[Any]:
    """What its loss is: a training that goes on from another one's checkpoint would be neither's."""
    own = recipe.token_loss and f"{recipe.token_loss.__module__}.{getattr(recipe.token_loss, '__qualname__', '')}"
    return [recipe.normalize, recipe.anchor_weight, recipe.anchor_normalize, recipe.hold, own]
