"""What a method is: where it is from, what it builds on, and what it does otherwise than the pipeline.

A method is a value in one file, named in the config (``method:``), so that a run folder knows what made it. What it
sets apart stands in its hooks; all else is the pipeline's own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from tosslm.config import Config
from tosslm.errors import InputError
from tosslm.methods.material import Material
from tosslm.methods.needs import Need
from tosslm.selection.cut import select_tokens

if TYPE_CHECKING:
    from tosslm.training.hooks import After, TrainingHook
    from tosslm.training.trainer import TokenLoss
    from tosslm.workbench import Workbench

Badge = Literal["faithful", "variant", "simplified", "control", "own"]
"""How true a method is to its source: ``faithful``, to the letter; ``variant``, the same idea with differences that
are named; ``simplified``, a part of it. ``control`` is no method of anybody, ``own`` is this project's."""


PAPER_SHARE = 0.1
"""The paper's discard fraction: what methods drop that go by a share, where the config has ``auto``."""


def paper_settings(config: Config) -> dict[str, Any]:
    """The config of plain TOSS, whatever the user's own says of evidence, anchors and rounds.

    The share that is dropped is the config's where it has one, else the paper's.
    """
    share = config.selection.discard_fraction
    return {
        "selection.discard_fraction": PAPER_SHARE if share == "auto" else share,
        "selection.scope": "global",
        "selection.evidence": "token",
        "selection.alpha": 1.0,
        "selection.beta": 1.0,
        "selection.context": "keep",
        "refinement.rounds": 0,
        "finetune.dropped": "ignore",
    }


def no_settings(config: Config) -> dict[str, Any]:
    """The config as it is."""
    return {}


def _nothing(bench: Workbench) -> list[Any]:
    return []


@dataclass(frozen=True, slots=True)
class Method:
    """A way to fine-tune, safely or not.

    Attributes:
        name: what it is called in configs and on the command line.
        summary: what it does.
        source: where it is from.
        badge: how true to its source it is.
        differs: what differs here from its source.
        builds_on: the last stage that it needs the results of: ``data``, ``score`` (references and scores), or
            ``refine`` (with TOSS-Pro's rounds).
        overrides: what it sets in the config, by dotted key.
        choose: chooses tokens: a mask, bool ``[N]``, True where kept. A plain function is handed the whole set; one
            in ``EachRow``, ``Ranked`` or ``RankedRows`` a part of it at a time, so that memory does not grow. None
            leaves the choice to the pipeline's own selection.
        token_weights: what each token counts, float32 ``[N]``, not below 0; beside ``choose``, which still says what
            is trained at all. None counts all alike.
        hold: whether what a token's weight lacks to 1 goes to ``KL(base || model)`` there.
        signals: what else ``choose`` and ``token_weights`` look at, by name; each an array made before it is asked.
        extra_rows: further training rows, as ``training_row`` makes them; appended to the custom set's.
        token_loss: what takes the place of a token's cross-entropy.
        step: makes what is done around each training step.
        after: what becomes of the trained weights before they are saved.
        needs: what the config has to name for it, or to leave out.
        suits: raises InputError where sets do not have what it goes by; given the config and, by set, its counts.
        drops_share: whether ``choose`` drops a share of the tokens, that of ``paper_settings``.
        choice_covers: what the choice depends on beside data, scores and the config's section ``selection``.
        training_covers: what the training depends on beside its settings, data and mask.
        trains: False for the untouched base.
        version: raised when what it does changes.
    """

    name: str
    summary: str
    source: str
    badge: Badge
    differs: str = "nothing"
    builds_on: Literal["data", "score", "refine"] = "score"
    overrides: Callable[[Config], Mapping[str, Any]] = field(default=paper_settings)
    choose: Callable[[Material], np.ndarray] | None = None
    token_weights: Callable[[Material], np.ndarray] | None = None
    hold: bool = False
    signals: Mapping[str, Callable[[Workbench], np.ndarray]] = field(default_factory=dict)
    extra_rows: Callable[[Workbench], Iterable[dict[str, Any]]] | None = None
    token_loss: TokenLoss | None = None
    step: Callable[[Workbench], TrainingHook] | None = None
    after: After | None = None
    needs: tuple[Need, ...] = ()
    suits: Callable[[Config, Mapping[str, Any]], None] | None = None
    drops_share: bool = False
    choice_covers: Callable[[Workbench], list[Any]] = _nothing
    training_covers: Callable[[Workbench], list[Any]] = _nothing
    trains: bool = True
    version: int = 1

    def __post_init__(self) -> None:  # noqa: D105
        if self.choose is None and self.token_weights is not None:
            raise ValueError(f"{self.name}: token_weights go with choose, such as keep_all")
        if self.hold and self.token_weights is None:
            raise ValueError(f"{self.name}: hold goes with token_weights")

    @property
    def changes_training(self) -> bool:
        """Whether it trains other than by the choice of tokens."""
        return any((self.extra_rows, self.token_weights, self.token_loss, self.step, self.after))

    def check(self, config: Config) -> None:
        """Refuse at the door a config that lacks what the method needs.

        Raises:
            InputError: names the key.
        """
        for need in self.needs:
            if not need.given(config):
                raise InputError(f"{self.name}: {need.remedy}")

    def find(self, config: Config) -> None:
        """Refuse, before anything is done, a config that names what is not there, or cannot be read.

        Raises:
            InputError: names the key and, of a row, file and line.
        """
        for need in self.needs:
            need.find(config)


AS_CONFIGURED = Method(
    "as configured",
    summary="what the keys of the config say",
    source="Li et al. 2026, arXiv 2603.01185, and this project",
    badge="own",
    builds_on="refine",
    overrides=no_settings,
)
"""Of a config that names no method."""


@dataclass(frozen=True, slots=True)
class EachRow:
    """Around a choice, or weights, that for each row rest on that row alone: a part of the rows is handed at a time.

    A method with ``signals`` is handed the whole set all the same, and so is one that weighs tokens otherwise.

    Attributes:
        of: the choice, bool ``[N]``, or the weights, float32 ``[N]``, of some rows.
    """

    of: Callable[[Material], np.ndarray]

    def __call__(self, material: Material) -> np.ndarray:
        """What ``of`` says of rows in memory."""
        return self.of(material)


@dataclass(frozen=True, slots=True)
class Ranked:
    """Drops the tokens of the highest values, ``floor(d * N)`` of them, of equal ones the earlier first.

    The values of a row rest on that row alone: a part of the rows is handed at a time, as to ``EachRow``.

    Attributes:
        values: of the tokens of some rows, float32 ``[N]``.
    """

    values: Callable[[Material], np.ndarray]

    def __call__(self, material: Material) -> np.ndarray:
        """Which tokens of rows in memory are kept, bool ``[N]``."""
        return select_tokens(self.values(material), material.discard_fraction)


@dataclass(frozen=True, slots=True)
class RankedRows:
    """Drops whole rows from the highest value down, within the budget of tokens, of equal ones the earlier first.

    The value of a row rests on that row alone: a part of the rows is handed at a time, as to ``EachRow``.

    Attributes:
        values: of some rows, float64 ``[R]``.
    """

    values: Callable[[Material], np.ndarray]

    def __call__(self, material: Material) -> np.ndarray:
        """Which tokens of rows in memory are kept, bool ``[N]``."""
        return keep_best_rows(material, self.values(material))


@EachRow
def keep_all(material: Material) -> np.ndarray:
    """Every token, bool ``[N]``."""
    return np.ones(int(material.lengths.sum()), dtype=bool)


def keep_best_rows(material: Material, values: np.ndarray) -> np.ndarray:
    """A token mask, bool ``[N]``, that drops rows of the highest values, float ``[R]``, within the budget."""
    return keep_rows(material, drop_rows_in_order(material, np.argsort(-values, kind="stable")))


def keep_rows(material: Material, kept: np.ndarray) -> np.ndarray:
    """A token mask, bool ``[N]``, of a row mask, bool ``[R]``."""
    return np.repeat(kept, material.lengths)


def drop_rows_in_order(material: Material, order: np.ndarray) -> np.ndarray:
    """Drop whole rows, first to last, within the budget of tokens that token methods have.

    A row is dropped if it fits in what is left of ``floor(d * N)`` tokens; one that does not is passed over, so that
    the budget is used as far as whole rows allow.

    Args:
        material: the rows.
        order: int ``[R]``, rows from the first to drop to the last.

    Returns:
        bool ``[R]``, which rows are kept.
    """
    left = int(np.floor(material.discard_fraction * float(material.lengths.sum())))
    kept = np.ones(len(material.lengths), dtype=bool)
    for row in order:
        if material.lengths[row] <= left:
            kept[row] = False
            left -= int(material.lengths[row])
    return kept
