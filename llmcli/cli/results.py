"""
How answers are written: text, JSON, CSV; to standard output or to a file.

One answer belongs to one text. A form is a function from answers to the words that are written for them;
`FORMS` is the table of them. Rows and lines are written by `llmcli.rows`, not here.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from llmcli.cli.environment import Environment, to_bytes
from llmcli.errors import LlmError, UsageError

if TYPE_CHECKING:
    from llmcli.cli.inputs import Item, Kind
    from llmcli.cli.options import OutputOptions
    from llmcli.engines.base import Engine
    from llmcli.rows.columns import ResultColumns
    from llmcli.tasks import Result

ENDINGS = {".json": "json", ".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv", ".tsv": "tsv"}
OF_RECORDS = {
    *("source", "row", "method", "finish_reason", "tokens", "model", "template", "chunks"),
    *("spans", "thinking", "provenance"),
}  # what JSON says beside the result
NOT_WRITTEN = {".xlsx", ".xls", ".ods", ".docx", ".doc", ".odt", ".pdf", ".sqlite", ".db"} | {
    *(".zip", ".zst", ".bz2", ".xz", ".7z", ".lz4", ".br"),
}
BAR_WIDTH = 30  # columns of a full probability bar


Write = Callable[[str], None]


@dataclass(frozen=True)
class Answer:
    """What came of one text."""

    item: Item
    outcome: Result | LlmError

    @property
    def result(self) -> Result | None:
        """The result; None where there is an error."""
        return None if isinstance(self.outcome, LlmError) else self.outcome


@dataclass(frozen=True)
class Shape:
    """What all answers of a run have in common; `bars` is the columns that a label's may take, 0 for none."""

    kind: Kind
    columns: ResultColumns
    template: str
    engine: Engine
    headings: bool
    bars: int


Form = Callable[[Shape, Iterator[Answer]], Iterator[str]]


def as_text(shape: Shape, answers: Iterator[Answer]) -> Iterator[str]:
    """The answer itself; a label of several texts with its probability and its text."""
    for number, answer in enumerate(answers):
        if answer.result is None:
            continue
        if shape.columns.labels:
            yield _label_line(shape, answer)
        else:
            yield _heading(shape, answer, number) + _ended(answer.result.text)


def as_json(shape: Shape, answers: Iterator[Answer]) -> Iterator[str]:
    """One JSON object a line."""
    from llmcli.output.json_text import to_json

    for answer in answers:
        yield to_json(record(shape, answer)) + "\n"


def as_csv(shape: Shape, answers: Iterator[Answer], delimiter: str = ",") -> Iterator[str]:
    """A table with a header."""
    yield _csv_line(["source", *shape.columns.flat], delimiter)
    for answer in answers:
        yield _csv_line([answer.item.shown, *shape.columns.cells(answer.outcome)], delimiter)


def as_tsv(shape: Shape, answers: Iterator[Answer]) -> Iterator[str]:
    """The same with tabs."""
    return as_csv(shape, answers, "\t")


FORMS: dict[str, Form] = {
    "text": as_text,
    "json": as_json,
    "jsonl": as_json,
    "csv": as_csv,
    "tsv": as_tsv,
}


def form_name(options: OutputOptions, kind: Kind) -> str:
    """The name of the form that the options ask for. Raises UsageError where that is two, or none of ours."""
    if options.json and options.format not in (None, "json"):
        raise UsageError(f"--json and --format {options.format} contradict each other", hint="give one")
    if options.json:
        return "json"
    if options.format:
        return options.format
    ending = Path((options.output or "").lower().removesuffix(".gz")).suffix
    if ending in NOT_WRITTEN:
        raise UsageError(
            f"{options.output}: no {ending} is written", hint="name it .txt, .csv, .jsonl or .parquet"
        )
    if ending == ".json" and kind in ("rows", "lines"):
        raise UsageError(
            f"{options.output}: rows are written as JSON Lines, one object a line", hint="name it .jsonl"
        )
    if ending == ".parquet" and kind not in ("rows", "lines"):
        raise UsageError(
            "Parquet is written for rows only", hint="give a .csv, .jsonl or .parquet file, or --lines"
        )
    return ENDINGS.get(ending, "text")


def check_names(columns: ResultColumns, form: str, kind: Kind) -> None:
    """Raise UsageError where a result would take the place of something else that is written with it."""
    of_texts = kind not in ("rows", "lines")
    if form == "json" or (form == "jsonl" and of_texts):
        taken = OF_RECORDS
    elif form in ("csv", "tsv") and of_texts:
        taken = {"source"}
    else:  # rows are checked when their columns are known
        return
    if columns.name in taken | {columns.error}:
        said = f"the result cannot be called {columns.name!r}: {form} has that already"
        raise UsageError(said, hint="--as NAME")
    if columns.error in taken:
        said = f"the error cannot be called {columns.error!r}: {form} has that already"
        raise UsageError(said, hint="--error-as NAME")
    columns.check((), "the result")


def record(shape: Shape, answer: Answer) -> dict[str, Any]:
    """One answer as a JSON object."""
    made = {"source": answer.item.shown, **shape.columns.record(answer.outcome)}
    if answer.result is not None and answer.result.thinking:
        made["thinking"] = answer.result.thinking
    return {**made, "model": shape.engine.info.model, "template": shape.template}


@contextmanager
def destination(output: str | None, env: Environment) -> Iterator[Write]:
    """
    Where the words go: standard output, or a file that appears whole at the end.

    Raises CannotCreate, PermissionRefused, InputOutputError.
    """
    if output is None:
        yield lambda text: env.write(text, flush=True)
        return
    from llmcli.rows.output_file import is_replaceable, output_file, resolved, writing

    path = resolved(env.cwd / output)
    if is_replaceable(path):
        with output_file(path, path.with_name(f".{path.name}.{os.getpid()}.partial")) as file:
            yield lambda text: _put(file, text)
    else:  # /dev/null, a FIFO
        with writing(path), path.open("wb") as device:
            yield lambda text: _put(device, text)


def _put(file: BinaryIO, text: str) -> None:
    file.write(to_bytes(text))


def _csv_line(cells: list[str], delimiter: str) -> str:
    out = io.StringIO()
    csv.writer(out, delimiter=delimiter, lineterminator="\n").writerow(cells)
    return out.getvalue()


def _label_line(shape: Shape, answer: Answer) -> str:
    result = answer.result
    assert result is not None
    if shape.kind == "document":
        return f"{result.text}\n" + (_bars(result, shape.bars) if shape.bars else "")
    beside = answer.item.text if answer.item.source == "--text" else answer.item.shown
    return f"{result.text}\t{_four(result.p)}\t{_flat(beside)}\n"


def _bars(result: Result, columns: int) -> str:
    """One line a label, with a bar as long as its probability."""
    from llmcli.output.table import cells, padded

    known = {label: p for label, p in (result.probabilities or {}).items() if p is not None}
    width = max(map(cells, known), default=0)
    room = min(BAR_WIDTH, max(1, columns - width - 11))
    return "".join(
        f"  {padded(label, width)}  {p:4.0%}  {'█' * round(p * room) or '▏'}\n" for label, p in known.items()
    )


def _heading(shape: Shape, answer: Answer, number: int) -> str:
    if not shape.headings or shape.kind != "documents":
        return ""
    return ("\n" if number else "") + f"==> {_flat(answer.item.shown)} <==\n"


def _ended(text: str) -> str:
    return text if text.endswith("\n") else text + "\n"


def _flat(text: str) -> str:
    r"""
    A text on one line, in one cell.

    >>> _flat("a\tb\r\nc")
    'a b c'
    """
    return text.replace("\r\n", " ").translate(
        {9: " ", 10: " ", 11: " ", 12: " ", 13: " ", 0x85: " ", 0x2028: " ", 0x2029: " "}
    )


def _four(p: float | None) -> str:
    return "" if p is None else f"{p:.4f}"
