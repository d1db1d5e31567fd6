"""How often each content of a set was met, in memory that does not grow with the set."""

from __future__ import annotations

import sqlite3

_CACHE_KIB = 8192


class Copies:
    """Counts by key, in a private database without a name.

    SQLite keeps it in a cache of a few megabytes, moves what does not fit to a temporary file, and removes that
    itself, also where the process is killed. A dictionary takes some 100 bytes a content.
    """

    def __init__(self) -> None:
        self._database = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        for setting in (f"cache_size = -{_CACHE_KIB}", "journal_mode = OFF", "synchronous = OFF"):
            self._database.execute(f"PRAGMA {setting}")
        self._database.execute("CREATE TABLE met (content INTEGER PRIMARY KEY, times INTEGER NOT NULL)")
        self._database.execute("BEGIN")  # one transaction: each statement would end with one of its own

    def add(self, key: int) -> int:
        """Count a content.

        Args:
            key: in ``[0, 2**64)``.

        Returns:
            How often it was met, this time among them.
        """
        signed = (key - (1 << 63),)  # as SQLite's integers are
        found = self._database.execute("SELECT times FROM met WHERE content = ?", signed).fetchone()
        if found is None:
            self._database.execute("INSERT INTO met VALUES (?, 1)", signed)
            return 1
        self._database.execute("UPDATE met SET times = times + 1 WHERE content = ?", signed)
        return int(found[0]) + 1

    def close(self) -> None:
        """Forget all of it."""
        self._database.close()
