"""Replies that were given, in a file that several processes may use at once."""

from __future__ import annotations

import logging
import sqlite3
from contextlib import closing
from pathlib import Path
from threading import Lock

from pilotrl.types import UserError

PATIENCE = 60.0
"""Seconds that a process waits for another one's writing."""

log = logging.getLogger(__name__)


class Cache:
    """Text by name in a table of SQLite. What is written first stays, so all who ask read the same."""

    def __init__(self, path: str) -> None:
        """Opens the file, made with its folder where there is none. Raises UserError where that cannot be."""
        self.path, self.lock, self.failed = path, Lock(), False
        try:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            self.held = sqlite3.connect(path, timeout=PATIENCE, isolation_level=None, check_same_thread=False)
            self.held.execute(
                "CREATE TABLE IF NOT EXISTS replies (name TEXT PRIMARY KEY, text TEXT NOT NULL) WITHOUT ROWID"
            )
        except (OSError, sqlite3.Error) as error:
            raise UserError(f"cache={path}: cannot be opened ({error}); name another file, or null") from error

    @staticmethod
    def check(path: str) -> None:
        """Raises UserError for a file that is no cache; makes none."""
        if not Path(path).exists():
            return
        try:
            with closing(sqlite3.connect(f"file:{Path(path).absolute()}?mode=ro", uri=True, timeout=PATIENCE)) as held:
                held.execute("SELECT name, text FROM replies LIMIT 1")
        except sqlite3.Error as error:
            raise UserError(f"cache={path}: holds no replies ({error}); name another file") from error

    def get(self, name: str) -> str | None:
        found = self._done("SELECT text FROM replies WHERE name = ?", name)
        return found[0][0] if found else None

    def put(self, name: str, text: str) -> str:
        """Keeps a text, unless there is one of that name; returns the one that is kept."""
        self._done("INSERT OR IGNORE INTO replies VALUES (?, ?)", name, text)
        kept = self.get(name)
        return text if kept is None else kept

    def drop(self, name: str) -> None:
        self._done("DELETE FROM replies WHERE name = ?", name)

    def _done(self, line: str, *given: str) -> list[tuple[str]]:
        """What a line of SQL finds. Nothing, after one warning, where the file fails: it was deleted, or its disk is full."""
        try:
            with self.lock:
                return self.held.execute(line, given).fetchall()
        except sqlite3.Error as error:
            if not self.failed:
                log.warning("the cache %s failed (%s); replies are asked for anew where it does", self.path, error)
            self.failed = True
            return []
