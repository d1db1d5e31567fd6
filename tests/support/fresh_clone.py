"""What a reader gets who clones the project."""

from __future__ import annotations

import subprocess
import warnings
from pathlib import Path

from support.pages import ROOT


def cloned(to: Path) -> Path:
    """A clone, in a folder that is not there yet, of what is committed; a warning says what is not."""
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(to)], check=True)
    asking = ["git", "-C", str(ROOT), "status", "--porcelain"]
    if changed := subprocess.run(asking, check=True, capture_output=True, text=True).stdout:
        warnings.warn(f"not committed, so not in the clone that is tested:\n{changed}", stacklevel=2)
    return to
