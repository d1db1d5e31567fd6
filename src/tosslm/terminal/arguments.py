"""Arguments of the command line as the user meant them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

_OPTION = re.compile(r"(--[\w-]+=)(~(?:/.*)?)", re.DOTALL)


def with_home(arguments: Sequence[str]) -> list[str]:
    """Arguments with ``~`` as the home folder behind an option's ``=``, where most shells leave it as it stands.

    Examples:
        >>> with_home(["--tokenizer=a~b", "~"])
        ['--tokenizer=a~b', '~']
    """
    found = ((argument, _OPTION.fullmatch(argument)) for argument in arguments)
    return [match[1] + str(Path(match[2]).expanduser()) if match else argument for argument, match in found]
