"""
What can be known before the first row is asked: how many, how long, how many twice, which are too long.

The file is read once, for ten seconds at most; a pipe is not. Texts are counted by the model's own tokenizer,
but only those that could exceed the context: a token is a byte or more.
"""

from __future__ import annotations

import heapq
import itertools
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from hashlib import blake2b

from llmcli.rows.job import Job
from llmcli.rows.readers import Row
from llmcli.rows.workers import Workers
from llmcli.templates import Template, renderer

SECONDS = 10.0  # the longest that a preflight takes
_GROUP = 1000  # rows between two looks at the clock
_COUNTED_TOGETHER = 64
_LONGEST = 8  # of the longest texts in characters, the longest in tokens is found


@dataclass
class Preflight:
    """
    Counts of rows. `whole` says that all were read; `tokens` are of the longest prompt, `around` of a prompt
    without a text.
    """

    rows: int = 0
    empty: int = 0
    unreadable: int = 0
    repeated: int = 0
    whole: bool = False
    longest_row: int = 0
    tokens: int = 0
    too_long: int = 0
    around: int = 0
    context: int = 0
    known: int = 0
    fate: str = ""

    @property
    def distinct(self) -> int:
        """Texts that need an answer."""
        return self.rows - self.empty - self.unreadable - self.repeated

    def lines(self) -> Iterator[str]:
        """For the user, a sentence each."""
        if self.around:
            context = f" of {self.context:,}" if self.context else ""
            unit = "token" if self.around == 1 else "tokens"
            yield f"the prompt takes {self.around:,} {unit}{context} beside the text"
        if not self.rows and not self.whole:
            yield "how many rows come, and how long they are, is not known before the end of the pipe"
            return
        some = "" if self.whole else "the first "
        parts = [f"{some}{self.rows:,} row{'' if self.rows == 1 else 's'}"]
        for number, what in (
            (self.empty, "empty"),
            (self.unreadable, "unreadable"),
            (self.repeated, "repeated"),
        ):
            if number:
                parts.append(f"{number:,} {what}")
        if self.tokens:
            parts.append(f"the longest has {self.tokens:,} tokens (row {self.longest_row:,})")
        yield ", ".join(parts)
        if self.known:
            yield f"{self.known:,} answers are known already; only the others are asked"
        if self.too_long:
            verb = "exceeds" if self.too_long == 1 else "exceed"
            rows = "row" if self.too_long == 1 else "rows"
            context = f"the context of {self.context:,} tokens"
            yield f"{self.too_long:,} {rows} {verb} {context} and will {self.fate}"


def survey_pipe(job: Job, workers: Workers) -> Preflight:
    """What can be said of rows that nobody has seen yet."""
    return Preflight(context=workers.info.context, around=_TokenCounter(job, workers).around)


def survey(rows: Iterator[Row], job: Job, workers: Workers) -> Preflight:
    """Read the rows for as long as that may take, and count."""
    found = Preflight(context=workers.info.context, fate=fate(job.template, job.truncate))
    tokens = _TokenCounter(job, workers)
    deadline = time.monotonic() + SECONDS
    with closing(_Distinct()) as distinct:
        while group := list(itertools.islice(rows, _GROUP)):
            found.rows += len(group)
            found.unreadable += sum(row.error is not None for row in group)
            asked = [row for row in group if row.error is None]
            texts = [row for row in asked if row.text and not row.text.isspace()]
            found.empty += len(asked) - len(texts)
            found.repeated += distinct.add([row.text for row in texts])
            for row in texts:
                tokens.look_at(row)
            if time.monotonic() > deadline:
                break
        else:
            found.whole = True
    tokens.finish()
    found.around = tokens.around
    found.longest_row, found.tokens, found.too_long = tokens.longest_row, tokens.longest, tokens.too_long
    return found


class _Distinct:
    """Counts texts that were seen before, on disk: memory does not grow with their number."""

    def __init__(self) -> None:
        self._database = sqlite3.connect("", isolation_level=None)  # a temporary file of SQLite's own
        self._database.execute("PRAGMA journal_mode = OFF")
        self._database.execute("PRAGMA cache_size = -1000")
        self._database.execute("CREATE TABLE seen (hash INTEGER PRIMARY KEY)")
        self._database.execute("BEGIN")

    def add(self, texts: list[str]) -> int:
        """How many of these were seen before (or twice among them)."""
        before = self._database.total_changes
        hashes = ((_hash(text),) for text in texts)
        try:
            self._database.executemany("INSERT OR IGNORE INTO seen VALUES (?)", hashes)
        except sqlite3.Error:  # a full disk, say: a number that is only told is no reason to stop
            return 0
        return len(texts) - (self._database.total_changes - before)

    def close(self) -> None:
        """Forget."""
        self._database.close()


def _hash(text: str) -> int:
    data = text.encode("utf-8", "surrogatepass")
    return int.from_bytes(blake2b(data, digest_size=8).digest(), "little", signed=True)


class _TokenCounter:
    """Which prompts are longest, and which exceed the context."""

    def __init__(self, job: Job, workers: Workers) -> None:
        self._prompt = renderer(job.template, job.values)
        self._workers = workers
        self._context = workers.info.context
        self.around = max(0, workers.count_tokens([self._prompt("x")])[0] - 1)
        self._suspects: list[Row] = []
        self._longest: list[tuple[int, int, str]] = []
        self.too_long = self.longest = self.longest_row = 0

    def look_at(self, row: Row) -> None:
        """Remember a row that is long; count it soon if it may be too long."""
        size = len(row.text)
        if len(self._longest) < _LONGEST or size > self._longest[0][0]:
            push = heapq.heappushpop if len(self._longest) >= _LONGEST else heapq.heappush
            push(self._longest, (size, -row.number, row.text))
        if self._context and 4 * size + self.around > self._context:
            self._suspects.append(row)
            if len(self._suspects) >= _COUNTED_TOGETHER:
                self._count_suspects()

    def _count_suspects(self) -> None:
        counts = self._workers.count_tokens([self._prompt(row.text) for row in self._suspects])
        self.too_long += sum(count >= self._context for count in counts)
        self._suspects = []

    def finish(self) -> None:
        """Count what is left."""
        self._count_suspects()
        rows = [(-number, text) for _, number, text in self._longest]
        counts = self._workers.count_tokens([self._prompt(text) for _, text in rows])
        for (number, _), count in zip(rows, counts):
            if count > self.longest or (count == self.longest and number < self.longest_row):
                self.longest, self.longest_row = count, number


def fate(template: Template, truncate: str | None) -> str:
    """What happens to a text that exceeds the context."""
    if truncate is not None:
        return f"be cut to fit (--truncate {truncate})"
    if template.reduce or template.mode == "extract" or template.keep_layout:
        return "be read in parts"
    return "fail (--truncate cuts them to fit)"
