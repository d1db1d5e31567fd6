"""``python -m tosslm`` is ``toss``."""

from tosslm.cli import main

main()
