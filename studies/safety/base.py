"""The base of the safety study: SmolLM2-135M-Instruct, made safe on real refusals and useful rows.

    python -m studies.safety.base

It also learns from delicate prompts that are answered, from the demo's rows, and from harmless prompts that only
sound dangerous (``contrast.jsonl``), so that it does not refuse those.

Its weights are trained on the public data, so they lie under ``runs`` and are made again rather than kept. Of the two
sources of useful rows it sees one, AlpacaEval; GSM8K's arithmetic is what there is to learn later.
"""

from __future__ import annotations

from pathlib import Path

from examples.demo.align import MODEL, SETTINGS, align
from studies.safety.data import write_common

from tosslm.cli import quiet_libraries
from tosslm.config import ModelConfig
from tosslm.merge import save_merged
from tosslm.model.base import open_base

ROOT = Path("runs/safety")
BASE = ROOT / "base"
COMMON = ROOT / "common"
TRAINING = {**SETTINGS, "epochs": 2, "micro_batch_size": 4}
NOTE = "# Safety adapter of the safety study\n\nMade by `python -m studies.safety.base`.\n"


def make_base() -> Path:
    """Train the base where it is not there yet; its model folder."""
    if not (BASE / "config.json").exists():
        write_common(COMMON)
        adapter = ROOT / "adapter"
        align([COMMON / "align.jsonl"], TRAINING, out=adapter, work=ROOT / "work", note=NOTE)
        save_merged(open_base(ModelConfig(name=MODEL)), adapter, BASE)
    return BASE


if __name__ == "__main__":
    quiet_libraries()
    make_base()
