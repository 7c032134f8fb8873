"""
The history's database file: opened, private, of the right version, and shared.

Knows how SQLite is to be held (WAL, one writer at a time, errors in plain words)
and what the tables look like. What is written to them is `history`'s business.
"""

from __future__ import annotations

import os
import random
import sqlite3
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from llmcli.errors import (
    BadConfig,
    InputOutputError,
    LlmError,
    PermissionRefused,
    Stopped,
    UnreadableInput,
    from_os_error,
)
from llmcli.paths import make_private

BUSY_SECONDS = 10.0
"""How long a writer waits for another process's transaction."""

MIGRATIONS = (
    """
    CREATE TABLE conversation (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        name TEXT UNIQUE,
        title TEXT NOT NULL DEFAULT '',
        kind TEXT NOT NULL DEFAULT 'chat',
        model TEXT NOT NULL DEFAULT '',
        system TEXT NOT NULL DEFAULT '',
        created REAL NOT NULL,
        updated REAL NOT NULL
    );
    CREATE TABLE message (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        conversation INTEGER NOT NULL REFERENCES conversation(id) ON DELETE CASCADE,
        position INTEGER NOT NULL,
        role TEXT NOT NULL,
        content TEXT NOT NULL,
        thinking TEXT NOT NULL DEFAULT '',
        state TEXT NOT NULL DEFAULT 'done',
        place TEXT NOT NULL DEFAULT 'context',
        model TEXT NOT NULL DEFAULT '',
        seed INTEGER,
        prompt_tokens INTEGER NOT NULL DEFAULT 0,
        answer_tokens INTEGER NOT NULL DEFAULT 0,
        cached_tokens INTEGER NOT NULL DEFAULT 0,
        seconds REAL NOT NULL DEFAULT 0,
        created REAL NOT NULL
    );
    CREATE INDEX message_order ON message (conversation, position, id);
    CREATE TABLE line (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        text TEXT NOT NULL,
        created REAL NOT NULL
    );
    CREATE VIRTUAL TABLE message_text USING fts5(
        content, content='message', content_rowid='id', tokenize='unicode61 remove_diacritics 2'
    );
    CREATE TRIGGER message_added AFTER INSERT ON message BEGIN
        INSERT INTO message_text(rowid, content) VALUES (new.id, new.content);
    END;
    CREATE TRIGGER message_removed AFTER DELETE ON message BEGIN
        INSERT INTO message_text(message_text, rowid, content) VALUES ('delete', old.id, old.content);
    END;
    CREATE TRIGGER message_changed AFTER UPDATE OF content ON message BEGIN
        INSERT INTO message_text(message_text, rowid, content) VALUES ('delete', old.id, old.content);
        INSERT INTO message_text(rowid, content) VALUES (new.id, new.content);
    END;
    """,
)
"""One script for each schema version; `PRAGMA user_version` says how many a file has had."""


class Store:
    """
    A connection to the history file, or to memory when `path` is None.

    Errors raised: Stopped (locked for 10 s), InputOutputError (disk full, I/O),
    PermissionRefused, UnreadableInput (not a database), BadConfig (a newer schema).
    """

    def __init__(self, path: Path | None, patience: float = BUSY_SECONDS) -> None:
        self.path = path
        self.patience = patience
        with self.in_words():
            if path is not None:
                _create_private(path)
            self.db = sqlite3.connect(
                ":memory:" if path is None else path, timeout=patience, isolation_level=None
            )
            try:
                self._prepare()
            except BaseException:
                self.db.close()
                raise

    def _prepare(self) -> None:
        self.db.row_factory = sqlite3.Row
        _patiently(lambda: self.db.execute("PRAGMA journal_mode = WAL"), self.patience)
        self.db.execute("PRAGMA synchronous = FULL")
        self.db.execute("PRAGMA foreign_keys = ON")
        self.db.execute("PRAGMA secure_delete = ON")
        self._migrate()

    def _migrate(self) -> None:
        if self._version() == len(MIGRATIONS):
            return
        with self.writing():
            version = self._version()
            if version > len(MIGRATIONS):
                raise BadConfig(
                    f"{self.path} was written by a newer llm (schema {version}, this one knows "
                    f"{len(MIGRATIONS)})",
                    hint="update llm, or keep another history with LLMCLI_DATA_DIR",
                )
            for script in MIGRATIONS[version:]:
                for statement in _statements(script):
                    self.db.execute(statement)
            self.db.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")

    def _version(self) -> int:
        return int(self.db.execute("PRAGMA user_version").fetchone()[0])

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """
        One transaction, all or nothing.

        IMMEDIATE takes the write lock at once: a transaction that reads first and
        writes later fails at once when another process wrote in between, busy
        timeout or not (451 of 600 in our measurement).
        """
        with self.in_words():
            self._begin()
            try:
                yield self.db
            except BaseException:
                self.db.execute("ROLLBACK")
                raise
            self.db.execute("COMMIT")

    def _begin(self) -> None:
        """
        Take the write lock, asking often.

        SQLite's own waiting asks ten times a second at last: among eight busy writers one of them
        was shut out for 10 s now and then.
        """
        self.db.execute("PRAGMA busy_timeout = 0")
        try:
            _patiently(lambda: self.db.execute("BEGIN IMMEDIATE"), self.patience)
        finally:
            self.db.execute(f"PRAGMA busy_timeout = {int(self.patience * 1000)}")

    @contextmanager
    def in_words(self) -> Iterator[None]:
        """SQLite's errors as ours."""
        try:
            yield
        except sqlite3.Error as error:
            raise _in_words(error, self.path) from error

    def scrub(self) -> None:
        """Leave nothing of what was deleted in the file or its log."""
        with self.in_words():
            self.db.execute("INSERT INTO message_text(message_text) VALUES ('optimize')")
            self.db.execute("VACUUM")
            self.db.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def close(self) -> None:
        """Close the file; the last one out folds the log back into it."""
        with self.in_words():
            self.db.close()


def _create_private(path: Path) -> None:
    """
    Make the file 0600 whatever the umask says.

    SQLite gives `-wal` and `-shm` the mode of the main file, so it has to be right first.
    """
    try:
        make_private(path.parent)
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            if stat.S_IMODE(os.fstat(handle).st_mode) != 0o600:
                os.fchmod(handle, 0o600)
        finally:
            os.close(handle)
    except OSError as error:
        refused = from_os_error(error, f"open the history {path}")
        raise refused from error


def _patiently(attempt: Callable[[], object], patience: float) -> None:
    """
    Try again while the file is locked, for so many seconds.

    Turning WAL on, and the first process in after a crash, need the whole file for
    a moment, and SQLite does not always wait for that by itself.
    """
    end = time.monotonic() + patience
    while True:
        try:
            attempt()
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > end:
                raise
            time.sleep(random.uniform(0.001, 0.008))


def _statements(script: str) -> Iterator[str]:
    """A script's statements; `executescript` would commit the transaction we are in."""
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""


def _in_words(error: sqlite3.Error, path: Path | None) -> LlmError:
    text, where = str(error), f"the history {path}"
    if "locked" in text or "busy" in text:
        return Stopped(f"{where} has been locked by another process for too long", hint="try again")
    if "full" in text:
        return InputOutputError(f"cannot write {where}: the disk is full", hint="or chat with --private")
    if "readonly" in text or "unable to open" in text:
        return PermissionRefused(f"cannot write {where}: {text}", hint="or chat with --private")
    if "not a database" in text or "malformed" in text:
        return UnreadableInput(f"{where} is damaged: {text}", hint="move it away, and a new one is made")
    return InputOutputError(f"{where}: {text}")
