"""Which reader a source of rows wants: by the format that was asked for, or by its ending."""

from __future__ import annotations

from llmcli.errors import UsageError
from llmcli.rows.csv_reader import CsvReader
from llmcli.rows.job import InputFormat, RowOptions
from llmcli.rows.json_reader import JsonReader
from llmcli.rows.readers import LineReader, Reader, open_text, reading
from llmcli.rows.source import Source

ENDINGS: dict[str, InputFormat] = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
}


def input_format(source: Source, options: RowOptions) -> InputFormat:
    """The format that was asked for, or that the ending says."""
    if options.input_format is not None:
        return options.input_format
    known = ENDINGS.get(source.suffixes[0])
    if known is None:
        raise UsageError(
            f"{source.name} has no ending that says its format", hint="--lines, or name it .csv, .tsv, .jsonl"
        )
    return known


def open_reader(source: Source, options: RowOptions) -> Reader:
    """
    Open a source and find the text's column.

    Raises UsageError (no such column; says which there are), UnreadableInput, InputOutputError.
    """
    format = input_format(source, options)
    _check_table_options(format, options, source.name)
    if format == "parquet":
        from llmcli.rows.parquet import ParquetReader

        return ParquetReader(source, options)
    with reading(source.name):
        text = open_text(source, options.encoding, newline="" if format in ("csv", "tsv") else "\n")
        if format == "lines":
            return LineReader(text, options, source.name)
        if format == "jsonl":
            return JsonReader(text, options, source.name, source.regular)
        return CsvReader(text, format, options, source.name)


def _check_table_options(format: InputFormat, options: RowOptions, name: str) -> None:
    """Raise UsageError for an option of CSV where there is none: it would do nothing."""
    if format in ("csv", "tsv"):
        return
    for given, option in (
        (options.delimiter is not None, "--delimiter"),
        (options.quote is not None, "--quote"),
        (not options.header, "--no-header"),
    ):
        if given:
            raise UsageError(f"{option} is for CSV, and {name} is read as {format}", hint="leave it out")
