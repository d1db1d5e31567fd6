"""Read a config from YAML, change it by dotted overrides, and refuse it at the door when it is wrong."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from tosslm.config.explained import explained, said_by
from tosslm.config.tree import Config
from tosslm.errors import InputError
from tosslm.outward import has_credentials


def load_config(
    source: str | Path | Mapping[str, Any], overrides: Sequence[str] = (), *, run_dir: str | None = None
) -> Config:
    """Read and check a config.

    Args:
        source: a YAML file, or the same tree as a mapping.
        overrides: ``a.b=value`` strings, the value read as YAML; later ones win.
        run_dir: replaces the config's own ``run_dir``.

    Raises:
        InputError: the file cannot be read, a key is unknown, or a value is wrong.
    """
    where = "the config" if isinstance(source, Mapping) else str(source)
    try:
        tree: Any = _copy_tree(source if isinstance(source, Mapping) else _read_yaml(Path(source)))
    except RecursionError:
        raise InputError(f"{where}: sections lie in each other without end; write them out") from None
    if not isinstance(tree, dict):
        raise InputError(f"{where}: a config is a mapping of keys to values; see `toss init` for an example")
    for override in overrides:
        _override(tree, override)
    if run_dir is not None:
        tree["run_dir"] = run_dir
    try:
        config = Config.model_validate(tree)
    except ValidationError as error:
        raise InputError(explained(error, Config, where, overrides)) from None
    except Exception as error:
        raise InputError(f"{where}: cannot be read as a config ({type(error).__name__}: {error})") from error
    _refuse_credentials(config.model_dump(mode="json", exclude_unset=True), where, overrides)
    return config


def _refuse_credentials(value: Any, where: str, overrides: Sequence[str], key: str = "") -> None:
    """What the config says is written into run folder and report, which others may read."""
    if isinstance(value, str) and has_credentials(value):
        said = said_by(key, overrides) or f"{where}:"
        raise InputError(
            f"{said} {key}: a URL with a password, token or signature would be written into the run folder; leave "
            "it out and give it through the environment (a judge's key: evaluation.judge.key_variable; a hub's: "
            "HF_TOKEN), or fetch the file yourself"
        )
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, one in pairs:
        _refuse_credentials(one, where, overrides, f"{key}.{name}" if key else str(name))


def _copy_tree(value: Any) -> Any:
    return {k: _copy_tree(v) for k, v in value.items()} if isinstance(value, Mapping) else value


_OTHER_BASE = re.compile(r"[-+]?(0[0-7_]+|[0-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)?)")
"""Numbers that YAML 1.1 reads to the base of 8 or 60: 010 as 8, 1:30 as 90."""


class _AsWritten(yaml.SafeLoader):
    """YAML of which nothing is read otherwise than it stands there.

    No key stands twice, for the last of two sections would drop the first one's settings; and no number means
    another one than a reader sees.
    """

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, str) and key in seen and key != "<<":
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} stands there twice", key_node.start_mark
                )
            if isinstance(key, str):
                seen.add(key)
        found: dict[Any, Any] = super().construct_mapping(node, deep)
        return found

    def decimal(self, node: yaml.ScalarNode) -> int | float:
        """A number, unless it is written to another base than it looks."""
        kind = node.tag.rpartition(":")[2]
        number: int | float = getattr(self, f"construct_yaml_{kind}")(node)
        if _OTHER_BASE.fullmatch(node.value):
            raise yaml.constructor.ConstructorError(
                None,
                None,
                f"{node.value} is {number} to YAML; write the number that you mean, or quote it where it is text",
                node.start_mark,
            )
        return number


for _kind in ("int", "float"):
    _AsWritten.add_constructor(f"tag:yaml.org,2002:{_kind}", _AsWritten.decimal)


def _read_yaml(path: Path) -> Any:
    try:
        return yaml.load(path.read_bytes(), _AsWritten)
    except FileNotFoundError:
        raise InputError(f"{path}: no such config file; `toss init` writes one to start from") from None
    except Exception as error:  # of YAML's constructors, whatever a value makes them stumble over
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        reason = getattr(error, "problem", None) or error
        raise InputError(f"{path}{line}: not readable as YAML ({reason}); mend that line") from None


def _override(tree: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not all(key.split(".")):
        raise InputError(f"--set {override!r}: expected a.b=value, such as selection.discard_fraction=0.2")
    *parents, last = key.split(".")
    for parent in parents:
        if tree.get(parent) is None:
            tree[parent] = {}
        tree = tree[parent]
        if not isinstance(tree, dict):
            raise InputError(f"--set {override!r}: {parent!r} is a value, not a section")
    if not text.strip():
        raise InputError(
            f"--set {override!r}: no value stands there (a variable of the shell that is not set?); {key}=null is "
            "none"
        )
    try:
        tree[last] = yaml.load(text, _AsWritten)
    except Exception as error:
        reason = getattr(error, "problem", None) or error
        raise InputError(f"--set {override!r}: {text!r} is not readable as YAML ({reason})") from None
