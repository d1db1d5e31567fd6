"""The manifest of a run folder as it is read: every path in it lies inside the folder, every key is of its type.

A manifest may come from anywhere, so it is input like any other.
"""

from __future__ import annotations

import json
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError, model_validator

from tosslm.errors import InputError
from tosslm.files import no_folder

MANIFEST_FORMAT = 1
_REMEDY = "restore it from a copy, or name another run_dir"


def _inside(path: str) -> str:
    parts = PurePosixPath(path).parts
    if not parts or path.startswith("/") or ".." in parts or "\\" in path or "\0" in path or ":" in parts[0]:
        raise ValueError("names no file inside the run folder")
    return path


Inside = Annotated[str, AfterValidator(_inside)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="allow", strict=True)


class _Entry(_Part):
    fingerprint: str
    inputs: dict[str, str]
    files: dict[Inside, str]
    seconds: float
    finished: str | None = None


class _SetCounts(_Part):
    rows: int
    bad: int
    truncated: int
    repeated: int
    rewritten: int = 0
    first_rewritten: str | None = None


class _Data(_Entry):
    sets: dict[str, _SetCounts]
    sources: dict[str, dict[str, str]] = {}


class _ProxyCounts(_Part):
    unscored: int


class _Proxy(_Entry):
    sets: dict[str, _ProxyCounts]


class _TrustedCounts(_Part):
    of: int
    rows: int


class _Trusted(_Entry):
    trim: float
    groups: dict[Literal["fold-0", "fold-1", "held_out"], _TrustedCounts]

    @model_validator(mode="after")
    def _all_groups(self) -> _Trusted:
        if len(self.groups) < 3:
            raise ValueError("a group of rows is missing")
        return self


class _SourceCounts(_Part):
    rows: int
    tokens: int
    discarded: int


class _Auto(_Part):
    rows: int | None
    false_discard: float
    rows_needed: int | None
    threshold: float | None = None
    risk: float | None = None
    bound: float | None = None
    dropped: float | None = None
    sooner: float | None = None


class _Selection(_Entry):
    discard_fraction: float
    threshold: float | None
    tokens: int
    discarded: int
    sources: dict[str, _SourceCounts]
    scope: str | None = None
    evidence: str | None = None
    method: str | None = None
    auto: _Auto | None = None


class _Refinement(_Entry):
    joined: int
    samples: int


class _Server(_Part):
    version: str
    rows: int
    tokens: int
    largest_difference: float
    mean_difference: float
    dropped: int
    moved: int
    mask_change: float


class _Scores(_Entry):
    server: _Server | None = None


class _Training(_Entry):
    steps: int
    first_loss: float
    last_loss: float
    tokens_per_second: float | None
    losses: list[tuple[float, float]]

    @model_validator(mode="before")
    @classmethod
    def _pairs(cls, value: Any) -> Any:
        # JSON has no tuples, and strict types take no list for one.
        if isinstance(value, dict) and isinstance(value.get("losses"), list):
            return value | {"losses": [tuple(pair) if isinstance(pair, list) else pair for pair in value["losses"]]}
        return value


_KINDS: dict[str, type[_Entry]] = {
    "data": _Data,
    "proxy": _Proxy,
    "trusted": _Trusted,
    "scores": _Scores,
    "selection": _Selection,
    "refinement": _Refinement,
    "references": _Training,
    "model": _Training,
}


class _Manifest(_Part):
    format: int
    stages: dict[str, dict[str, Any]]
    config: dict[str, Any] = {}
    seed: int = 0
    versions: dict[str, str] = {}
    machine: dict[str, Any] = {}
    warnings: list[str] = []
    begun: dict[str, list[Inside]] = {}
    withheld: list[str] = []
    unsettled: list[str] = []


def read_manifest(path: Path) -> dict[str, Any] | None:
    """A run folder's manifest; None where there is none.

    Raises:
        InputError: it is damaged, of another format, or names what is not the run's own.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except NotADirectoryError:
        raise no_folder(path.parent) from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not readable ({error}); {_REMEDY}") from None
    return parse_manifest(text, path)


def parse_manifest(text: str, path: Path | str) -> dict[str, Any]:
    """The manifest that a text is.

    Args:
        text: JSON.
        path: where it stands, for messages.

    Raises:
        InputError: as ``read_manifest``.
    """
    try:
        manifest = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not readable ({error}); {_REMEDY}") from None
    if isinstance(manifest, dict) and manifest.get("format", MANIFEST_FORMAT) != MANIFEST_FORMAT:
        raise InputError(
            f"{path}: format {manifest['format']!r} is not {MANIFEST_FORMAT}, the one that this version reads; use "
            "the version that wrote it, or name another run_dir"
        )
    try:
        _Manifest.model_validate(manifest)
        for name, entry in manifest["stages"].items():
            _inside(name)
            _KINDS.get(name.split("/")[0], _Entry).model_validate(entry)
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(str(part) for part in problem["loc"]) or "the whole"
        raise InputError(f"{path}: {where}: {problem['msg'].removeprefix('Value error, ')}; {_REMEDY}") from None
    except ValueError as error:
        raise InputError(f"{path}: a step {error}; {_REMEDY}") from None
    _refuse_circles(manifest["stages"], path)
    _upgrade(manifest)
    found: dict[str, Any] = manifest
    return found


def _refuse_circles(stages: dict[str, Any], path: Path | str) -> None:
    """A step that is made from itself, by whatever way, would be followed for ever."""
    cleared: set[str] = set()
    for start in stages:
        walk = [(start, iter(stages[start]["inputs"]))]
        while walk:
            name, inputs = walk[-1]
            following = next((one for one in inputs if one in stages and one not in cleared), None)
            if following is None:
                cleared.add(name)
                walk.pop()
            elif following in {open_name for open_name, _ in walk}:
                raise InputError(f"{path}: the step {following} is made from itself; {_REMEDY}")
            else:
                walk.append((following, iter(stages[following]["inputs"])))


def _upgrade(manifest: dict[str, Any]) -> None:
    """Say in the config what older versions did without a key for it.

    Version 0.1 wrote beside it which method of a comparison made the folder. Before there was ``anchor_normalize``,
    an anchor was divided by the anchored tokens.
    """
    config, stages = manifest.get("config"), manifest["stages"]
    if not config:
        return
    if isinstance(finetune := config.get("finetune"), dict) and "anchor_weight" in finetune:
        finetune.setdefault("anchor_normalize", "anchored")
    if "method" in config:
        return
    config["method"] = stages.get("selection", {}).get("method")
    if "evaluation/model" in stages and "evaluation/base" not in stages:
        config.setdefault("compare", {})["part_of"] = "../.."
