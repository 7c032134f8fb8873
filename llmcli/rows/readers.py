"""
Rows in, one at a time, whatever the size: what all readers share, and the one for plain lines.

A reader finds the text's column and gives every row with its original form, so that a writer can put
it out unchanged. What is wrong with one row (ragged, undecodable, too long) is that row's `error`, and the
next row follows. Knows nothing of templates or engines.
"""

from __future__ import annotations

import codecs
import gzip
import io
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

from msgspec import Struct

from llmcli.documents import check_encoding
from llmcli.errors import InputOutputError, LlmError, UnreadableInput, UsageError
from llmcli.rows.job import InputFormat, RowOptions
from llmcli.rows.source import BUFFER, Source

_MAGIC = {
    b"PAR1": ("a Parquet file", "name it .parquet"),
    b"\x1f\x8b": ("gzip", "name it .csv.gz or .jsonl.gz"),
    b"PK\x03\x04": ("a ZIP or Excel file", "save it as CSV"),
    b"SQLite format 3\x00": ("an SQLite database", "export a table as CSV"),
}


_MARKED = "llmcli.marked"
codecs.register_error(_MARKED, lambda error: ("\udcff", getattr(error, "end", 0)))  # what is no character


class Row(Struct, gc=False):
    """
    One row: its number (the first is 1), the text to ask about, and its original form.

    `raw` is the record as it stood in the file without its line ending, `ending` that; `cells` are a CSV
    record's, `record` a JSON object, `batch` and `index` a place in Parquet.
    """

    number: int
    text: str = ""
    error: LlmError | None = None
    raw: str = ""
    ending: str = "\n"
    cells: Sequence[str] = ()
    record: dict[str, Any] | None = None
    batch: Any = None
    index: int = 0


class Reader(Protocol):
    """
    Rows of one file. `columns` is None where each row has its own keys (JSON Lines).

    `decoded_as` is the encoding, `marked` says whether a byte order mark stood at the beginning.
    """

    format: InputFormat
    columns: tuple[str, ...] | None
    field: str
    decoded_as: str
    marked: bool

    def rows(self) -> Iterator[Row]:
        """Every row, once."""
        ...

    def record(self, row: Row) -> dict[str, Any]:
        """A row's columns and values."""
        ...

    def close(self) -> None:
        """Close the file."""
        ...


# ------------------------------------------------------------------- text


class Text:
    """
    A decoded stream that is read line by line, no line longer than a limit.

    Bytes that are not of the encoding come through as lone surrogates (`surrogateescape`), so that one
    bad byte costs one row and a writer can put it out as it was.
    """

    def __init__(self, stream: io.BufferedReader, head: bytes, encoding: str | None, newline: str) -> None:
        self.encoding, self.marked = _encoding(head, encoding)
        self.decoded_as = self.encoding or "utf-8"
        self.asked = encoding is not None
        escapes = "surrogateescape" if _single_bytes(self.decoded_as) else _MARKED
        self.sample = head.decode(self.decoded_as, "replace").removeprefix("\ufeff")
        self._file = io.TextIOWrapper(stream, self.decoded_as, escapes, newline)
        self._first = True

    def readline(self, limit: int) -> str:
        """The next line with its ending, or its first `limit` characters; "" at the end."""
        line = self._file.readline(limit)
        if self._first:
            self._first = False
            line = line.removeprefix("\ufeff")
        return line

    def skip_line(self) -> None:
        """Go to the end of a line of which `readline` gave only the beginning."""
        while (part := self._file.readline(BUFFER)) and not part.endswith(("\n", "\r")):
            pass

    def fault(self, raw: str) -> str:
        """What is wrong with the characters of a row; "" when nothing is."""
        if "\0" in raw:
            return f"is binary: a NUL at character {raw.index(chr(0)):,}"
        if raw.isascii():
            return ""
        try:
            raw.encode()
        except UnicodeEncodeError as error:
            if not _single_bytes(self.decoded_as):
                return f"is not {self.decoded_as}: at character {error.start:,}"
            byte = ord(raw[error.start]) & 0xFF
            remedy = "" if self.asked else "; name its encoding, for example --encoding cp1252"
            return f"is not {self.decoded_as}: byte 0x{byte:02x} at character {error.start:,}{remedy}"
        return ""

    def close(self) -> None:
        """Close the stream."""
        self._file.close()


def open_text(source: Source, encoding: str | None, newline: str) -> Text:
    """Open a source as text. Raises UnreadableInput where it begins like a binary file."""
    check_encoding(encoding)
    stream = source.open()
    head = source.head(stream)
    for magic, (kind, remedy) in _MAGIC.items():
        if head.startswith(magic):
            raise UnreadableInput(f"{source.name} is not text: it looks like {kind}", hint=remedy)
    if encoding is None and b"\0" in head[:4096] and _encoding(head, None)[0] == "utf-8":
        raise UnreadableInput(
            f"{source.name} is binary, not text: a NUL at byte {head.index(0):,}",
            hint="for UTF-16 without a byte order mark: --encoding utf-16-le",
        )
    return Text(stream, head, encoding, newline)


def _encoding(head: bytes, asked: str | None) -> tuple[str, bool]:
    """The encoding, and whether a byte order mark was seen."""
    marks = {
        codecs.BOM_UTF8: "utf-8",
        codecs.BOM_UTF32_LE: "utf-32",
        codecs.BOM_UTF32_BE: "utf-32",
        codecs.BOM_UTF16_LE: "utf-16",
        codecs.BOM_UTF16_BE: "utf-16",
    }
    found = next((name for mark, name in marks.items() if head.startswith(mark)), None)
    return codecs.lookup(asked or found or "utf-8").name, found is not None


def _single_bytes(encoding: str) -> bool:
    """Whether a bad byte of this encoding can come through as a surrogate."""
    return not codecs.lookup(encoding).name.startswith(("utf-16", "utf-32"))


@contextmanager
def reading(name: str) -> Iterator[None]:
    """Say in our words what goes wrong while a file is read."""
    try:
        yield
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UnreadableInput(f"{name} is not a whole gzip file: {error}") from error
    except UnicodeDecodeError as error:
        raise UnreadableInput(f"{name} is not {error.encoding}: {error.reason}") from error
    except UnicodeError as error:  # UTF-16 that lacks its mark, and encodings that cannot be read in pieces
        hint = "without a byte order mark: utf-16-le or utf-16-be" if "BOM" in str(error) else ""
        raise UnreadableInput(f"{name} cannot be decoded: {error}", hint=hint) from error
    except BrokenPipeError:
        raise
    except OSError as error:
        raise InputOutputError(f"cannot read {name}: {error.strerror or error}") from error


def bad_row(name: str, number: int, what: str) -> UnreadableInput:
    """The error of one row that cannot be read."""
    return UnreadableInput(f"{name}, row {number:,} {what}")


def too_long(limit: int) -> str:
    """The fault of a row beyond the limit."""
    return f"is longer than {limit:,} characters"


def split_ending(line: str) -> tuple[str, str]:
    r"""
    A line and its ending.

    >>> split_ending("a\r\n"), split_ending("a")
    (('a', '\r\n'), ('a', ''))
    """
    body = line.rstrip("\r\n") if line.endswith(("\n", "\r")) else line
    return body, line[len(body) :]


# ------------------------------------------------------------------ lines


class LineReader:
    """Each line is a row; its one column is called `text`."""

    format: InputFormat = "lines"
    columns: tuple[str, ...] | None = ("text",)

    def __init__(self, text: Text, options: RowOptions, name: str) -> None:
        self.field = options.field or "text"
        self.columns = (self.field,)
        self.decoded_as, self.marked = text.decoded_as, text.marked
        self._text, self._limit, self._name = text, options.row_limit, name

    def rows(self) -> Iterator[Row]:
        """Every line, empty ones too."""
        for number, raw, ending, fault in numbered_lines(self._text, self._limit, self._name):
            error = bad_row(self._name, number, fault) if fault else None
            yield Row(number, "" if error else raw, error, raw, ending)

    def record(self, row: Row) -> dict[str, Any]:
        """The line, under its column's name."""
        return {self.field: row.raw}

    def close(self) -> None:
        """Close the file."""
        self._text.close()


def numbered_lines(text: Text, limit: int, name: str) -> Iterator[tuple[int, str, str, str]]:
    """(number, line, ending, fault) of every line; a line that is too long comes as ""."""
    number = 0
    with reading(name):
        while line := text.readline(limit + 2):
            number += 1
            raw, ending = split_ending(line)
            if len(raw) > limit:
                if not line.endswith("\n"):
                    text.skip_line()
                yield number, "", "\n", too_long(limit)
            else:
                yield number, raw, ending or "\n", text.fault(raw)


def no_column(name: str, asked: str | None, columns: Sequence[str]) -> UsageError:
    """The text's column was not found: say which there are."""
    listed = ", ".join(column if column == column.strip() else repr(column) for column in columns[:20]) + (
        ", …" if len(columns) > 20 else ""
    )
    if asked is not None:
        return UsageError(f"{name} has no column {asked!r}", hint=f"its columns: {listed}")
    return UsageError(f"{name} has several columns and none is called text", hint=f"--field one of: {listed}")
