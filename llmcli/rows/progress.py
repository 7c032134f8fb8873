"""
What the user sees while rows are run, and at the end; all of it on standard error.

On a terminal a live line (rich); elsewhere, with -v, a plain line every 30 seconds. A thread of its own
looks at the tally now and then: the rows are not slowed down by being watched.
"""

from __future__ import annotations

import io
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO, cast

from llmcli.output.table import cells, padded
from llmcli.rows.job import Outside
from llmcli.rows.tally import Summary, Tally

LIVE_SECONDS = 0.25
PLAIN_SECONDS = 30.0
FIRST_ANSWERS = 3  # before these, an ETA would be a guess
BAR = 30  # cells of the longest bar


@contextmanager
def progress(outside: Outside, tally: Tally, total: int | None) -> Iterator[None]:
    """Show a tally while the block runs; `total` is the number of answers to be asked, if known."""
    live = outside.stderr_is_terminal and os.environ.get("TERM") != "dumb"
    if outside.quiet or not (live or outside.verbose):
        yield
        return
    outside.status("")
    show = _Live(outside) if live else _Plain(outside)
    done = threading.Event()

    def watch() -> None:
        while not done.wait(show.seconds):
            show(status(tally, total))

    thread = threading.Thread(target=watch, name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        show.end()


def status(tally: Tally, total: int | None) -> str:
    """
    One line.

    >>> from time import monotonic
    >>> begun = monotonic() - 10
    >>> status(Tally(answered=50, failed=1, prompt_tokens=900, answer_tokens=100, started=begun), 150)
    '50 of 150 texts, 1 failed, 5.0 rows/s, 100 tokens/s, 20 s left'
    """
    seconds = tally.seconds
    parts = [f"{tally.answered:,} of {total:,} texts" if total else f"{tally.answered:,} texts"]
    if tally.failed:
        parts.append(f"{tally.failed:,} failed")
    if tally.answered:
        parts.append(f"{tally.answered / seconds:,.1f} rows/s")
        tokens = (tally.prompt_tokens + tally.answer_tokens) / seconds
        parts.append(f"{tokens:,.0f} tokens/s")
    if total and tally.answered >= FIRST_ANSWERS and total > tally.answered:
        parts.append(duration(seconds / tally.answered * (total - tally.answered)) + " left")
    return ", ".join(parts)


def duration(seconds: float) -> str:
    """
    For people.

    >>> duration(0.42), duration(42), duration(75), duration(7300)
    ('0.4 s', '42 s', '1 min 15 s', '2 h 1 min')
    """
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


class _Plain:
    seconds = PLAIN_SECONDS

    def __init__(self, outside: Outside) -> None:
        self._outside = outside

    def __call__(self, line: str) -> None:
        self._outside.complain(f"llm: {line}")

    def end(self) -> None:
        """Nothing stands on the terminal."""


class _Live:
    seconds = LIVE_SECONDS

    def __init__(self, outside: Outside) -> None:
        from rich.console import Console
        from rich.status import Status

        self._file = _Borrowed(outside.stderr)
        self._console = Console(file=cast(Any, self._file), force_terminal=True)
        self._status = Status("reading rows", console=self._console)
        self._status.start()

    def __call__(self, line: str) -> None:
        from rich.text import Text

        self._status.update(Text(line))

    def end(self) -> None:
        """Erase the line."""
        self._status.stop()
        self._file.flush()


class _Borrowed(io.StringIO):
    """Text for a stream of bytes that is not ours to close; a terminal that goes away stops nothing."""

    def __init__(self, stream: BinaryIO) -> None:
        super().__init__()
        self._stream = stream

    def write(self, text: str) -> int:
        try:
            self._stream.write(text.encode("utf-8", "replace"))
        except (OSError, ValueError):
            pass
        return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except (OSError, ValueError):
            pass


def counted(number: int, noun: str) -> str:
    """
    >>> counted(1, "row"), counted(3000, "row")
    ('1 row', '3,000 rows')
    """
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def summary_lines(summary: Summary, tally: Tally, bars: int) -> Iterator[str]:
    """What became of the rows, a sentence each; labels' counts as bars in so many columns, where not 0."""
    tokens = tally.prompt_tokens + tally.answer_tokens
    parts = [counted(summary.rows, "row")]
    if summary.distinct is not None:
        parts.append(counted(summary.distinct, "distinct text"))
    parts.append(f"{tally.answered:,} asked in {duration(tally.seconds)}")
    if tokens:
        parts.append(counted(tokens, "token"))
    yield ", ".join(parts)
    for number, what in (
        (summary.empty, "empty"),
        (summary.left_out, "cut to fit the context"),
    ):
        if number:
            yield f"{number:,} {what}"
    if summary.failed:
        yield f"{summary.failed:,} failed: {summary.failures()}"
    if not summary.labels:
        return
    if not bars:
        yield ", ".join(f"{number:,} {label}" for label, number in summary.labels.most_common())
        return
    width = max(map(cells, summary.labels))
    room = min(BAR, max(1, bars - width - 16))
    most = max(summary.labels.values())
    for label, number in summary.labels.most_common(20):
        bar = "█" * max(1, round(room * number / most))
        yield f"{padded(label, width)} {bar} {number:,}"
