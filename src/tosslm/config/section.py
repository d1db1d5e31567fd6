"""What every part of the config is, and how its paths are written."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Annotated, Any, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationInfo, field_validator

from tosslm.remote import local_name


def _from_home(value: Any) -> Any:
    """``~`` is the home folder in every path of the config, as a shell would have it; ``file://`` is a path."""
    if isinstance(value, str) and value.startswith("~"):
        return str(Path(value).expanduser())
    if isinstance(value, str):
        return local_name(value)
    return [_from_home(one) for one in value] if isinstance(value, list) else value


PathText = Annotated[str, BeforeValidator(_from_home)]


def named_path(value: str | list[str]) -> str | list[str]:
    """The files that a key names.

    Raises:
        ValueError: it names none, which would be read as the working directory.
    """
    if not value or (isinstance(value, list) and not all(value)):
        raise ValueError("names no file; give a path, a list of paths or a hub id")
    return value


@cache
def _of_numbers(section: type[BaseModel], name: str) -> bool:
    """Whether a field takes numbers and no switch."""
    wanted = set(_types(section.model_fields[name].annotation))
    return bool(wanted & {int, float}) and bool not in wanted


def _types(annotation: Any) -> Iterator[Any]:
    yield annotation
    for part in get_args(annotation):
        yield from _types(part)


class Section(BaseModel):
    """A part of the config: unknown keys are errors, so that a typo never passes silently; numbers are finite."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _no_switch_for_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        """Python takes true for 1 and false for 0, so that what was to be switched off would be a rate of 0."""
        given = value if isinstance(value, list) else [value]
        if any(isinstance(one, bool) for one in given) and _of_numbers(cls, info.field_name or ""):
            raise ValueError("true and false are no numbers; give a number")
        return value

    @field_validator("*", mode="before")
    @classmethod
    def _no_empty_text(cls, value: Any) -> Any:
        """Python takes an empty text for none, so that an adapter whose name got lost would be left out."""
        if isinstance(value, str) and not value.strip():
            raise ValueError("an empty text names nothing; give one, or leave the key out")
        return value
