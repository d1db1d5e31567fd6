"""The benchmark's base: SmolLM2-135M-Instruct made safe on real refusals and useful rows.

    python -m benchmarks.safety.base

The adapter is trained on the public data, so it lies under ``runs`` and is made again rather than kept.
"""

from __future__ import annotations

from pathlib import Path

from benchmarks.safety.data import write_common
from examples.demo.align import SETTINGS, align

from tosslm.cli import quiet_libraries

ROOT = Path("runs/safety")
ADAPTER = ROOT / "base"
COMMON = ROOT / "common"
TRAINING = {
    **SETTINGS,
    "lora": {"r": 16, "alpha": 32, "target_modules": "all-linear"},
    "epochs": 2,
    "micro_batch_size": 2,
}
NOTE = "# Safety adapter of the safety benchmark\n\nMade by `python -m benchmarks.safety.base`.\n"


def make_base() -> Path:
    """Train the safety adapter where it is not there yet; its folder."""
    if not (ADAPTER / "adapter_config.json").exists():
        write_common(COMMON)
        align([COMMON / "align.jsonl"], TRAINING, out=ADAPTER, work=ROOT / "work", note=NOTE)
    return ADAPTER


if __name__ == "__main__":
    quiet_libraries()
    make_base()
