"""
What a command sees of the world: streams, terminals, colour, the working folder.

Built when the program starts, passed to every command as `ctx.obj`, replaced in tests. Results go out
through `write` (exact UTF-8 bytes to a pipe or file; control characters made visible on a terminal),
everything else through `note`, `warn` and `status` to standard error. Nothing else writes to a stream.
"""

from __future__ import annotations

import errno
import io
import os
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from llmcli.output.sanitize import one_line, sanitize

if TYPE_CHECKING:
    from llmcli.output.progress import Status


class ClosedStream(io.RawIOBase):
    """Stands for a standard stream that was closed before we started (`llm … >&-`)."""

    def writable(self) -> bool:
        """Writing is tried, and then fails as it should."""
        return True

    def write(self, data: Any) -> int:
        """Fail as the operating system does."""
        raise OSError(errno.EBADF, "it is closed")


def _is_terminal(stream: Any) -> bool:
    try:
        return bool(stream.isatty())
    except (ValueError, OSError):
        return False


@dataclass
class Environment:
    """
    Streams and settings of one run of the program.

    The three streams are binary. `colour` says whether standard output may be coloured. `quiet`,
    `verbose` and `debug` are set by the options of the same name (see `door`). `activity` says what the
    engine is busy with, for the status line.
    """

    stdin: BinaryIO
    stdout: BinaryIO
    stderr: BinaryIO
    environ: Mapping[str, str] = field(default_factory=lambda: os.environ)
    cwd: Path = field(default_factory=Path)
    stdin_is_terminal: bool = False
    stdout_is_terminal: bool = False
    stderr_is_terminal: bool = False
    colour: bool = False
    quiet: bool = False
    verbose: bool = False
    debug: bool = False
    at_line_start: bool = True
    activity: Callable[[], str] = str
    status_line: Status | None = None

    @property
    def width(self) -> int:
        """Columns of the terminal, at least 20."""
        return max(20, shutil.get_terminal_size().columns)

    def stdin_is(self, path: Path) -> bool:
        """Whether standard input is this file (`< path`)."""
        try:
            return os.path.samestat(os.fstat(self.stdin.fileno()), path.stat())
        except (OSError, ValueError):  # closed, or no file of the operating system's
            return False

    def write(self, text: str, flush: bool = False) -> None:
        """Write a result to standard output."""
        if not text:
            return
        if self.stdout_is_terminal:
            self._hide_status()
            text = sanitize(text)
        self.stdout.write(to_bytes(text))
        self.at_line_start = text.endswith("\n")
        if flush or self.stdout_is_terminal:
            self.stdout.flush()

    def write_json(self, record: Mapping[str, Any]) -> None:
        """Write a result to standard output as a JSON object on a line."""
        from llmcli.output.json_text import to_json

        self.write(to_json(record) + "\n")

    def write_table(
        self,
        header: Sequence[str],
        rows: Sequence[Sequence[str]],
        right: Sequence[int] = (),
        cut: Sequence[int] = (),
    ) -> None:
        """Write rows to standard output as `output.table` lays them out."""
        from llmcli.output.table import table

        terminal, width = self.stdout_is_terminal, self.width
        for line in table(header, rows, terminal=terminal, width=width, right=right, cut=cut):
            self.write(line + "\n")

    def note(self, text: str) -> None:
        """Tell something beside the result, unless -q."""
        if not self.quiet:
            self.complain(f"llm: note: {text}")

    def warn(self, text: str) -> None:
        """Tell what went wrong without stopping the command; -q does not silence it."""
        self.complain(f"llm: warning: {text}")

    def complain(self, line: str) -> None:
        """One line on standard error, control characters escaped; its own failures are ignored."""
        if self.stdout_is_terminal and self.stderr_is_terminal and not self.at_line_start:
            self.write("\n")
        self._hide_status()
        try:
            self._write_error(one_line(line) + "\n")
        except (OSError, ValueError):
            pass

    def status(self, text: str) -> None:
        """What is being done now; shown on a terminal after a second of silence. "" for nothing."""
        if not self.stderr_is_terminal or self.quiet or self.environ.get("TERM") == "dumb":
            return
        if self.status_line is None:
            from llmcli.output.progress import Status

            self.status_line = Status(
                self._write_error, shown=True, width=lambda: self.width, activity=lambda: self.activity()
            )
        self.status_line.say(text)

    def close(self) -> None:
        """Take the status line away for good."""
        if self.status_line is not None:
            self.status_line.close()
            self.status_line = None

    def _hide_status(self) -> None:
        if self.status_line is not None:
            self.status_line.hide()

    def _write_error(self, text: str) -> None:
        self.stderr.write(to_bytes(text))
        self.stderr.flush()

    def flush(self) -> None:
        """Make sure that standard output has everything; OSError where it has not."""
        self.stdout.flush()


def to_bytes(text: str) -> bytes:
    """UTF-8; a file name's undecodable bytes come out as they went in, other lone surrogates as `?`."""
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return text.encode("utf-8", "replace")


def as_word(text: str) -> str:
    """
    A text as one word of a shell's command line, in an advice.

    >>> print(as_word("I love it"), as_word("$HOME"))
    "I love it" '$HOME'
    """
    import shlex

    return shlex.quote(text) if set(text) & set('"$`\\!\n') else f'"{text}"'


def from_system() -> Environment:
    """The Environment of a real process."""
    stdout, stderr = (
        cast(BinaryIO, getattr(stream, "buffer", None) or ClosedStream())
        for stream in (sys.stdout, sys.stderr)
    )
    # Unbuffered: a thread that waits in a buffered read holds its lock, and Python aborts at exit over it.
    stdin = cast(BinaryIO, getattr(getattr(sys.stdin, "buffer", None), "raw", None) or io.BytesIO())
    terminal = _is_terminal(stdout)
    return Environment(
        stdin=stdin,
        stdout=stdout,
        stderr=stderr,
        cwd=Path(),
        stdin_is_terminal=_is_terminal(stdin),
        stdout_is_terminal=terminal,
        stderr_is_terminal=_is_terminal(stderr),
        colour=terminal and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb",
    )
