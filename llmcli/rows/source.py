"""
Where rows come from, as bytes: a file, a gzip file, or a pipe that can be read only once.

A regular file is opened afresh for each pass, and can tell whether it changed in between. What comes
through a pipe is copied into a spool file while it is read first; later passes read that copy.
"""

from __future__ import annotations

import gzip
import io
import os
import select
import stat
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

from llmcli.documents import open_bytes, shown
from llmcli.errors import Stopped, from_os_error

WAIT_MS = 100  # between two looks at whether an idle stream was stopped
BUFFER = 1 << 16  # bytes; also what the sniffing of a CSV dialect sees


class Stamp(NamedTuple):
    """What changes when a file does."""

    size: int
    modified_ns: int
    inode: int


class Source:
    """
    One input. `path` None (or a file that is not a regular one) is a stream, read once.

    Messages call it by its `name`, which is short; what programs read by its `full_name`.

    Raises MissingInput, PermissionRefused, UnreadableInput (a directory).
    """

    def __init__(self, path: Path | None, stdin: BinaryIO) -> None:
        self.path = path
        self.full_name = "standard input" if path is None else str(path)
        self.name = "standard input" if path is None else shown(path)
        self._stdin = stdin
        self._head: bytes | None = None
        self._spool: Path | None = None
        self._spooled = False
        self._stream: _Stream | None = None
        self.stamp = None if path is None else self._look(path)

    @property
    def regular(self) -> bool:
        """Whether this is a file that can be read as often as we like."""
        return self.stamp is not None

    @property
    def suffixes(self) -> tuple[str, bool]:
        """The ending that says the format, and whether `.gz` comes after it."""
        if self.path is None:
            return "", False
        zipped = self.path.suffix.lower() == ".gz"
        return (self.path.with_suffix("") if zipped else self.path).suffix.lower(), zipped

    def spool_to(self, path: Path) -> None:
        """Keep a copy of a stream there (created for its owner alone) while it is read."""
        if not self.regular:
            self._spool = path

    def open(self) -> io.BufferedReader:
        """The unpacked bytes, from the beginning."""
        if not self.regular and not self._spooled:
            stream = self._open_stream()
        else:
            path = cast(Path, self._spool if self._spooled else self.path)
            stream = open_bytes(path)
        if self.suffixes[1]:
            stream = cast(BinaryIO, gzip.GzipFile(fileobj=stream, mode="rb"))
        return io.BufferedReader(cast(io.RawIOBase, stream), BUFFER)

    def _open_stream(self) -> BinaryIO:
        stream = self._stdin if self.path is None else open_bytes(self.path)
        self._spooled = self._spool is not None
        self._stream = _Stream(stream, self._spool)
        return cast(BinaryIO, self._stream)

    def stop(self) -> None:
        """End a stream that another thread waits for, so that it can be closed."""
        if self._stream is not None:
            self._stream.stop()

    def head(self, stream: io.BufferedReader) -> bytes:
        """The first bytes of what `open` gave, the same in every pass, so that all conclude the same."""
        if self._head is None:
            self._head = stream.peek(BUFFER)
        return self._head

    def check_unchanged(self) -> None:
        """Raise Stopped where the file is not what it was when the run began."""
        if self.path is not None and self.stamp is not None and self._look(self.path) != self.stamp:
            raise Stopped(
                f"{self.name} changed during the run; the answers so far are kept",
                hint="run the same command again: only new rows are asked",
            )

    def _look(self, path: Path) -> Stamp | None:
        try:
            status = path.stat()
        except OSError:
            open_bytes(path).close()  # raises what fits
            raise
        if stat.S_ISDIR(status.st_mode):
            open_bytes(path)
        if not stat.S_ISREG(status.st_mode):
            return None
        return Stamp(status.st_size, status.st_mtime_ns, status.st_ino)


class _Stream(io.RawIOBase):
    """
    A stream that gives what has come without waiting for more, and copies it into a file.

    It never waits inside a read: a thread that does holds the stream's lock, and whoever wants to close
    the stream, or to end the process, would wait with it.
    """

    def __init__(self, stream: BinaryIO, spool: Path | None) -> None:
        self._source = stream  # its descriptor is closed when nobody holds it
        self._read = getattr(stream, "read1", stream.read)
        self._stopped = self._begun = False
        self._poll: select.poll | None = None
        try:
            descriptor = stream.fileno()
        except (OSError, ValueError):
            pass  # no file of the operating system's, as in tests
        else:
            self._read = partial(os.read, descriptor)
            self._poll = select.poll()
            self._poll.register(descriptor, select.POLLIN)
        self._copy: BinaryIO | None = None
        if spool is not None:
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW  # never through somebody's link
            try:
                self._copy = open(os.open(spool, flags, 0o600), "wb")  # noqa: SIM115, PTH123  for its mode
            except OSError as error:
                raise from_os_error(error, "keep a copy of standard input") from error

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._come(len(buffer))
        if not self._begun:  # the columns are told from the first line: a writer may send it in pieces
            self._begun = True
            while data and len(data) < len(buffer) and b"\n" not in data:
                if not (more := self._come(len(buffer) - len(data))):
                    break
                data += more
        buffer[: len(data)] = data
        return len(data)

    def _come(self, most: int) -> bytes:
        """What has come, at most so many bytes; b"" at the end."""
        while self._poll is not None and not self._poll.poll(WAIT_MS):
            if self._stopped:
                return b""
        data: bytes = b"" if self._stopped else self._read(most)
        self._keep(data)
        return data

    def stop(self) -> None:
        """Be at the end from now on."""
        self._stopped = True

    def _keep(self, data: bytes) -> None:
        if self._copy is None:
            return
        try:
            self._copy.write(data)
            self._copy.flush()  # the second pass may begin before the end was read (--limit)
        except OSError as error:
            raise from_os_error(error, "keep a copy of standard input") from error

    def close(self) -> None:
        if self._copy is not None:
            self._copy.close()
        super().close()
