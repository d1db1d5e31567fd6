"""What every part of the config is, and how its paths are written."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict

from tosslm.remote import local_name


def _from_home(value: Any) -> Any:
    """``~`` is the home folder in every path of the config, as a shell would have it; ``file://`` is a path."""
    if isinstance(value, str) and value.startswith("~"):
        return str(Path(value).expanduser())
    if isinstance(value, str):
        return local_name(value)
    return [_from_home(one) for one in value] if isinstance(value, list) else value


PathText = Annotated[str, BeforeValidator(_from_home)]


class Section(BaseModel):
    """A part of the config: unknown keys are errors, so that a typo never passes silently."""

    model_config = ConfigDict(extra="forbid", frozen=True)
