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


@dataclass(frozen=True, slots=True)
class Workbench:
    """A run's config and folder, the frozen base, the one tokenisation, and where progress goes.

    Attributes:
        config: the whole config, with what its method sets.
        folder: the run folder, for what is done and by whom.
        base: the aligned base; its weights load on first use.
        tokenizer: makes tokens of rows.
        reporter: where progress goes.
    """

    config: Config
    folder: RunFolder
    base: Base
    tokenizer: RowTokenizer
    reporter: Reporter

    @property
    def layout(self) -> Layout:
        """The paths of the run folder."""
        return self.folder.layout
