"""What a stage is handed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tosslm.config import Config
from tosslm.progress import Reporter
from tosslm.runs.folder import RunFolder
from tosslm.runs.layout import Layout

if TYPE_CHECKING:
    from tosslm.data.tokenize import RowTokenizer
    from tosslm.model.base import Base
    from tosslm.model.proxy import Proxy


@dataclass(frozen=True, slots=True)
class Workbench:
    """A run's config and folder, the frozen base, the one tokenisation, and where progress goes.

    Attributes:
        config: the whole config, with what its method sets.
        folder: the run folder, for what is done and by whom.
        base: the aligned base; its weights load on first use.
        tokenizer: makes tokens of rows.
        reporter: where progress goes.
        proxy: the model of the references, where the config names one that is not the base.
    """

    config: Config
    folder: RunFolder
    base: Base
    tokenizer: RowTokenizer
    reporter: Reporter
    proxy: Proxy | None = None

    @property
    def reference_base(self) -> Base:
        """What the references are trained on, and score with: the proxy, else the base."""
        return self.proxy.base if self.proxy else self.base

    @property
    def layout(self) -> Layout:
        """The paths of the run folder."""
        return self.folder.layout


def open_workbench(
    config: Config,
    reporter: Reporter,
    *,
    fresh: bool = False,
    base: Base | None = None,
    proxy: Proxy | None = None,
) -> Workbench:
    """What the stages of a run are handed.

    Args:
        config: with what its method sets.
        reporter: where progress goes.
        fresh: take no notice of what earlier runs left.
        base: the base, where it is open already; its weights are loaded once for several runs.
        proxy: the proxy, likewise.
    """
    from tosslm.model.base import open_base
    from tosslm.model.proxy import open_proxy

    base = base or open_base(config.model)
    tokenizer = base.row_tokenizer(config.data)
    folder = RunFolder(config.run_dir, fresh=fresh)
    return Workbench(config, folder, base, tokenizer, reporter, proxy or open_proxy(config, base))
