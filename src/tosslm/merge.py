"""One ordinary model folder of all the parts, so that nobody loads the new adapter on the unsafe plain base."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from tosslm.config import ModelConfig
from tosslm.errors import InputError, TosslmError
from tosslm.files import atomic_folder
from tosslm.model.base import Base, load_model, open_base, save_model
from tosslm.model.fit import check_adapter_fits
from tosslm.model.folders import HAZARD_MARK, check_adapter, is_hazardous
from tosslm.model.merging import with_merged
from tosslm.runs.outside import check_outside
from tosslm.runs.reader import Run
from tosslm.stages.finetune import model_readme


def merge(run: Run, out: Path, *, scale: float = 1.0, trust_remote_code: bool = False) -> Path:
    """Merge base, ``model.adapter`` and the fine-tuned adapter, and save them with the tokenizer.

    Args:
        run: a run whose fine-tuning is done.
        out: a folder that does not exist yet.
        scale: of the fine-tuned adapter's update.
        trust_remote_code: as of ``load_run``.

    Raises:
        InputError: fine-tuning is not done, ``out`` exists, or the run's config wants a trust that nobody gave.
        TosslmError: the adapter is damaged, or the base is not the one it was trained on.
    """
    adapter = run.path / "model"
    trusted = Run(run.path, trust_remote_code=trust_remote_code or run.trust_remote_code)
    config = trusted.config_to_go_on(asks=False)
    if not run.has("model"):
        raise InputError(
            f"{run.name}: no fine-tuned model yet, or one of an earlier selection; run `toss finetune {run.name}`"
        )
    run.check_settled("model", "finetune")
    check_outside(run, out)
    _check_merge(adapter, out)
    if damaged := run.folder.damaged("model"):
        raise TosslmError(f"{run.path / damaged[0]}: damaged; `toss run` makes it again")
    base = open_base(_on_cpu(config.model, run.manifest))
    readme = (adapter / "README.md").read_text(encoding="utf-8")
    if not readme.startswith(model_readme(base, config.model.quantize)):  # a note may follow
        raise TosslmError(
            f"{adapter}: the base or model.adapter is not the one that it was trained on (see its README.md); "
            "put those files back, or fine-tune again"
        )
    save_merged(base, adapter, out, scale, note=merged_note(config.model.quantize))
    return out


def _on_cpu(model: ModelConfig, manifest: Mapping[str, Any]) -> ModelConfig:
    """A base as it was trained on, whole and on the CPU: a machine may lack its device, or a device the room.

    What ``auto`` chose as its dtype stays, which a CPU would choose otherwise.
    """
    dtype = manifest.get("machine", {}).get("dtype", model.dtype) if model.dtype == "auto" else model.dtype
    return model.model_copy(update={"quantize": None, "device": "cpu", "dtype": dtype})


def merged_note(quantize: str | None) -> str | None:
    """What has to be known of a merged model whose adapter was trained on a quantised base; None where it was not."""
    if quantize is None:
        return None
    return (
        f"The adapter was trained on the base in {quantize} (4 bits), and is merged into its "
        "unquantised weights, as is usual after QLoRA: the merged model answers a little otherwise than what was "
        "trained and evaluated."
    )


def save_merged(base: Base, adapter: Path, folder: Path, scale: float = 1.0, *, note: str | None = None) -> None:
    """Write a base with an adapter merged into it as an ordinary model folder, with the tokenizer.

    The merge is on a copy of the weights: those of ``base`` stay as they are. It is on whole weights, also where the
    base is quantised: into 4 bits most of the update would be lost.

    Args:
        base: the base, with its ``model.adapter``.
        adapter: a PEFT adapter that was trained on it.
        folder: a folder that does not exist yet.
        scale: of the adapter's update.
        note: goes into a README.md beside the model.

    Raises:
        InputError: the scale is out of range; the adapter is marked as hazardous, is none, or does not fit; or
            ``folder`` exists.
    """
    _check_merge(adapter, folder)
    if not 0 < scale <= 10:
        raise InputError(f"--scale {scale:g}: choose a number above 0, of at most 10")
    check_adapter(adapter)
    plain = load_model(base.unquantized(), torch.device("cpu"))
    check_adapter_fits(plain, adapter, str(adapter))
    try:
        model = with_merged(plain, adapter, str(adapter), scale)
    except (torch.OutOfMemoryError, MemoryError, InputError):
        raise
    except Exception as error:
        raise InputError(f"{adapter}: does not fit {base.config.name} ({error})") from error
    with atomic_folder(folder) as beside:
        save_model(base, model, beside)
        if note:
            (beside / "README.md").write_text(f"# Merged model\n\n{note}\n", encoding="utf-8")
        # Libraries make weights their owner's alone; a model that the user asked for follows his umask.
        usual = (beside / "config.json").stat().st_mode
        for file in beside.iterdir():
            file.chmod(usual)


def _check_merge(adapter: Path, out: Path) -> None:
    if out.exists():
        raise InputError(f"{out}: exists already; name a folder that does not")
    if is_hazardous(adapter):
        raise InputError(f"{adapter}: marked {HAZARD_MARK}; a degraded reference is never merged")
