"""The cache of API replies: a SQLite file that several processes may use at once."""

from __future__ import annotations

import logging
import sqlite3
from contextlib import closing
from pathlib import Path
from threading import Lock

from pilotrl.types import UserError

PATIENCE = 60.0
"""Seconds that a process waits for another one's write."""

log = logging.getLogger(__name__)


class Cache:
    """A SQLite table of texts by key. The first text written for a key stays, so that all processes read the same."""

    def __init__(self, path: str) -> None:
        """Opens the file, and creates it and its folder if needed. Raises UserError if that fails."""
        self.path, self.lock, self.failed = path, Lock(), False
        try:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            self.database = sqlite3.connect(path, timeout=PATIENCE, isolation_level=None, check_same_thread=False)
            self.database.execute(
                "CREATE TABLE IF NOT EXISTS replies (name TEXT PRIMARY KEY, text TEXT NOT NULL) WITHOUT ROWID"
            )
        except (OSError, sqlite3.Error) as error:
            raise UserError(f"cache={path}: cannot be opened ({error}); name another file, or null") from error

    @staticmethod
    def check(path: str) -> None:
        """Raises UserError for a file that is no cache; creates nothing."""
        if not Path(path).exists():
            return
        try:
            with closing(
                sqlite3.connect(f"file:{Path(path).absolute()}?mode=ro", uri=True, timeout=PATIENCE)
            ) as database:
                database.execute("SELECT name, text FROM replies LIMIT 1")
        except sqlite3.Error as error:
            raise UserError(f"cache={path}: holds no replies ({error}); name another file") from error

    def get(self, name: str) -> str | None:
        found = self._execute("SELECT text FROM replies WHERE name = ?", name)
        return found[0][0] if found else None

    def put(self, name: str, text: str) -> str:
        """Stores a text, unless the key has one; returns the one that is stored."""
        self._execute("INSERT OR IGNORE INTO replies VALUES (?, ?)", name, text)
        kept = self.get(name)
        return text if kept is None else kept

    def drop(self, name: str) -> None:
        self._execute("DELETE FROM replies WHERE name = ?", name)

    def _execute(self, statement: str, *values: str) -> list[tuple[str]]:
        """The rows of a statement; none, after one warning, if the file fails: it was deleted, or its disk is full."""
        with self.lock:  # the warning too: of many threads, one gives it
            try:
                return self.database.execute(statement, values).fetchall()
            except sqlite3.Error as error:
                if not self.failed:
                    log.warning("the cache %s failed (%s); replies are asked for anew where it does", self.path, error)
                self.failed = True
                return []
