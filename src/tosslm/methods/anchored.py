"""The choices of other methods with anchors: what holding to the base does by itself, whatever chose the tokens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from tosslm.config import Config
from tosslm.methods.first_k import FIRST_K
from tosslm.methods.method import Method, paper_settings
from tosslm.methods.needs import Need
from tosslm.methods.oracle import ORACLE, ORACLE_TOKENS
from tosslm.methods.random_tokens import RANDOM
from tosslm.methods.rows import ROWS
from tosslm.methods.sft import SFT

WEIGHT = Need(
    "anchors the first tokens of each answer with finetune.anchor_weight; set it above 0",
    lambda config: config.finetune.anchor_weight > 0,
)
FIRST = 3
"""Tokens of each answer that ``sft-anchor-first`` anchors where the config has none."""


def anchored_settings(config: Config) -> Mapping[str, Any]:
    """Those of ``toss-anchor``: dropped tokens and first ones are held to the base, as the config weighs them."""
    return paper_settings(config) | {"finetune.dropped": "anchor"}


def first_settings(config: Config) -> Mapping[str, Any]:
    """Anchors on first tokens alone."""
    return {**anchored_settings(config), "finetune.anchor_first": config.finetune.anchor_first or FIRST}


def _anchored(method: Method, summary: str, differs: str = "nothing") -> Method:
    return replace(
        method,
        name=f"{method.name}-anchor",
        summary=summary,
        source=f"none; the choice of {method.name}, with the anchors of toss-anchor",
        badge="control",
        differs=differs,
        overrides=anchored_settings,
    )


ANCHORED = (
    _anchored(RANDOM, "holds as many tokens to the base as toss-anchor does, at random"),
    _anchored(FIRST_K, "holds the first tokens of every answer to the base, as many in all as TOSS drops"),
    _anchored(ROWS, "holds whole rows to the base, by their mean TOSS score"),
    _anchored(ORACLE, "holds exactly the rows to the base whose source is known to be harmful", ORACLE.differs),
    _anchored(
        ORACLE_TOKENS, "holds exactly the tokens to the base that the data mark as unsafe", ORACLE_TOKENS.differs
    ),
    replace(
        SFT,
        name="sft-anchor-first",
        summary="standard fine-tuning, the first tokens of each answer held to the base: finetune.anchor_first, or 3",
        source="none; what the anchored methods do without any choice of tokens",
        overrides=first_settings,
        needs=(WEIGHT,),
    ),
)
