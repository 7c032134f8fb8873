"""
CSV and TSV in: the dialect sniffed, records kept as they stood, quotes and newlines inside fields too.

Python's csv module splits the records; this file decides the dialect, keeps each record's own text, and
gets back on its feet after a record that is broken: a quote that is never closed costs one row, not the rest
of the file.
"""

from __future__ import annotations

import csv
import re
from collections import deque
from collections.abc import Iterator, Sequence
from itertools import count
from typing import Any, NamedTuple

from llmcli.errors import UnreadableInput, UsageError
from llmcli.rows.job import InputFormat, RowOptions
from llmcli.rows.readers import Row, Text, bad_row, no_column, reading, split_ending, too_long

_DELIMITERS = {"csv": ",;\t|", "tsv": "\t"}


class Dialect(NamedTuple):
    """How cells are told apart; `quote` "" where nothing is quoted."""

    delimiter: str = ","
    quote: str = '"'

    def settings(self) -> dict[str, Any]:
        """As the csv module wants it."""
        if not self.quote:
            return {"delimiter": self.delimiter, "quoting": csv.QUOTE_NONE, "quotechar": None}
        return {"delimiter": self.delimiter, "quotechar": self.quote}

    def cell(self, value: str) -> str:
        r"""
        A value as a cell, quoted only where it must be.

        >>> Dialect().cell('so "good", really'), Dialect().cell("fine"), Dialect("\t", "").cell("a\tb")
        ('"so ""good"", really"', 'fine', 'a b')
        """
        special = self.delimiter in value or "\n" in value or "\r" in value
        if not self.quote:
            return " ".join(value.replace(self.delimiter, " ").splitlines()) if special else value
        if special or self.quote in value:
            return self.quote + value.replace(self.quote, self.quote * 2) + self.quote
        return value


def sniff(
    sample: str, whole: bool, delimiters: str = ",;\t|", quotes: tuple[str, ...] = ('"', "")
) -> Dialect:
    r"""
    The dialect under which most records have as many cells as the header, and the header most cells.

    `whole` says that the sample ends with a record; otherwise its last one is left out. Nothing but one
    column: the first delimiter.

    >>> sniff("id;text\n1;so good, really\n", True)
    Dialect(delimiter=';', quote='"')
    """
    best, best_score = Dialect(delimiters[0], quotes[0]), (0.0, 0)
    for delimiter in delimiters:
        # Files with tabs are often written without quoting, and then a stray quote swallows records.
        # The first of equals: quoting.
        fits = [
            _fit(sample, whole, Dialect(delimiter, quote))
            for quote in (quotes if delimiter in "\t|" else quotes[:1])
        ]
        fit = max(fits, key=lambda fit: (fit.share, fit.records))
        if (round(fit.share, 1), fit.width) > best_score:
            best, best_score = fit.dialect, (round(fit.share, 1), fit.width)
    return best


class _Fit(NamedTuple):
    """How well a dialect fits: the share of records as wide as the header, their number, that width."""

    dialect: Dialect
    share: float = 0.0
    records: int = 0
    width: int = 0


def _fit(sample: str, whole: bool, dialect: Dialect) -> _Fit:
    """Nothing fits where there is one column only."""
    try:
        records = [cells for cells in csv.reader(sample.splitlines(True), **dialect.settings()) if cells]
    except csv.Error:
        return _Fit(dialect)
    if not whole and len(records) > 1:
        records.pop()
    if not records or len(records[0]) < 2:
        return _Fit(dialect)
    width = len(records[0])
    share = sum(len(cells) == width for cells in records) / len(records)
    return _Fit(dialect, share, len(records), width)


class CsvReader:
    """
    Records of a CSV or TSV file. The first names the columns, unless `header` is off: then they are 1, 2, 3.

    Blank lines are no rows, except in a file of one column.
    """

    def __init__(self, text: Text, format: InputFormat, options: RowOptions, name: str) -> None:
        self.format = format
        self._text, self._name, self._limit = text, name, options.row_limit
        self.decoded_as, self.marked = text.decoded_as, text.marked
        self.dialect = _dialect(text.sample, format, options)
        # The csv module has one limit for the whole process; ours may only raise it.
        csv.field_size_limit(max(csv.field_size_limit(), options.row_limit + 2))
        self._records = self._split()
        self.header, self._first = self._read_header(options.header)
        self.columns: tuple[str, ...] | None = unlike(self.header.cells)
        self.field = _text_column(self.header.cells, options.field, name)
        self._at = self.header.cells.index(self.field)

    def _read_header(self, has_header: bool) -> tuple[Row, Row | None]:
        """The header as a row (made up where the file has none), and the first row where that was read."""
        first = next((row for row in self._records if row.cells or row.error), None)
        if first is None:
            raise UnreadableInput(f"{self._name} is empty: it has no header line")
        if first.error is not None:
            raise UnreadableInput(f"the header of {self._name} cannot be read: {first.error.message}")
        if has_header:
            return first, None
        return Row(0, cells=[str(n) for n in range(1, len(first.cells) + 1)], ending=first.ending), first

    def rows(self) -> Iterator[Row]:
        """Every record after the header."""
        width = len(self.header.cells)
        number = 0
        if self._first is not None:
            number, self._first.number = 1, 1
            yield self._checked(self._first, width)
        for row in self._records:
            if not row.cells and row.error is None:
                if width > 1:
                    continue
                row.cells = [""]
            number += 1
            row.number = number
            yield self._checked(row, width)

    def _checked(self, row: Row, width: int) -> Row:
        if row.error is not None:
            row.error = bad_row(self._name, row.number, row.error.message)
        elif fault := self._text.fault(row.raw):
            row.error = bad_row(self._name, row.number, fault)
        elif len(row.cells) != width:
            cells = f"{len(row.cells)} cell{'' if len(row.cells) == 1 else 's'}"
            row.error = bad_row(self._name, row.number, f"has {cells}, the header has {width}")
        else:
            row.text = row.cells[self._at]
        return row

    def record(self, row: Row) -> dict[str, Any]:
        """Columns and cells."""
        assert self.columns is not None
        return dict(zip(self.columns, self.fitted(row)))

    def fitted(self, row: Row) -> list[str]:
        """
        As many cells as the header has: of a ragged row the last holds all that are left, of one that cannot
        be split the first holds the line.
        """
        width = len(self.header.cells)
        cells = list(row.cells) or [row.raw]
        if len(cells) > width:
            cells[width - 1 :] = [self.dialect.delimiter.join(map(self.dialect.cell, cells[width - 1 :]))]
        return cells + [""] * (width - len(cells))

    def close(self) -> None:
        """Close the file."""
        self._text.close()

    def _split(self) -> Iterator[Row]:
        """Records with their own text; a broken one costs its first line, and says what is wrong."""
        lines = _Lines(self._text, self._limit)
        with reading(self._name):
            while True:
                try:
                    for cells in csv.reader(lines.following(), **self.dialect.settings()):
                        lines.check_quotes(self.dialect)
                        raw, ending = split_ending(lines.take())
                        yield Row(0, raw=raw, ending=ending or "\n", cells=cells)
                    return
                except (BrokenRecordError, csv.Error) as error:
                    line, ending = split_ending(lines.give_back())
                    raw = "" if isinstance(error, LineTooLongError) else line
                    yield Row(0, error=UnreadableInput(str(error)), raw=raw, ending=ending or "\n")


class BrokenRecordError(Exception):
    """A record that has no end."""


class LineTooLongError(BrokenRecordError):
    """A line that is beyond the limit by itself."""


class _Lines:
    """The lines that the csv module is fed, remembered until the record they make is taken."""

    def __init__(self, text: Text, limit: int) -> None:
        self._text, self._limit = text, limit
        self._back: deque[str] = deque()
        self._taken: list[str] = []

    def following(self) -> Iterator[str]:
        size = 0
        while True:
            if not self._taken:
                size = 0
            line = self._back.popleft() if self._back else self._text.readline(self._limit + 2)
            if not line:
                if self._taken:
                    raise BrokenRecordError("opens a quote that is never closed")
                return
            self._taken.append(line)
            size += len(line)
            if size > self._limit:
                self._refuse(line)
            yield line

    def _refuse(self, line: str) -> None:
        if len(self._taken) > 1:
            raise BrokenRecordError(f"opens a quote that is not closed within {self._limit:,} characters")
        if len(split_ending(line)[0]) > self._limit:
            if not line.endswith(("\n", "\r")):
                self._text.skip_line()
            raise LineTooLongError(too_long(self._limit))

    def check_quotes(self, dialect: Dialect) -> None:
        """
        Of several lines the last must close the quote as a quote is closed, before a delimiter.

        Otherwise two stray quotes would make one row of all that stands between them. On one line they
        do no harm. Blanks after a quote that closes are no fault.
        """
        if len(self._taken) == 1 or not dialect.quote:
            return
        padding = rf"(?<={re.escape(dialect.quote)})[ \t]+(?={re.escape(dialect.delimiter)}|\r?\n?$)"
        lines = (
            self._taken if dialect.delimiter in " \t" else [re.sub(padding, "", line) for line in self._taken]
        )
        try:
            list(csv.reader(lines, strict=True, **dialect.settings()))
        except csv.Error:
            raise BrokenRecordError("opens a quote that is never closed") from None

    def take(self) -> str:
        """The lines of the record that the csv module has just made."""
        taken = self._taken[0] if len(self._taken) == 1 else "".join(self._taken)
        self._taken.clear()
        return taken

    def give_back(self) -> str:
        """The first line of a broken record; its other lines are read again."""
        first, *others = self._taken
        self._taken.clear()
        self._back.extendleft(reversed(others))
        return first


def _dialect(sample: str, format: InputFormat, options: RowOptions) -> Dialect:
    delimiters = options.delimiter or _DELIMITERS[format]
    delimiters = "\t" if delimiters == "\\t" else delimiters
    if options.delimiter is not None and (len(delimiters) != 1 or delimiters in "\r\n"):
        raise UsageError(
            f"--delimiter {options.delimiter!r}: one character is needed", hint=r"or \t for a tab"
        )
    if options.quote is not None and len(options.quote) > 1:
        raise UsageError(f"--quote {options.quote!r}: one character is needed, or none")
    if options.delimiter is not None and options.quote == delimiters:
        raise UsageError(
            "--delimiter and --quote are the same character", hint="choose another for one of them"
        )
    quotes = ('"', "") if options.quote is None else (options.quote,)
    return sniff(sample, sample.endswith("\n"), delimiters, quotes)


def unlike(names: Sequence[str]) -> tuple[str, ...]:
    """
    Names of which no two are the same, so that no column hides another: a second `id` becomes `id_2`.

    >>> unlike(["id", "", "id", "id_2", ""])
    ('id', '', 'id_3', 'id_2', '_2')
    """
    taken = set(names)
    numbers: dict[str, Iterator[int]] = {}
    made = []
    for name in names:
        own = name
        if name in numbers:
            own = next(new for number in numbers[name] if (new := f"{name}_{number}") not in taken)
            taken.add(own)
        numbers.setdefault(name, count(2))
        made.append(own)
    return tuple(made)


def _text_column(columns: Sequence[str], asked: str | None, name: str) -> str:
    wanted = asked or ("text" if "text" in columns or len(columns) > 1 else columns[0])
    if wanted not in columns:
        raise no_column(name, asked, columns)
    if columns.count(wanted) > 1:
        raise UsageError(f"{name} has {columns.count(wanted)} columns {wanted!r}", hint="rename all but one")
    return wanted
