"""Token-level data selection for safe LLM fine-tuning (TOSS, arXiv 2603.01185).

The names are loaded on first use: selection needs NumPy alone, and should not wait for torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tosslm.chain import unsafe_log_odds as unsafe_log_odds
    from tosslm.config import Config as Config
    from tosslm.config import load_config as load_config
    from tosslm.data.tokenize import tokenize_rows as tokenize_rows
    from tosslm.errors import InputError as InputError
    from tosslm.errors import RowError as RowError
    from tosslm.errors import TosslmError as TosslmError
    from tosslm.losses import response_losses as response_losses
    from tosslm.pipeline import run as run
    from tosslm.runs import Run as Run
    from tosslm.runs import load_run as load_run
    from tosslm.runs import masked_dataset as masked_dataset
    from tosslm.selection import select_tokens as select_tokens

_HOMES = {
    "Config": "config",
    "InputError": "errors",
    "RowError": "errors",
    "Run": "runs",
    "TosslmError": "errors",
    "load_config": "config",
    "load_run": "runs",
    "masked_dataset": "runs",
    "response_losses": "losses",
    "run": "pipeline",
    "select_tokens": "selection",
    "tokenize_rows": "data.tokenize",
    "unsafe_log_odds": "chain",
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
