"""What is wrong with a config, in the words of its user: keys as they are written, and what may stand there."""

from __future__ import annotations

from collections.abc import Sequence
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from tosslm.outward import without_secrets

_NAMED_FIRST = ("path", "model", "name")
"""Keys that a section is about, so that a value in its place is taken for theirs."""
_WORDS = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}
_WRONG_KIND = ("_type", "_parsing", "literal_error", "int_from_float")


def explained(error: ValidationError, tree: type[BaseModel], where: str, overrides: Sequence[str]) -> str:
    """Each wrong key once, with what may stand there, and who said it.

    Args:
        error: what pydantic found.
        tree: of the whole config.
        where: the config's file.
        overrides: ``a.b=value`` strings of the command line, which may be what is wrong.
    """
    of_file: dict[str, str] = {}
    of_options: dict[str, str] = {}
    # Of a choice between kinds each is told to have failed; the value as a whole is told of first.
    for problem in sorted(error.errors(), key=lambda one: len(one["loc"])):
        key, kind = _key_of(tree, problem["loc"])
        told, text = f"{key}: " if key else "", _told(problem, kind, tree)
        if option := said_by(key, overrides):
            of_options.setdefault(key, f"{option} {told}{text}")
        else:
            of_file.setdefault(key, f"{told}{text}")
    file = [f"{where}: {'; '.join(of_file.values())}"] if of_file else []
    return without_secrets("; ".join([*file, *of_options.values()]))


def said_by(key: str, overrides: Sequence[str]) -> str | None:
    """The option that a value comes from, where it is none of the file's."""
    names = [override.partition("=")[0] for override in overrides]
    return "--set" if any(f"{key}.".startswith(f"{name}.") for name in names) else None


def _told(problem: Any, kind: Any, tree: type[BaseModel]) -> str:
    value, sort = problem["input"], problem["type"]
    if sort == "extra_forbidden":
        section = _key_of(tree, problem["loc"][:-1])[1]
        return f"unknown key; known here: {', '.join(_keys(section))}"
    if sort == "missing":
        return "missing; add it (`toss init` writes a commented config to start from)"
    if sort == "value_error":
        return str(problem["msg"]).removeprefix("Value error, ")
    given = f" (given: {'null' if value is None else repr(value)})"
    if _is_section(kind):
        return _section_wanted(kind, value) + given
    if sort.endswith(_WRONG_KIND) and kind is not None:
        return f"give {_words(kind)}{given}"
    return f"{problem['msg']}{given}"


def _section_wanted(section: type[BaseModel], value: object) -> str:
    keys = _keys(section)
    first = next((name for name in keys if name in _NAMED_FIRST), None)
    if first == keys[0] and isinstance(value, str | list):
        shown = f"[{', '.join(map(str, value))}]" if isinstance(value, list) else value
        return f"a section of keys; write {{{first}: {shown}}}"
    return f"a section of keys: {', '.join(keys)}"


def _key_of(tree: type[BaseModel], location: Sequence[int | str]) -> tuple[str, Any]:
    """A key as its user writes it, and what kind of value it has; None of an unknown key.

    Behind a choice between kinds pydantic names the kind that it tried, which is no part of the key.
    """
    kind: Any = tree
    parts: list[str] = []
    for part in location:
        if _is_section(kind):
            kind = {f.alias or name: f.annotation for name, f in kind.model_fields.items()}.get(str(part))
        elif get_origin(kind) is list:
            kind = get_args(kind)[0]
        elif get_origin(kind) is dict:
            kind = get_args(kind)[1]
        elif get_origin(kind) is tuple and isinstance(part, int):
            kind = get_args(kind)[part]
        else:
            break
        kind = _plain(kind)
        parts.append(str(part))
    return ".".join(parts), kind


def _plain(kind: Any) -> Any:
    """A kind without what checks it, and without null where that is the only other choice."""
    if get_origin(kind) is Annotated:
        return _plain(get_args(kind)[0])
    if get_origin(kind) in (Union, UnionType):
        others = [one for one in get_args(kind) if one is not NoneType]
        return _plain(others[0]) if len(others) == 1 else kind
    return kind


def _words(kind: Any) -> str:
    kind, arguments = _plain(kind), get_args(_plain(kind))
    if get_origin(kind) is Literal:
        *others, last = map(str, arguments)
        return f"{', '.join(others)} or {last}" if others else last
    if get_origin(kind) in (Union, UnionType):
        return " or ".join(_words(one) for one in arguments if one is not NoneType)
    if get_origin(kind) is list:
        return f"a list of {_words(arguments[0])}".replace("a list of a ", "a list with a ")
    if get_origin(kind) is tuple:
        return f"a list of {len(arguments)}, each {_words(arguments[0])}"
    if get_origin(kind) is dict:
        return "a mapping, such as {key: value}"
    return _WORDS.get(kind, "another value")


def _is_section(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def _keys(section: type[BaseModel]) -> list[str]:
    return [field.alias or name for name, field in section.model_fields.items()]
