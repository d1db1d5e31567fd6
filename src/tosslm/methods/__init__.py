"""The methods: one file each, and their one registry, which packages of others add to."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from functools import cache
from importlib.metadata import EntryPoint, entry_points

from tosslm.config import Config, explicit_value, load_config
from tosslm.errors import InputError
from tosslm.methods import (
    anchored,
    averaged,
    bds,
    constrained,
    datashield,
    dr_sft,
    dsir,
    first_k,
    held,
    larf,
    lisa,
    oracle,
    random_tokens,
    rows,
    safegrad,
    safeinstr,
    safemerge,
    scaled,
    seal,
    sft,
    single_loss,
    slow,
    soft,
    star_dss,
    toss,
    untouched,
)
from tosslm.methods.method import AS_CONFIGURED, Method

ENTRY_POINTS = "tosslm.methods"
"""The group of entry points by which other packages add methods; each names a ``Method`` or several of them."""
_OWN = (
    untouched.BASE,
    sft.SFT,
    scaled.SFT_SCALED,
    averaged.SFT_AVERAGED,
    averaged.SFT_EMA,
    slow.SFT_SLOW,
    held.SFT_KL,
    random_tokens.RANDOM,
    first_k.FIRST_K,
    single_loss.DEGRADED_ONLY,
    single_loss.UTILITY_ONLY,
    rows.ROWS,
    safeinstr.SAFEINSTR,
    dsir.DSIR,
    seal.SEAL,
    constrained.CONSTRAINED_SFT,
    star_dss.STAR_DSS,
    star_dss.STAR_DSS_HARD,
    safemerge.SAFEMERGE,
    lisa.LISA,
    safegrad.SAFEGRAD,
    bds.BDS,
    dr_sft.DR_SFT,
    larf.LARF,
    datashield.DATASHIELD,
    oracle.ORACLE,
    oracle.ORACLE_TOKENS,
    *anchored.ANCHORED,
    *toss.TOSS_METHODS,
    soft.TOSS_SOFT,
)


@cache
def registry() -> dict[str, Method]:
    """All methods by name: those of this package, then those of others.

    Raises:
        InputError: a package's methods cannot be loaded, or bear a name that is taken.
    """
    known = {method.name: method for method in _OWN}
    for entry in entry_points(group=ENTRY_POINTS):
        for method in _loaded(entry):
            if known.setdefault(method.name, method) is not method:
                raise InputError(f"{_named(entry)}: a method {method.name!r} is there already; give it another name")
    return known


def find_methods(names: Iterable[str]) -> list[Method]:
    """The methods of these names, in their order, each once.

    Raises:
        InputError: a name is unknown.
    """
    names = list(dict.fromkeys(names))
    unknown = [name for name in names if name not in registry()]
    if unknown or not names:
        raise InputError(f"--methods: no method {', '.join(unknown) or 'named'}; known: {', '.join(registry())}")
    return [registry()[name] for name in names]


def method_of(config: Config) -> Method:
    """The method that a config names; what its keys say where it names none.

    Raises:
        InputError: there is no such method.
    """
    if config.method is None:
        return AS_CONFIGURED
    if config.method not in registry():
        raise InputError(
            f"method: {config.method!r} is unknown; known: {', '.join(registry())}. If a package of its own brings "
            "it, install that"
        )
    return registry()[config.method]


def named_alike(config: Config) -> str | None:
    """The method that does what a config says: the one that it names, or whose settings are its own; None where none.

    Raises:
        InputError: the config's method is unknown, lacks something, or a key says otherwise.
    """
    own, method = settled(config)
    if config.method is not None:
        return method.name
    alike = (
        other.name
        for other in registry().values()
        if other.trains
        and other.choose is None
        and not other.changes_training
        and all(explicit_value(own, key)[1] == value for key, value in other.overrides(own).items())
    )
    return next(alike, None)


def settled(config: Config) -> tuple[Config, Method]:
    """A config with what its method sets, and the method.

    Raises:
        InputError: the method is unknown, lacks something, or a key that the user gave says otherwise.
    """
    method = method_of(config)
    method.check(config)
    overrides = dict(method.overrides(config))
    for key, value in overrides.items():
        given, said = explicit_value(config, key)
        if given and said != value:
            raise InputError(
                f"{key}: method {method.name} sets {_yaml(value)}, the config says {_yaml(said)}; leave the key out, "
                "or leave out the method"
            )
    return with_values(config, overrides), method


def with_values(config: Config, values: dict[str, object], run_dir: str | None = None) -> Config:
    """A config with other values, by dotted key; what was not given before counts as not given still."""
    settings = [f"{key}={_yaml(value)}" for key, value in values.items()]
    return load_config(config.model_dump(mode="json", exclude_unset=True), settings, run_dir=run_dir)


def _yaml(value: object) -> str:
    return json.dumps(value)


def _loaded(entry: EntryPoint) -> Sequence[Method]:
    try:
        found = entry.load()
    except Exception as error:  # whatever a package of others raises on import
        raise InputError(f"{_named(entry)}: cannot be loaded ({error}); mend or remove the package") from error
    methods = [found] if isinstance(found, Method) else list(found)
    if not all(isinstance(method, Method) for method in methods):
        raise InputError(f"{_named(entry)}: names no Method; name one, or a list of them")
    return methods


def _named(entry: EntryPoint) -> str:
    package = f" of {entry.dist.name}" if entry.dist else ""
    return f"entry point {entry.name}{package} in {ENTRY_POINTS}"
