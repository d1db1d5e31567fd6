"""The methods that `toss compare` trains, one file each, and their one registry."""

from tosslm.errors import InputError
from tosslm.methods import (
    constrained,
    dsir,
    first_k,
    oracle,
    random_tokens,
    rows,
    safeinstr,
    seal,
    sft,
    single_loss,
    star_dss,
    toss,
    untouched,
)
from tosslm.methods.method import Baseline

_ALL = (
    untouched.BASE,
    sft.SFT,
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
    oracle.ORACLE,
    *toss.TOSS_METHODS,
)
REGISTRY: dict[str, Baseline] = {baseline.name: baseline for baseline in _ALL}


def find_baselines(names: list[str]) -> list[Baseline]:
    """The methods of these names, in their order, each once.

    Raises:
        InputError: a name is unknown.
    """
    unknown = [name for name in names if name not in REGISTRY]
    if unknown or not names:
        raise InputError(f"--methods: no method {', '.join(unknown) or 'named'}; known: {', '.join(REGISTRY)}")
    return [REGISTRY[name] for name in dict.fromkeys(names)]
