"""
Parquet in and out, a batch of rows at a time (the extra `parquet`).

Parquet to Parquet keeps every column's type and the file's own metadata: the batches are put out as
they were read, with the result's columns at their end. Other formats become text columns, or
what JSON's values allow.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, BinaryIO

from llmcli.errors import UnreadableInput, UsageError
from llmcli.output.json_text import printable
from llmcli.rows.columns import Columns, Kind, Outcome, ResultColumns, kind_of
from llmcli.rows.csv_reader import unlike
from llmcli.rows.job import InputFormat, RowOptions
from llmcli.rows.readers import Reader, Row, bad_row, no_column, reading, too_long
from llmcli.rows.source import Source

BATCH = 2048  # rows in memory
GROUP_BYTES = 32 << 20  # of input batches that are gathered into one row group
_NO_TEXT = object()


def _arrow() -> Any:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise UsageError("Parquet needs pyarrow", hint='pip install "llmcli[parquet]"') from None
    return pyarrow


class ParquetReader:
    """Rows of a Parquet file; `field` is a column of text, or the path to one: `review.text`."""

    format: InputFormat = "parquet"
    decoded_as = "utf-8"
    marked = False

    def __init__(self, source: Source, options: RowOptions) -> None:
        self._arrow = _arrow()
        if not source.regular or source.suffixes[1]:
            raise UsageError(
                "Parquet is read from a plain file, not from a pipe or gzip", hint="save it as a file first"
            )
        self._name, self._limit = source.name, options.row_limit
        with self._reading():
            self._file = self._arrow.parquet.ParquetFile(source.path, pre_buffer=False)
            self.schema = self._file.schema_arrow
        self.columns: tuple[str, ...] | None = unlike(self.schema.names)
        self._converted: tuple[Any, list[list[Any]]] = (None, [])  # a batch, and its columns' values
        self.field = self._find(options.field)

    def rows(self) -> Iterator[Row]:
        """Every row."""
        number = 0
        with self._reading():
            for batch in self._file.iter_batches(BATCH, use_threads=False):
                for index, text in enumerate(self._texts(batch)):
                    number += 1
                    row = Row(number, batch=batch, index=index)
                    if text is _NO_TEXT:
                        row.error = bad_row(self._name, number, "is not UTF-8")
                    elif isinstance(text, str) and len(text) <= self._limit:
                        row.text = text
                    elif isinstance(text, str):
                        row.error = bad_row(self._name, number, too_long(self._limit))
                    elif text is not None:
                        row.text = str(text)
                    yield row

    def _texts(self, batch: Any) -> list[Any]:
        column = batch
        for key in self._path:
            column = self._child(column, key)
        return self._values(column, lambda data: _NO_TEXT)

    def _child(self, column: Any, key: str) -> Any:
        if isinstance(column, self._arrow.RecordBatch):
            return column.column(column.schema.get_field_index(key))
        # flatten() gives a child its parent's nulls; field() does not.
        return column.flatten()[column.type.get_field_index(key)]

    def record(self, row: Row) -> dict[str, Any]:
        """Columns and values, as JSON has them."""
        assert self.columns is not None
        if self._converted[0] is not row.batch:
            columns = [self._values(column, _decoded) for column in row.batch.columns]
            self._converted = (row.batch, columns)
        values = (column[row.index] for column in self._converted[1])
        return {name: _as_json(value) for name, value in zip(self.columns, values)}

    def _values(self, column: Any, undecodable: Callable[[bytes], Any]) -> list[Any]:
        """Python's values; what it has none for (nanoseconds, the year 10000, unknown time zones) as text."""
        try:
            values: list[Any] = column.to_pylist()
            return values
        except (self._arrow.ArrowException, ValueError, OverflowError):
            ones = (column.slice(index, 1) for index in range(len(column)))
            return [self._value(one, undecodable) for one in ones]

    def _value(self, one: Any, undecodable: Callable[[bytes], Any]) -> Any:
        try:
            return one.to_pylist()[0]
        except UnicodeDecodeError as error:
            return undecodable(error.object)
        except (self._arrow.ArrowException, ValueError, OverflowError):
            if str(one.type).startswith(("list", "large_list", "fixed_size_list")):
                return self._values(one.flatten(), undecodable)
            if _is_struct(one.type):
                return {
                    field.name: self._value(child, undecodable)
                    for field, child in zip(one.type, one.flatten(), strict=True)
                }
            for kind in (self._arrow.string(), self._arrow.int64()):
                with suppress(self._arrow.ArrowException, ValueError, OverflowError):
                    return str(one.cast(kind).to_pylist()[0])
            return " ".join(str(one).split())  # a map: as Arrow shows it

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """Parquet's own errors are about the file."""
        try:
            with reading(self._name):
                yield
        except self._arrow.ArrowException as error:
            reason = " ".join(str(error).split())
            raise UnreadableInput(f"{self._name} is not a readable Parquet file: {reason}") from error

    def _find(self, asked: str | None) -> str:
        names = list(self.schema.names)
        wanted = asked or ("text" if "text" in names or len(names) != 1 else names[0])
        self._path = [wanted] if wanted in names else wanted.split(".")
        kind = self.schema
        for key in self._path:
            index = (
                kind.get_field_index(key) if isinstance(kind, self._arrow.Schema) or _is_struct(kind) else -1
            )
            if index < 0:
                raise no_column(self._name, asked, names)
            kind = kind.field(index).type
        if _is_struct(kind) or str(kind).startswith(("list", "large_list", "map", "binary", "large_binary")):
            raise UsageError(f"the column {wanted!r} of {self._name} holds {kind}, not text")
        return wanted


def _decoded(data: bytes) -> str:
    return data.decode("utf-8", "replace")


def _as_json(value: Any) -> Any:
    """
    A value of Parquet as one of JSON: what is no number null, bytes as text or else base64, dates as text.

    >>> _as_json([1.5, float("nan"), b"abc", b"\\xff", {"a": None}])
    [1.5, None, 'abc', '/w==', {'a': None}]
    """
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return base64.b64encode(value).decode()
    if isinstance(value, list | tuple):
        return [_as_json(one) for one in value]
    if isinstance(value, dict):
        return {key: _as_json(one) for key, one in value.items()}
    return str(value)


def _is_struct(kind: Any) -> bool:
    return str(kind).startswith("struct")


def parquet_writer(
    stream: BinaryIO, reader: Reader, results: ResultColumns, columns: Columns
) -> BatchWriter | ValueWriter:
    """A Parquet file of those rows."""
    if isinstance(reader, ParquetReader):
        return BatchWriter(stream, reader.schema, results)
    return ValueWriter(stream, reader, results, columns)


def _result_fields(results: ResultColumns) -> list[Any]:
    arrow = _arrow()
    texts = (results.name, results.error)
    return [arrow.field(name, arrow.string() if name in texts else arrow.float64()) for name in results.flat]


def _result_arrays(results: ResultColumns, outcomes: Sequence[Outcome]) -> list[Any]:
    arrow = _arrow()
    values = zip(*map(results.table_values, outcomes))
    return [arrow.array(column, field.type) for column, field in zip(values, _result_fields(results))]


class BatchWriter:
    """Parquet after Parquet: each batch as it was read, with our columns."""

    def __init__(self, stream: BinaryIO, schema: Any, results: ResultColumns) -> None:
        self._arrow = _arrow()
        self._results = results
        self._schema = schema
        for field in _result_fields(results):
            self._schema = self._schema.append(field)
        self._writer = self._arrow.parquet.ParquetWriter(stream, self._schema)
        self._batch: Any = None
        self._first = 0
        self._outcomes: list[Outcome] = []
        self._group: list[Any] = []
        self._held = 0

    def write(self, row: Row, outcome: Outcome) -> None:
        """One row; it is put out when its batch is complete."""
        if row.batch is not self._batch:
            self._finish_batch()
            self._batch, self._first = row.batch, row.index
        self._outcomes.append(outcome)

    def _finish_batch(self) -> None:
        if not self._outcomes:
            return
        rows = self._batch.slice(self._first, len(self._outcomes))
        arrays = [*rows.columns, *_result_arrays(self._results, self._outcomes)]
        batch = self._arrow.RecordBatch.from_arrays(arrays, schema=self._schema)
        self._group.append(batch)
        self._held += batch.nbytes
        self._outcomes = []
        if self._held > GROUP_BYTES:
            self._finish_group()

    def _finish_group(self) -> None:
        if self._group:
            self._writer.write_table(self._arrow.Table.from_batches(self._group, self._schema))
            self._group, self._held = [], 0

    def end(self) -> None:
        """Write what is held, and the file's footer."""
        self._finish_batch()
        self._finish_group()
        self._writer.close()


class ValueWriter:
    """
    Parquet of rows that came as text: CSV's columns are strings.

    JSON's are what all values are, or of a pipe those of the first batch: numbers, truth values, strings;
    anything else, and a column whose values differ in kind, is a string with the value as JSON.
    """

    def __init__(self, stream: BinaryIO, reader: Reader, results: ResultColumns, columns: Columns) -> None:
        self._arrow = _arrow()
        self._stream, self._reader, self._results, self._columns = stream, reader, results, columns
        self._typed = reader.columns is None
        self._records: list[dict[str, Any]] = []
        self._outcomes: list[Outcome] = []
        self._writer: Any = None
        self._types: list[Any] = []

    def write(self, row: Row, outcome: Outcome) -> None:
        """One row."""
        self._records.append(self._reader.record(row))
        self._outcomes.append(outcome)
        if len(self._outcomes) >= BATCH:
            self._finish_batch()

    def _finish_batch(self) -> None:
        arrow = self._arrow
        columns = [[record.get(name) for record in self._records] for name in self._columns]
        if self._writer is None:
            known = [
                self._columns[name] or map(kind_of, values) for name, values in zip(self._columns, columns)
            ]
            self._types = [self._type_of(set(kinds)) for kinds in known]
            names = map(printable, self._columns)
            fields = [arrow.field(name, kind) for name, kind in zip(names, self._types)]
            self._schema = arrow.schema([*fields, *_result_fields(self._results)])
            self._writer = arrow.parquet.ParquetWriter(self._stream, self._schema)
        arrays = [self._array(values, kind) for values, kind in zip(columns, self._types)]
        arrays += _result_arrays(self._results, self._outcomes) or [
            arrow.array([], field.type) for field in _result_fields(self._results)
        ]
        self._writer.write_batch(arrow.RecordBatch.from_arrays(arrays, schema=self._schema))
        self._records, self._outcomes = [], []

    def _type_of(self, kinds: set[Kind | None]) -> Any:
        arrow = self._arrow
        kinds -= {None}
        if not self._typed or not kinds:
            return arrow.string()
        if kinds == {"bool"}:
            return arrow.bool_()
        if kinds <= {"int", "long"}:
            return arrow.int64()
        return arrow.float64() if kinds <= {"int", "float"} else arrow.string()

    def _array(self, values: list[Any], kind: Any) -> Any:
        arrow = self._arrow
        if kind == arrow.string():
            values = [_as_text(value) for value in values]
        try:
            return arrow.array(values, kind)
        except (arrow.ArrowException, TypeError, OverflowError) as error:
            raise UnreadableInput(
                f"a column's values change in kind, which Parquet cannot hold: {error}",
                hint="-o FILE.jsonl keeps every value as it is",
            ) from error

    def end(self) -> None:
        """Write what is held, and the file's footer."""
        if self._records or self._writer is None:
            self._finish_batch()
        self._writer.close()


def _as_text(value: Any) -> str | None:
    if value is None:
        return None
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return text.encode("utf-8", "replace").decode()
