"""Token-level data selection for safe LLM fine-tuning (TOSS, arXiv 2603.01185).

The names are loaded on first use: selection needs NumPy alone, and should not wait for torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tosslm.config import Config as Config
    from tosslm.config import load_config as load_config
    from tosslm.data.tokenize import tokenize_rows as tokenize_rows
    from tosslm.errors import InputError as InputError
    from tosslm.errors import RowError as RowError
    from tosslm.errors import TosslmError as TosslmError
    from tosslm.model.losses import response_losses as response_losses
    from tosslm.pipeline import run as run
    from tosslm.runs.reader import Run as Run
    from tosslm.runs.reader import load_run as load_run
    from tosslm.selection.chain import unsafe_log_odds as unsafe_log_odds
    from tosslm.selection.cut import select_tokens as select_tokens
    from tosslm.training.anchored import AnchoredLoss as AnchoredLoss
    from tosslm.training.anchored import AnchoredTrainer as AnchoredTrainer
    from tosslm.training.masked import masked_dataset as masked_dataset

_HOMES = {
    "AnchoredLoss": "training.anchored",
    "AnchoredTrainer": "training.anchored",
    "Config": "config",
    "InputError": "errors",
    "RowError": "errors",
    "Run": "runs.reader",
    "TosslmError": "errors",
    "load_config": "config",
    "load_run": "runs.reader",
    "masked_dataset": "training.masked",
    "response_losses": "model.losses",
    "run": "pipeline",
    "select_tokens": "selection.cut",
    "tokenize_rows": "data.tokenize",
    "unsafe_log_odds": "selection.chain",
}
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        value = getattr(import_module(f"tosslm.{_HOMES[name]}"), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'tosslm' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
