"""
JSON Lines in: one object a line, the text at a key or at the end of a path of keys.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from llmcli.output.json_text import printable
from llmcli.rows.job import InputFormat, RowOptions
from llmcli.rows.readers import Row, Text, bad_row, no_column, numbered_lines

_MISSING = object()
_SAMPLED = 20  # rows that are looked at to find the text's column


class JsonReader:
    """
    One JSON object a line. `field` is a key, or the path to a nested one: `review.text`.

    Blank lines are no rows. A lone surrogate in the text (`"\\ud83d"`) reaches the model as U+FFFD;
    the line itself is kept as it is.
    """

    format: InputFormat = "jsonl"
    columns: tuple[str, ...] | None = None

    def __init__(self, text: Text, options: RowOptions, name: str, regular: bool) -> None:
        self._regular = regular  # else reading ahead may wait for a writer
        self._text, self._limit, self._name = text, options.row_limit, name
        self.decoded_as, self.marked = text.decoded_as, text.marked
        self._lines = self._parsed()
        self._ahead: list[Row] = []
        self.field = self._find(options.field)
        self._path = self.field.split(".")

    def rows(self) -> Iterator[Row]:
        """Every object, and an error for each line that is none."""
        while self._ahead:
            yield self._with_text(self._ahead.pop(0))
        for row in self._lines:
            yield self._with_text(row)

    def record(self, row: Row) -> dict[str, Any]:
        """The object; of a line that is none, the line."""
        return row.record if row.record is not None else {"line": printable(row.raw)}

    def keys_ahead(self) -> tuple[str, ...]:
        """The keys of the rows that were read to find the text; before `rows`."""
        keys: dict[str, None] = {}
        for row in self._ahead:
            keys.update(dict.fromkeys(row.record or ()))
        return tuple(keys)

    def close(self) -> None:
        """Close the file."""
        self._text.close()

    def _find(self, asked: str | None) -> str:
        """
        The text's key: read ahead only as far as the first object, unless that lacks it.

        An object's only key is the text's where no other of the first ones has another: exporters
        leave out what is empty. A pipe is not waited for where that key's value is a text.
        """
        keys: dict[str, None] = {}
        wanted = asked or "text"
        for row in self._lines:
            self._ahead.append(row)
            if row.record is not None:
                if _dig(row.record, wanted, wanted.split(".")) is not _MISSING:
                    return wanted
                keys.update(dict.fromkeys(row.record))
                if asked is None and not self._regular and _is_one_text(row.record):
                    break
            if len(self._ahead) >= _SAMPLED:
                break
        if not keys:
            return wanted
        if asked is None and len(keys) == 1:
            return next(iter(keys))
        raise no_column(self._name, asked, list(keys))

    def _parsed(self) -> Iterator[Row]:
        number = 0
        for _, raw, ending, fault in numbered_lines(self._text, self._limit, self._name):
            raw = raw.strip(" \t\r")
            if not raw and not fault:
                continue
            number += 1
            row = Row(number, raw=raw, ending=ending)
            if not fault:
                row.record, fault = _object(raw)
            if fault:
                row.error = bad_row(self._name, number, fault)
            yield row

    def _with_text(self, row: Row) -> Row:
        if row.record is None:
            return row
        value = row.record.get(self.field, _MISSING)
        if value is _MISSING:
            value = _dig(row.record, self.field, self._path)
        if isinstance(value, str):
            row.text = printable(value)
        elif value is _MISSING:
            row.error = bad_row(self._name, row.number, f"has no {self.field!r}")
        elif isinstance(value, (dict, list)):
            kind = "an object" if isinstance(value, dict) else "a list"
            row.error = bad_row(self._name, row.number, f"has {kind} as {self.field!r}, not a text")
        elif value is not None:
            row.text = json.dumps(value)
        return row


def _object(raw: str) -> tuple[dict[str, Any] | None, str]:
    """A line's object, or what is wrong with it."""
    try:
        value = json.loads(raw)
    except json.JSONDecodeError as error:
        return None, f"is not JSON: {error.msg} at character {error.pos:,}"
    except RecursionError:
        return None, "is not JSON that can be read: nested too deeply"
    except ValueError as error:  # a number of more than 4,300 digits
        return None, f"is not JSON that can be read: {error}"
    if not isinstance(value, dict):
        return None, "is not a JSON object"
    return value, ""


def _is_one_text(record: dict[str, Any]) -> bool:
    return len(record) == 1 and isinstance(next(iter(record.values())), str)


def _dig(record: dict[str, Any], name: str, path: Sequence[str]) -> Any:
    """
    A key's value, or a nested one's.

    >>> _dig({"review": {"text": "hi"}}, "review.text", ["review", "text"])
    'hi'
    """
    if name in record:
        return record[name]
    value: Any = record
    for key in path:
        if not isinstance(value, dict) or key not in value:
            return _MISSING
        value = value[key]
    return value
