"""What a run folder cannot say by itself, since it may come from anywhere: trust, and who is asked or started."""

from __future__ import annotations

import copy
import json
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel

from tosslm.config import Config, load_config

CODE = "model.trust_remote_code"
JUDGE = "evaluation.judge."
_SERVER = "scoring.server."
UNTRUSTED = {
    CODE: "which runs Python code that comes with the model",
    f"{JUDGE}base_url": "to which prompts, answers and your key would be sent",
    f"{JUDGE}key_variable": "the variable of your environment that would be sent to the judge as its key",
    f"{_SERVER}command": "a program that would be started here",
    f"{_SERVER}arguments": "what the server that is started here would be told",
}
"""Keys that count from the user's own hand alone, and what they do: a run folder is data, whoever sent it."""


def apart(stored: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """A stored config without what a folder cannot say by itself, and that by key, where it is not the default."""
    config, tree = load_config(stored), copy.deepcopy(dict(stored))
    said = {}
    for key in UNTRUSTED:
        *sections, last = key.split(".")
        section, branch = _section(config, sections), tree
        if section is None:
            continue
        value = getattr(section, last)
        if value != type(section).model_fields[last].default:
            said[key] = value
            for name in sections:
                branch = branch[name]
            del branch[last]
    return tree, said


def _section(config: Config, names: Sequence[str]) -> BaseModel | None:
    section: BaseModel | None = config
    for name in names:
        section = None if section is None else getattr(section, name)
    return section


def says(config: Config, key: str) -> bool:
    """Whether a key was given to a config, or its section is not there any more."""
    *sections, last = key.split(".")
    section = _section(config, sections)
    return section is None or last in section.model_fields_set


def _yaml(value: Any) -> str:
    return json.dumps(value) if isinstance(value, bool | list) else str(value)


def unsaid_told(name: str, said: Mapping[str, Any], unsaid: Sequence[str]) -> str:
    """What a folder says that its user has not, what that would do, and how to say it too.

    Args:
        name: of the folder.
        said: what it says, by key.
        unsaid: those of the keys that the user has not said.
    """
    return (
        f"{name}: its config says {' and '.join(f'{key}: {_yaml(said[key])}' for key in unsaid)}, "
        f"{UNTRUSTED[unsaid[0]]}; if you trust whoever made the folder, say so yourself: "
        + " ".join(f"--set {shlex.quote(f'{key}={_yaml(said[key])}')}" for key in unsaid)
        + (" (merge: --trust-remote-code)" if list(unsaid) == [CODE] else "")
        + ". Your own config file in place of the folder needs no such word"
    )
