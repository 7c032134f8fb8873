"""
What is known already: every finished answer, by its row's key, safe from kill -9 and power cuts.

An SQLite database beside the output (WAL, synchronous=FULL). A thread commits what has come in, as a
group, at most 200 ms later: an answer is either in the journal or will be asked again, and a key that was
committed is never asked again. It knows nothing of files of rows or of their order.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec

from llmcli.atomic import sync_folder
from llmcli.errors import (
    CannotCreate,
    InputOutputError,
    LlmError,
    PermissionRefused,
    UnreadableInput,
    UsageError,
    from_os_error,
)
from llmcli.output.json_text import to_json
from llmcli.rows.answers import PASSING, decode, encode
from llmcli.rows.job import Identity
from llmcli.tasks import Result

APPLICATION = 0x6C6C6D72  # "llmr", in the database's header
GROUP_SECONDS = 0.2  # the longest that an answer waits for its commit
GROUP_ANSWERS = 2_000  # the most that may wait; then whoever brings more waits too
CACHE_KIB = 4_000  # pages in memory, whatever the number of rows

SCHEMA = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE rows (id INTEGER PRIMARY KEY, key BLOB NOT NULL, kind INTEGER NOT NULL, answer BLOB NOT NULL);
CREATE UNIQUE INDEX rows_key ON rows (key);
CREATE INDEX rows_failed ON rows (kind) WHERE kind > 0;
"""


class Journal:
    """
    The answers of one job. Open until `close`; then `remove`, where the output is in place.

    `claim` is called by one thread, `put` by another; `find` when both are done. `resumed` counts the
    answers that were there at the beginning, `brought` those that came since.
    """

    def __init__(
        self,
        path: Path,
        identity: Identity,
        provenance: Mapping[str, Any],
        *,
        started: float,
        retry_errors: bool = False,
    ) -> None:
        """
        Open or create; the caller holds the job's lock. `retry_errors` forgets the errors in it.

        `started` is kept in a new journal: the date that the job's prompts carry (see `start_of`).

        Raises UsageError (2) when it is another job's, CannotCreate (73) when it is another
        program's file, UnreadableInput (65) when it is damaged, InputOutputError (74).
        """
        self.path = path
        self._started = started
        self._open(identity, provenance, retry_errors)
        self._claimed: set[bytes] = set()
        self._waiting: list[tuple[bytes, int, bytes]] = []
        self._changed = threading.Condition()
        self._closing = self._committing = self._hurry = False
        self._failure: LlmError | None = None
        self.brought = 0
        self._found = bytearray()  # a bit for each row of the table that `find` gave
        self._thread = threading.Thread(target=self._commit_groups, name="journal", daemon=True)
        self._thread.start()

    def _open(self, identity: Identity, provenance: Mapping[str, Any], retry_errors: bool) -> None:
        with sqlite_errors(self.path):
            self._create_file()
            self._writing = _connect(self.path)
            try:
                self._prepare(identity, provenance)
                forgotten = "kind > 0" if retry_errors else f"kind = {PASSING}"
                self._writing.execute(f"DELETE FROM rows WHERE {forgotten}")
                self._reading = _connect(self.path)
                self.resumed = self._count()
            except BaseException:
                self._writing.close()
                raise

    def _create_file(self) -> None:
        """An empty file for its owner alone; what SQLite puts beside it gets the same mode."""
        if self.path.exists():
            return
        for suffix in ("-wal", "-shm"):  # left by a removal that was cut short
            self.path.with_name(self.path.name + suffix).unlink(missing_ok=True)
        os.close(os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600))
        sync_folder(self.path.parent)

    def _prepare(self, identity: Identity, provenance: Mapping[str, Any]) -> None:
        database = self._writing
        (application,) = database.execute("PRAGMA application_id").fetchone()
        (tables,) = database.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if tables and application != APPLICATION:
            raise CannotCreate(
                f"{self.path} is not a journal of llm", hint="move it away, or choose another -o"
            )
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = FULL")
        if not tables:
            meta = {
                "job": msgspec.json.encode(identity.parts).decode(),
                "provenance": to_json(provenance),
                "started": repr(self._started),
            }
            database.execute("BEGIN IMMEDIATE")
            for statement in SCHEMA.strip().splitlines():
                database.execute(statement)
            database.executemany("INSERT INTO meta VALUES (?, ?)", meta.items())
            database.execute(f"PRAGMA application_id = {APPLICATION}")
            database.execute("COMMIT")
            return
        (job,) = database.execute("SELECT value FROM meta WHERE name = 'job'").fetchone()
        theirs = msgspec.json.decode(job)
        if not identity.is_that_of(theirs):
            raise UsageError(
                f"{self.path} belongs to another job: {identity.difference(theirs)}",
                hint="choose another -o, or remove the journal to begin anew",
            )

    def claim(self, keys: Sequence[bytes]) -> list[bool]:
        """
        For each key, whether the caller must work its answer out: it is neither known nor on its way.

        A key leaves the claimed ones only after its commit, and they are looked at first, once:
        so there is no moment at which a committed key looks new.
        """
        unclaimed = dict.fromkeys(key for key in keys if key not in self._claimed)
        known: set[bytes] = set()
        if unclaimed:
            places = ", ".join("?" * len(unclaimed))
            with sqlite_errors(self.path):
                found = self._reading.execute(f"SELECT key FROM rows WHERE key IN ({places})", [*unclaimed])
                known = {key for (key,) in found}
        mine: list[bool] = []
        for key in keys:
            new = key in unclaimed and key not in known
            if new:
                self._claimed.add(key)
                del unclaimed[key]  # the same text may come twice
            mine.append(new)
        return mine

    def put(self, key: bytes, answer: Result | LlmError) -> None:
        """Hand over an answer; it is committed within 200 ms. Raises what an earlier commit failed with."""
        kind, blob = encode(answer)
        with self._changed:
            self._changed.wait_for(lambda: len(self._waiting) < GROUP_ANSWERS or self._failure is not None)
            self._raise_failure()
            self.brought += 1
            self._waiting.append((key, kind, blob))
            if len(self._waiting) in (1, GROUP_ANSWERS):
                self._changed.notify_all()

    def find(self, key: bytes) -> Result | LlmError | None:
        """The answer of a key, None where it is not known."""
        with sqlite_errors(self.path):
            found = self._reading.execute(
                "SELECT id, kind, answer FROM rows WHERE key = ?", (key,)
            ).fetchone()
        if found is None:
            return None
        number, kind, answer = found
        place, bit = divmod(number, 8)
        if place >= len(self._found):
            self._found.extend(bytes(place + 1 - len(self._found)))
        self._found[place] |= 1 << bit
        return decode(kind, answer)

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """One look at the journal for many calls of `find`; cheaper than one look each."""
        with sqlite_errors(self.path):
            self._reading.execute("BEGIN")
        try:
            yield
        finally:
            self._reading.execute("COMMIT")

    def spare(self) -> int:
        """How many answers are in it that `find` was never asked for."""
        return self._count() - int.from_bytes(self._found, "little").bit_count()

    def _count(self) -> int:
        with sqlite_errors(self.path):
            (count,) = self._reading.execute("SELECT count(*) FROM rows").fetchone()
        return int(count)

    def flush(self) -> None:
        """Commit what waits, now. Raises InputOutputError where that failed."""
        with self._changed:
            self._hurry = True
            self._changed.notify_all()
            self._changed.wait_for(
                lambda: not (self._waiting or self._committing) or self._failure is not None
            )
            self._hurry = False
            self._raise_failure()

    def close(self) -> None:
        """Commit what waits and let go of the files; the journal stays. Does nothing the second time."""
        if not self._closing:
            with self._changed:
                self._closing = True
                self._changed.notify_all()
            self._thread.join()
            for connection in (self._reading, self._writing):
                with suppress(sqlite3.Error):
                    connection.close()

    def remove(self) -> None:
        """Remove the files: the output is in place. The database first: without it the others are nothing."""
        for suffix in ("", "-wal", "-shm"):
            self.path.with_name(self.path.name + suffix).unlink(missing_ok=True)

    @property
    def failure(self) -> LlmError | None:
        """What the last commit failed with."""
        return self._failure

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _is_due(self) -> bool:
        return self._closing or self._hurry or len(self._waiting) >= GROUP_ANSWERS

    def _commit_groups(self) -> None:
        """The thread: wait for answers, gather more for a moment, commit them together."""
        pause = 0.01
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closing)
                if not self._waiting:
                    return
                self._changed.wait_for(self._is_due, timeout=pause)
                group, self._waiting, self._committing = self._waiting, [], True
                self._changed.notify_all()
            begun = time.monotonic()
            try:
                with sqlite_errors(self.path):
                    self._commit(group)
            except LlmError as error:
                self._failure = error
            self._claimed.difference_update([key for key, _, _ in group])
            with self._changed:
                self._committing = False
                self._changed.notify_all()
            if self._failure is not None:
                return
            # A commit costs mostly its fsync: gather twenty times as long as that took.
            pause = min(GROUP_SECONDS, max(0.01, 20 * (time.monotonic() - begun)))

    def _commit(self, group: Iterable[tuple[bytes, int, bytes]]) -> None:
        self._writing.execute("BEGIN IMMEDIATE")
        try:
            self._writing.executemany(
                "INSERT OR REPLACE INTO rows (key, kind, answer) VALUES (?, ?, ?)", group
            )
            self._writing.execute("COMMIT")
        except BaseException:
            with suppress(sqlite3.Error):
                self._writing.execute("ROLLBACK")
            raise


def start_of(output: Path | None) -> float:
    """
    When the job that writes this output was begun, in seconds since 1970; now, where there is no journal.

    Known before an engine is opened: some chat templates write the date into every prompt.
    """
    journal = output.with_name(output.name + ".journal") if output is not None and output.name else None
    if journal is None or not journal.is_file():
        return time.time()
    try:
        with closing(sqlite3.connect(journal, timeout=1)) as database:
            (kept,) = database.execute("SELECT value FROM meta WHERE name = 'started'").fetchone()
            return float(kept)
    except (sqlite3.Error, TypeError, ValueError):
        return time.time()  # whatever is wrong with it, opening it will say


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=10, isolation_level=None, check_same_thread=False)
    connection.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
    connection.execute("PRAGMA synchronous = FULL")
    return connection


@contextmanager
def sqlite_errors(path: Path) -> Iterator[None]:
    """SQLite's errors, and the operating system's, as ours."""
    try:
        yield
    except sqlite3.Error as error:
        raise _as_ours(error, path) from error
    except OSError as error:
        raise from_os_error(error, f"write {path}") from error


def _as_ours(error: sqlite3.Error, path: Path) -> LlmError:
    text = str(error)
    if "not a database" in text or "malformed" in text:
        return UnreadableInput(f"{path} is damaged, or is not a journal", hint="remove it to begin anew")
    if "readonly" in text:
        return PermissionRefused(f"cannot write {path}: {text}")
    hint = "free some space, then run the same command: it resumes" if "full" in text else ""
    return InputOutputError(f"cannot write {path}: {text}", hint=hint)
