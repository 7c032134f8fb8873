"""
A job with an output file: ask what the journal does not know, then write the output from it.

Two passes over the input. In the first, each distinct text is asked once and its answer is journalled in
whatever order answers come; in the second, every row is written in its place. Whatever stops the
process between any two instructions, the same command goes on where it was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from llmcli.errors import LlmError, Stopped
from llmcli.rows.columns import Outcome
from llmcli.rows.job import Identity
from llmcli.rows.journal import Journal
from llmcli.rows.readers import Row
from llmcli.rows.source import Source
from llmcli.rows.tally import ErrorBudget, Tally
from llmcli.rows.workers import Workers
from llmcli.tasks.nouns import EMPTY, closing

REMEDY = "mend the cause, then add --retry-errors; or allow more with --max-errors N"


@dataclass(frozen=True)
class Beside:
    """The files that stand beside an output while a job runs; all but the sidecar go when it is done."""

    output: Path

    def _named(self, suffix: str) -> Path:
        return self.output.with_name(self.output.name + suffix)

    @property
    def journal(self) -> Path:
        """The answers so far."""
        return self._named(".journal")

    @property
    def lock(self) -> Path:
        """Held while a process works on this output."""
        return self._named(".journal.lock")

    @property
    def spool(self) -> Path:
        """A copy of what came through a pipe."""
        return self._named(".journal.input")

    @property
    def temporary(self) -> Path:
        """The output while it is written."""
        return self._named(".journal.output")

    @property
    def sidecar(self) -> Path:
        """How the output came about (`--sidecar`)."""
        return self._named(".provenance.json")


@dataclass
class Batch:
    """
    The state of one run: the journal, who answers, and what is counted.

    `read_ahead` rows are looked up in the journal together; 1 where rows come through a pipe, and
    a row must not wait for the next one.
    """

    journal: Journal
    identity: Identity
    workers: Workers
    tally: Tally
    budget: ErrorBudget
    read_ahead: int = 1

    def ask_missing(self, rows: Iterable[Row]) -> None:
        """
        The first pass. Returns when every row's answer is in the journal.

        Raises Stopped when the error budget is spent, and what reading, asking or the journal raises.
        """
        feed = _Feed(self, rows)
        with closing(self.workers.answer(feed.texts())) as answers:
            for position, outcome in answers:
                number, key = feed.asked.pop(position)
                self.tally.add(outcome)
                self.journal.put(key, outcome)
                self.budget.answered(number, outcome)
                self.budget.check(REMEDY)
        if feed.failure is not None:
            raise feed.failure
        self.budget.check(REMEDY)
        self.journal.flush()

    def write_all(self, rows: Iterable[Row], write: Callable[[Row, Outcome], None]) -> None:
        """The second pass: every row with its outcome, in input order."""
        key_of, find = self.identity.key_function(), self.journal.find
        with self.journal.snapshot():
            for row in rows:
                outcome: Outcome | None = row.error
                if outcome is None:
                    outcome = find(key_of(row.text)) if _has_text(row) else EMPTY
                if outcome is None:
                    raise Stopped(
                        f"row {row.number:,} is not what it was when it was asked: the input changed",
                        hint="run the same command again: only new rows are asked",
                    )
                write(row, outcome)


class _Feed:
    """
    The texts that must be asked. `texts` runs in the workers' thread; what goes wrong there is kept in
    `failure`. `asked` maps a text's position to its number and key until its answer comes.
    """

    def __init__(self, batch: Batch, rows: Iterable[Row]) -> None:
        self.asked: dict[int, tuple[int, bytes]] = {}
        self.failure: Exception | None = None
        self._batch, self._rows = batch, rows
        self._key_of = batch.identity.key_function()
        self._position = 0

    def texts(self) -> Iterator[str]:
        """Every text that is neither known nor on its way, until the error budget is spent."""
        try:
            yield from self._missing()
        except Exception as error:
            self.failure = error

    def _missing(self) -> Iterator[str]:
        batch, budget = self._batch, self._batch.budget
        rows = iter(self._rows)
        while group := list(islice(rows, batch.read_ahead)):
            keyed = [(row, self._key_of(row.text) if _has_text(row) else None) for row in group]
            claimed = iter(batch.journal.claim([key for _, key in keyed if key is not None]))
            for row, key in keyed:
                if row.error is not None:
                    budget.read_unreadable(row.error)
                    if budget.exceeded():
                        return
                elif key is None or not next(claimed):
                    budget.read_known()
                else:
                    self.asked[self._position] = (budget.read_asked(), key)
                    self._position += 1
                    yield row.text


def _has_text(row: Row) -> bool:
    return row.error is None and bool(row.text) and not row.text.isspace()


@contextmanager
def resumable(journal: Journal, tell: Callable[[str], None]) -> Iterator[None]:
    """
    Whatever ends the block early, commit what is known, and say how to go on; a journal without answers goes.

    This is also the way out for Ctrl-C and SIGTERM, which pass through as the exceptions they are.
    """
    try:
        yield
    except BaseException as error:
        journal.close()
        if journal.failure is not None and not isinstance(error, LlmError):
            raise journal.failure from error
        if journal.resumed or journal.brought:
            tell(f"llm: the answers so far are in {journal.path}; resume with the same command")
        else:
            journal.remove()
        raise
    finally:
        journal.close()


@contextmanager
def spooled(source: Source, beside: Beside) -> Iterator[None]:
    """What comes through a pipe, as a file; it is kept where there is something to resume."""
    try:
        source.spool_to(beside.spool)
        yield
    except BaseException:
        if not beside.journal.exists():
            beside.spool.unlink(missing_ok=True)
        raise
    beside.spool.unlink(missing_ok=True)
