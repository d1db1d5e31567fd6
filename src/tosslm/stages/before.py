"""What a run refuses before anything is done, and its plan in the same words."""

from __future__ import annotations

from collections.abc import Collection

from tosslm.config import Config
from tosslm.door import check_overrides, check_places
from tosslm.methods.method import Method
from tosslm.methods.needs import GUARD
from tosslm.tracking import check_trackers


def check_before(config: Config, method: Method, stages: Collection[str]) -> None:
    """Refuse what a stage would stumble over hours later.

    Args:
        config: the config, with what its method sets.
        method: the method.
        stages: that have something to do, by name.

    Raises:
        InputError: names the key.
    """
    check_trackers(config.report_to)
    check_places(config)
    method.find(config)
    if "references" in stages and config.references.harmful_tokens == "guard":
        GUARD.find(config)
    check_overrides(config, selects=method.trains)
    if "evaluate" in stages and config.evaluation.asks:
        from tosslm.evaluation.checks import check_evaluation

        check_evaluation(config.evaluation, config.data.max_row_bytes)
