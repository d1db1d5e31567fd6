"""One ordinary model folder of all the parts, so that nobody loads the new adapter on the unsafe plain base."""

from __future__ import annotations

from pathlib import Path

from peft import PeftModel

from tosslm.errors import InputError, TosslmError
from tosslm.files import atomic_folder
from tosslm.model.base import HAZARD_MARK, check_adapter, open_base
from tosslm.runs.reader import Run
from tosslm.stages.finetune import model_readme


def merge(run: Run, out: Path) -> Path:
    """Merge base, ``model.adapter`` and the fine-tuned adapter, and save them with the tokenizer.

    Args:
        run: a run whose fine-tuning is done.
        out: a folder that does not exist yet.

    Raises:
        InputError: fine-tuning is not done, or ``out`` exists.
        TosslmError: the adapter is damaged, or the base is not the one it was trained on.
    """
    adapter = run.path / "model"
    if not run.has("model"):
        raise InputError(
            f"{run.path}: no fine-tuned model yet, or one of an earlier selection; run `toss finetune {run.path}`"
        )
    if out.exists():
        raise InputError(f"{out}: exists already; name a folder that does not")
    if (adapter / HAZARD_MARK).exists():
        raise InputError(f"{adapter}: marked {HAZARD_MARK}; a degraded reference is never merged")
    if damaged := run.folder.damaged("model"):
        raise TosslmError(f"{run.path / damaged[0]}: damaged; `toss run` makes it again")
    check_adapter(adapter)
    base = open_base(run.config.model)
    readme = (adapter / "README.md").read_text(encoding="utf-8")
    if readme != model_readme(base):
        raise TosslmError(
            f"{adapter}: the base or model.adapter is not the one that it was trained on (see its README.md); "
            "put those files back, or fine-tune again"
        )
    model = PeftModel.from_pretrained(base.model, adapter).merge_and_unload()
    with atomic_folder(out) as beside:
        model.save_pretrained(beside)
        base.tokenizer.save_pretrained(beside)
    return out
