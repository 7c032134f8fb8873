"""
The memory of conversations: saved as they happen, found again by their words.

What was typed is saved before the model is asked, an answer while it is written,
so a crash loses at most what `repl` had not yet handed over. Nothing is removed by
undoing or answering anew: a message only loses its `place` in the context. What the
model sees of all this is `conversation`'s business.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal

from msgspec import Struct

from llmcli.chat.store import BUSY_SECONDS, Store
from llmcli.errors import MissingInput, UsageError
from llmcli.messages import Usage
from llmcli.output.json_text import printable
from llmcli.paths import data_dir

State = Literal["done", "streaming", "stopped", "length", "degenerate", "failed"]
Place = Literal["context", "undone", "dropped", "summed"]
"""In the context; taken back or answered anew; dropped to make room; replaced by a summary."""

NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
LAST = "last"
"""Stands for the conversation that was used last, so no conversation is called so."""


class Entry(Struct, frozen=True):
    """One message as it was saved. `role` is user, assistant or summary; `seconds` took the answer."""

    id: int
    role: str
    content: str
    thinking: str = ""
    state: State = "done"
    place: Place = "context"
    model: str = ""
    seed: int | None = None
    usage: Usage = Usage()
    seconds: float = 0.0
    created: float = 0.0


class Record(Struct, frozen=True):
    """One conversation as a list shows it; times are seconds since 1970."""

    id: int
    name: str
    title: str
    kind: str
    model: str
    system: str
    created: float
    updated: float
    messages: int = 0
    first: str = ""

    @property
    def heading(self) -> str:
        """What to call it: its title, else its first words."""
        return self.title or self.first


class Hit(Struct, frozen=True):
    """A message found by its words; `snippet` shows them between « and »."""

    conversation: int
    name: str
    title: str
    role: str
    created: float
    snippet: str


def history_path() -> Path:
    """Where the history is kept."""
    return data_dir() / "history.db"


class History:
    """All conversations of one user; `History(None)` lives in memory and leaves nothing behind."""

    def __init__(self, path: Path | None, patience: float = BUSY_SECONDS) -> None:
        self.store = Store(path, patience)

    @property
    def private(self) -> bool:
        """Nothing of this is on disk."""
        return self.store.path is None

    # ── conversations ────────────────────────────────────────────────────────────────────────────

    def start(self, model: str, system: str = "", name: str = "", kind: str = "chat") -> int:
        """A new conversation; gives its number. UsageError when the name is taken or malformed."""
        with self.store.writing() as db:
            if name:
                self.check_name(name)
            now = time.time()
            row = db.execute(
                "INSERT INTO conversation (name, kind, model, system, created, updated) VALUES (?,?,?,?,?,?)",
                (name or None, kind, model, system, now, now),
            )
            return int(row.lastrowid or 0)

    def check_name(self, name: str, owner: int = 0) -> None:
        """UsageError when a session name is malformed, or taken by another conversation than `owner`."""
        if not NAME.fullmatch(name) or name.isdigit() or name == LAST:
            raise UsageError(
                f"{name!r} is no session name",
                hint=f"letters, digits, . _ - (not digits alone, not {LAST}), at most 64",
            )
        taken = self.store.db.execute("SELECT id FROM conversation WHERE name = ?", (name,)).fetchone()
        if taken and taken[0] != owner:
            raise UsageError(f"the name {name!r} is taken by conversation {taken[0]}")

    def describe(self, conversation: int, *, system: str | None = None, model: str | None = None) -> None:
        """Note a changed system message or model."""
        with self.store.writing() as db:
            db.execute(
                """UPDATE conversation SET system = coalesce(?, system), model = coalesce(?, model)
                   WHERE id = ?""",
                (system, model, conversation),
            )

    def rename(self, conversation: int, *, name: str | None = None, title: str | None = None) -> None:
        """Give a conversation a session name, a title, or both."""
        with self.store.writing() as db:
            if name is not None:
                self.check_name(name, conversation)
            db.execute(
                "UPDATE conversation SET name = coalesce(?, name), title = coalesce(?, title) WHERE id = ?",
                (name, title, conversation),
            )

    def find(self, reference: str, kind: str = "") -> Record:
        """A conversation by number or name, or the `last` of this kind. MissingInput when there is none."""
        if reference == LAST:
            records = self.conversations(limit=1, kind=kind)
        else:
            column = "id" if reference.isdigit() else "name"
            records = self._records(f"WHERE c.{column} = ?", (printable(reference),))
        for record in records:
            return record
        if reference == LAST and kind and next(self.conversations(limit=1), None) is not None:
            raise MissingInput(
                "there is no chat yet", hint="llm chat starts one; llm history list has the rest"
            )
        if reference == LAST:
            raise MissingInput("there is no conversation yet", hint="llm chat starts one")
        raise MissingInput(f"no conversation {reference!r}", hint="llm history list shows them")

    def conversations(self, limit: int = -1, kind: str = "") -> Iterator[Record]:
        """Conversations, the latest used first; all of them when `limit` is negative."""
        where, values = ("WHERE c.kind = ?", (kind,)) if kind else ("", ())
        return self._records(f"{where} ORDER BY c.updated DESC, c.id DESC LIMIT ?", (*values, limit))

    def _records(self, clause: str, values: tuple[object, ...]) -> Iterator[Record]:
        with self.store.in_words():
            rows = self.store.db.execute(
                f"""SELECT c.*, (SELECT count(*) FROM message m WHERE m.conversation = c.id) AS messages,
                    (SELECT m.content FROM message m WHERE m.conversation = c.id AND m.role = 'user'
                     ORDER BY m.position, m.id LIMIT 1) AS first
                    FROM conversation c {clause}""",
                values,
            ).fetchall()
        for row in rows:
            yield Record(
                id=row["id"], name=row["name"] or "", title=row["title"], kind=row["kind"],
                model=row["model"], system=row["system"],
                created=row["created"], updated=row["updated"], messages=row["messages"],
                first=" ".join((row["first"] or "").split())[:200],
            )  # fmt: skip

    def delete(self, conversations: Iterable[int]) -> None:
        """Remove conversations for good, from the search index and the log as well."""
        with self.store.writing() as db:
            db.executemany("DELETE FROM conversation WHERE id = ?", [(number,) for number in conversations])
        self.store.scrub()

    def purge(self) -> None:
        """Remove every conversation and every typed line for good."""
        with self.store.writing() as db:
            db.execute("DELETE FROM conversation")
            db.execute("DELETE FROM line")
        self.store.scrub()

    # ── messages ─────────────────────────────────────────────────────────────────────────────────

    def add(
        self, conversation: int, role: str, content: str, state: State = "done", model: str = "",
        seed: int | None = None, position: int | None = None,
    ) -> int:  # fmt: skip
        """
        Save a message at the end (or at `position`); gives its number. On disk when it returns.

        Raises MissingInput where the conversation was deleted.
        """
        now = time.time()
        with self.store.writing() as db:
            found = db.execute("UPDATE conversation SET updated = ? WHERE id = ?", (now, conversation))
            if not found.rowcount:
                raise MissingInput(f"conversation {conversation} is no more", hint="llm history list")
            row = db.execute(
                """INSERT INTO message (conversation, position, role, content, state, model, seed, created)
                   VALUES (?, coalesce(?, (SELECT coalesce(max(position), 0) + 1 FROM message
                                           WHERE conversation = ?)), ?, ?, ?, ?, ?, ?)""",
                (conversation, position, conversation, role, content, state, model, seed, now),
            )
            return int(row.lastrowid or 0)

    def grow(self, message: int, content: str, thinking: str = "") -> None:
        """Save what there is of an answer so far."""
        with self.store.writing() as db:
            db.execute(
                "UPDATE message SET content = ?, thinking = ? WHERE id = ?", (content, thinking, message)
            )

    def finish(
        self, message: int, content: str, thinking: str = "", state: State = "done",
        usage: Usage = Usage(), seconds: float = 0.0,  # noqa: B008 (a frozen value)
    ) -> None:  # fmt: skip
        """Save an answer's last form."""
        now = time.time()
        with self.store.writing() as db:
            db.execute(
                """UPDATE message SET content = ?, thinking = ?, state = ?, prompt_tokens = ?,
                   answer_tokens = ?, cached_tokens = ?, seconds = ? WHERE id = ?""",
                (content, thinking, state, usage.prompt, usage.answer, usage.cached, seconds, message),
            )
            db.execute(
                """UPDATE conversation SET updated = ?
                   WHERE id = (SELECT conversation FROM message WHERE id = ?)""",
                (now, message),
            )

    def move(self, messages: Iterable[int], place: Place) -> None:
        """Take messages out of the context, or put them back; they stay in the history."""
        with self.store.writing() as db:
            db.executemany(
                "UPDATE message SET place = ? WHERE id = ?", [(place, number) for number in messages]
            )

    def put_summary(self, conversation: int, replaced: Iterable[int], text: str) -> int:
        """A summary in place of older messages, in one step."""
        numbers = list(replaced)
        with self.store.writing() as db:
            marks = ",".join("?" * len(numbers))
            position = db.execute(
                f"SELECT max(position) FROM message WHERE id IN ({marks})", numbers
            ).fetchone()[0]
            db.executemany("UPDATE message SET place = 'summed' WHERE id = ?", [(n,) for n in numbers])
            row = db.execute(
                "INSERT INTO message (conversation, position, role, content, created) VALUES (?,?,?,?,?)",
                (conversation, position, "summary", text, time.time()),
            )
            return int(row.lastrowid or 0)

    def entries(self, conversation: int) -> list[Entry]:
        """Every message of a conversation, in order, also those that left the context."""
        with self.store.in_words():
            rows = self.store.db.execute(
                "SELECT * FROM message WHERE conversation = ? ORDER BY position, id", (conversation,)
            ).fetchall()
        return [
            Entry(
                id=row["id"], role=row["role"], content=row["content"], thinking=row["thinking"],
                state=row["state"], place=row["place"], model=row["model"], seed=row["seed"],
                usage=Usage(row["prompt_tokens"], row["answer_tokens"], row["cached_tokens"]),
                seconds=row["seconds"], created=row["created"],
            )
            for row in rows
        ]  # fmt: skip

    # ── search ───────────────────────────────────────────────────────────────────────────────────

    def search(self, words: str, limit: int = 20) -> list[Hit]:
        """
        Messages that hold all the words (the last may be a beginning), the best first.

        A "quoted phrase" must occur as it stands. Chinese, Japanese and Korean run
        without spaces, which the index takes for one long word: they are looked for
        letter by letter, as is what stands nowhere as a word (it may touch such letters).
        """
        words = printable(words)
        parts = [phrase or word for phrase, word in re.findall(r'"([^"]+)"|([^\s"]+)', words)]
        if not parts:
            raise UsageError("nothing to search for", hint="example: llm history search train station")
        if any(_runs_without_spaces(part) for part in parts):
            return self._search_letters(parts, limit)
        match = " ".join('"' + part.replace('"', '""') + '"' for part in parts)
        if not words.rstrip().endswith('"'):
            match += "*"
        found = self._hits(
            """SELECT c.id, c.name, c.title, m.role, m.created,
                      snippet(message_text, 0, '«', '»', '…', 16) AS snippet
               FROM message_text JOIN message m ON m.id = message_text.rowid
               JOIN conversation c ON c.id = m.conversation
               WHERE message_text MATCH ? ORDER BY rank, m.id DESC LIMIT ?""",
            (match, limit),
        )
        return found or self._search_letters(parts, limit)

    def _search_letters(self, parts: list[str], limit: int) -> list[Hit]:
        clause = " AND ".join("instr(lower(m.content), lower(?)) > 0" for _ in parts)
        return self._hits(
            f"""SELECT c.id, c.name, c.title, m.role, m.created,
                       substr(m.content, max(1, instr(lower(m.content), lower(?)) - 30), 80) AS snippet
                FROM message m JOIN conversation c ON c.id = m.conversation
                WHERE {clause} ORDER BY m.id DESC LIMIT ?""",
            (parts[0], *parts, limit),
        )

    def _hits(self, query: str, values: tuple[object, ...]) -> list[Hit]:
        with self.store.in_words():
            rows = self.store.db.execute(query, values).fetchall()
        return [
            Hit(row["id"], row["name"] or "", row["title"], row["role"], row["created"],
                " ".join(row["snippet"].split()))
            for row in rows
        ]  # fmt: skip

    # ── typed lines ──────────────────────────────────────────────────────────────────────────────

    def add_line(self, text: str) -> None:
        """Remember a typed line for the arrow keys."""
        with self.store.writing() as db:
            db.execute("INSERT INTO line (text, created) VALUES (?, ?)", (text, time.time()))

    def lines(self, limit: int = 5000) -> list[str]:
        """Typed lines, the latest first."""
        with self.store.in_words():
            rows = self.store.db.execute(
                "SELECT text FROM line ORDER BY id DESC LIMIT ?", (limit,)
            ).fetchall()
        return [row[0] for row in rows]

    def close(self) -> None:
        """Close the file."""
        self.store.close()


def record_exchange(history: History, command: str, model: str, asked: str, answer: str) -> int:
    """Keep a one-shot command's question and answer (`--log`); gives the conversation's number."""
    number = history.start(model, kind=command)
    history.add(number, "user", asked)
    history.add(number, "assistant", answer, model=model)
    return number


def _runs_without_spaces(word: str) -> bool:
    """Chinese, Japanese, Korean, Thai, Lao, Khmer or Burmese letters in the word."""
    return any(
        "\u0e00" <= letter <= "\u0eff" or "\u1000" <= letter <= "\u109f" or "\u1780" <= letter <= "\u17ff"
        or "\u2e80" <= letter <= "\u9fff" or "\uac00" <= letter <= "\ud7af" or letter >= "\U00020000"
        for letter in word
    )  # fmt: skip
