r"""
Rows out: text, CSV, TSV, JSON Lines (Parquet is in `parquet`), each as soon as it is known.

What stood in the input is put out as it stood: a CSV record keeps its quotes, a JSON line its spacing and
its escapes, and the results are added at its end. Only between formats are values written anew.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from llmcli.errors import LlmError, UsageError
from llmcli.output.json_text import printable, to_json
from llmcli.rows.columns import Columns, Outcome, ResultColumns, as_cell
from llmcli.rows.csv_reader import CsvReader, Dialect
from llmcli.rows.job import OutputFormat
from llmcli.rows.json_reader import JsonReader
from llmcli.rows.readers import Reader, Row

ENDINGS: dict[str, OutputFormat] = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".parquet": "parquet",
}


class Writer(Protocol):
    """Puts rows and their outcomes on a stream; `end` writes what is still held."""

    def write(self, row: Row, outcome: Outcome) -> None:
        """One row, in its place."""
        ...

    def end(self) -> None:
        """The last row was written."""
        ...


def open_writer(
    format: OutputFormat,
    stream: BinaryIO,
    reader: Reader,
    results: ResultColumns,
    columns: Columns,
    about: dict[str, Any],
) -> Writer:
    """
    A writer for rows of that reader; it writes a table's header at once.

    `columns` are the input's, for a table. `about` (`job.provenance`) goes into each object of `json`.
    """
    if format == "parquet":
        from llmcli.rows.parquet import parquet_writer

        return parquet_writer(stream, reader, results, columns)
    put = _Lines(stream, reader)
    if format == "text":
        return TextWriter(put, results)
    if format == "json":
        return RecordWriter(put, results, about)
    if format == "jsonl":
        return JsonWriter(put, reader, results)
    if isinstance(reader, CsvReader) and reader.format == format:
        return CsvWriter(put, reader, results)
    dialect = Dialect("," if format == "csv" else "\t")
    return TableWriter(put, reader, results, columns, dialect)


class _Lines:
    """A stream of bytes that takes text, undecodable bytes of UTF-8 input as they came."""

    def __init__(self, stream: BinaryIO, reader: Reader) -> None:
        self._write = stream.write
        self._escapes = "surrogateescape" if reader.decoded_as == "utf-8" else "strict"

    def __call__(self, text: str) -> None:
        try:
            data = text.encode("utf-8", self._escapes)
        except UnicodeEncodeError:
            data = printable(text).encode("utf-8")
        self._write(data)


class TextWriter:
    """One line a row: the answer; for labels `label<TAB>probability<TAB>text`."""

    def __init__(self, put: _Lines, results: ResultColumns) -> None:
        self._put, self._labels = put, bool(results.labels)

    def write(self, row: Row, outcome: Outcome) -> None:
        """A line; empty where there is no answer."""
        answer = "" if isinstance(outcome, LlmError) else one_line(outcome.text)
        if self._labels:
            p = None if isinstance(outcome, LlmError) else outcome.p
            share = "" if p is None else f"{p:.4f}"
            answer = f"{answer}\t{share}\t{one_line(row.raw if row.error else row.text)}"
        self._put(answer + "\n")

    def end(self) -> None:
        """Nothing is held."""


class RecordWriter:
    """One JSON object a row, that says where it comes from and how it came about (`--json`)."""

    def __init__(self, put: _Lines, results: ResultColumns, about: dict[str, Any]) -> None:
        self._put, self._results, self._about = put, results, about

    def write(self, row: Row, outcome: Outcome) -> None:
        """An object on a line."""
        about = self._about
        record: dict[str, Any] = {"source": about["source"], "row": row.number}
        record |= self._results.record(outcome)
        record |= {"model": about["model"]["name"], "template": about["template"]["name"]}
        self._put(to_json(record | {"provenance": about}) + "\n")

    def end(self) -> None:
        """Nothing is held."""


class JsonWriter:
    """JSON Lines: the input's object with the result's keys at its end."""

    def __init__(self, put: _Lines, reader: Reader, results: ResultColumns) -> None:
        self._put, self._reader, self._results = put, reader, results
        self._verbatim, self._error = isinstance(reader, JsonReader), results.error
        if self._verbatim and reader.marked:
            put("\ufeff")

    def write(self, row: Row, outcome: Outcome) -> None:
        """An object on a line."""
        items = self._results.items(outcome)
        if self._verbatim and row.record is not None and self._error not in row.record:
            added = to_json({key: value for key, value in items.items() if key not in row.record})
            body = row.raw[:-1].rstrip()
            comma = "" if body.endswith("{") else ", "
            self._put(f"{body}{comma}{added[1:]}{row.ending}" if added != "{}" else row.raw + row.ending)
            return
        record = {key: _undecodable_shown(value) for key, value in self._reader.record(row).items()}
        ours = {key: value for key, value in items.items() if key not in record or key == self._error}
        self._put(to_json(record | ours) + "\n")

    def end(self) -> None:
        """Nothing is held."""


class CsvWriter:
    """CSV after CSV: the record as it stood, then the result's cells in the same dialect."""

    def __init__(self, put: _Lines, reader: CsvReader, results: ResultColumns) -> None:
        self._put, self._reader, self._results, self._dialect = put, reader, results, reader.dialect
        self._width = len(reader.header.cells)
        if reader.marked:
            put("\ufeff")
        if reader.header.raw:
            self._add(reader.header.raw, results.flat, reader.header.ending)

    def write(self, row: Row, outcome: Outcome) -> None:
        """One record."""
        raw = row.raw
        if row.error is not None and len(row.cells) != self._width:  # ours must stand in their columns
            raw = self._dialect.delimiter.join(map(self._dialect.cell, self._reader.fitted(row)))
        self._add(raw, self._results.cells(outcome), row.ending)

    def _add(self, raw: str, cells: Sequence[str], ending: str) -> None:
        dialect = self._dialect
        self._put(dialect.delimiter.join([raw, *map(dialect.cell, cells)]) + ending)

    def end(self) -> None:
        """Nothing is held."""


class TableWriter:
    """CSV or TSV of rows that came in another format."""

    def __init__(
        self, put: _Lines, reader: Reader, results: ResultColumns, columns: Columns, dialect: Dialect
    ) -> None:
        self._put, self._reader, self._results, self._columns = put, reader, results, columns
        self._buffer = io.StringIO()
        self._csv = csv.writer(self._buffer, lineterminator="\n", **dialect.settings())
        self._record([*map(printable, columns), *results.flat])

    def write(self, row: Row, outcome: Outcome) -> None:
        """One record; keys that are not among the columns were that row's error."""
        record = self._reader.record(row)
        values = [as_cell(record.get(column)) for column in self._columns]
        if isinstance(self._reader, JsonReader):  # an escape of JSON may be half a character
            values = list(map(printable, values))
        self._record([*values, *self._results.cells(outcome)])

    def _record(self, cells: Sequence[str]) -> None:
        self._csv.writerow(cells)
        self._put(self._buffer.getvalue())
        self._buffer.seek(0)
        self._buffer.truncate()

    def end(self) -> None:
        """Nothing is held."""


def one_line(text: str) -> str:
    r"""
    A text on one line, for the text form.

    >>> one_line("so\tgood\nreally")
    'so good really'
    """
    return text if text.isprintable() else " ".join(text.replace("\t", " ").splitlines())


def _undecodable_shown(value: Any) -> Any:
    return printable(value) if isinstance(value, str) else value


def output_format(path: Path | None, asked: OutputFormat | None) -> OutputFormat:
    """
    The format that was asked for, or that the output's ending says (`.gz` aside); text otherwise.

    >>> output_format(Path("out.jsonl.gz"), None), output_format(Path("v1.csv/out"), None)
    ('jsonl', 'text')
    """
    if asked is not None or path is None:
        return asked or "text"
    unpacked = path.with_suffix("") if path.suffix.lower() == ".gz" else path
    return ENDINGS.get(unpacked.suffix.lower(), "text")


def check_formats(format: OutputFormat, to_terminal: bool) -> None:
    """Raise UsageError where Parquet would go to a terminal."""
    if format == "parquet" and to_terminal:
        raise UsageError("Parquet is not for a terminal", hint="-o FILE.parquet")
