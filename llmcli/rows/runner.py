"""
Run a template over rows: read, ask what is not known yet, write.

With an output file the answers go through the journal (crash-safe, resumable) and the output is
written from it in a second pass (`batch`). Without one they are written in input order as they come.
"""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, cast

import msgspec

from llmcli.engines.base import Engine
from llmcli.errors import LlmError, RowsFailed, UsageError, cannot_write
from llmcli.messages import Prompt
from llmcli.output.json_text import to_json
from llmcli.rows.batch import Batch, Beside, resumable, spooled
from llmcli.rows.columns import Columns, Kind, Outcome, ResultColumns, kind_of, result_columns
from llmcli.rows.formats import open_reader
from llmcli.rows.job import Job, OutputFormat, Outside, RowOptions, identify, provenance
from llmcli.rows.journal import Journal
from llmcli.rows.json_reader import JsonReader
from llmcli.rows.lock import Lock
from llmcli.rows.output_file import is_replaceable, output_file, resolved, write_sidecar, writing, zipped
from llmcli.rows.preflight import Preflight, survey, survey_pipe
from llmcli.rows.progress import counted, progress, summary_lines
from llmcli.rows.readers import Reader, Row, bad_row
from llmcli.rows.source import Source
from llmcli.rows.tally import CAUSES, ErrorBudget, Summary, Tally
from llmcli.rows.window import deliver
from llmcli.rows.workers import LocalWorkers, Workers
from llmcli.rows.writers import Writer, check_formats, one_line, open_writer, output_format
from llmcli.tasks.nouns import closing as closing_answers
from llmcli.templates import render

READ_AHEAD = 64  # rows of a file that are looked up in the journal together
MOST_COLUMNS = 2000  # of a table made of JSON objects
RESUME = "free some space, then run the same command: the answers are kept"
ERRORS_TOLD = 5  # failed rows that are named when there is no error column to find them by


def run_rows(job: Job, options: RowOptions, engine: Engine | None, outside: Outside) -> None:
    """
    Run a job over a file of rows, or over standard input.

    `engine` is open already (its child process starts before input is read), and stays open;
    None with `options.on == "ray"`, where each actor opens its own from `job.model` and `job.engine`.
    Results go to `options.output`, or to `outside.stdout`; everything else to standard error.
    Other exceptions (KeyboardInterrupt, the command line's Terminated, BrokenPipeError) pass through
    after the journal is closed and the user is told how to resume.

    Raises RowsFailed (3) at the end when rows failed; UsageError (2) for columns that lack or clash, or a
    journal of another job; MissingInput (66), UnreadableInput (65), CannotCreate (73); InputOutputError (74)
    for a full disk; Stopped (75) when the job is locked, has too many errors, or its input changed.
    """
    source = Source(options.source, outside.stdin)
    output = _checked_output(options, source)
    with closing(_workers(job, options, engine)) as workers:
        format = output_format(output, options.output_format)
        run = _Run(job, options, outside, source, workers, format, result_columns(job, options))
        if options.dry_run:
            run.show_plan()
        elif output is not None and is_replaceable(output):
            with writing(output):
                run.to_file(output)
        else:
            run.to_stream(output)
    if run.summary.failed:
        raise run.failure()


def _workers(job: Job, options: RowOptions, engine: Engine | None) -> Workers:
    if options.on == "ray":
        from llmcli.rows.ray_runner import RayWorkers

        return RayWorkers(job, copies=options.copies, cpus=options.cpus, gpus=options.gpus)
    assert engine is not None
    return LocalWorkers(job, engine)


def _checked_output(options: RowOptions, source: Source) -> Path | None:
    """The output's place, links followed. Raises UsageError where it is the input."""
    if options.output is None:
        for given, option in (
            (options.retry_errors, "--retry-errors"),
            (options.keep_journal, "--keep-journal"),
            (options.sidecar, "--sidecar"),
        ):
            if given:
                raise UsageError(f"{option} needs an output file", hint="-o FILE")
        return None
    output = resolved(options.output)
    if source.path is not None and output.exists() and output.samefile(source.path):
        raise UsageError(f"{options.output} is the input itself", hint="choose another -o")
    return output


@dataclass
class _Run:
    """One run, with all that it was given."""

    job: Job
    options: RowOptions
    outside: Outside
    source: Source
    workers: Workers
    format: OutputFormat
    results: ResultColumns
    tally: Tally = field(default_factory=Tally)
    summary: Summary = field(default_factory=Summary)
    _seen: dict[str, set[Kind]] = field(default_factory=dict)  # keys of the JSON objects, in order
    _allowed: frozenset[str] | None = None  # the only keys that a table on a pipe can hold

    @property
    def _copies(self) -> bool:
        """Whether the input's columns are written beside ours."""
        return self.format not in ("text", "json")

    # ---------------------------------------------------------- the three ways

    def show_plan(self) -> None:
        """--dry-run: the preflight and the first row's prompt, to standard output."""
        with self._reader() as reader:
            rows = iter(self._rows(reader))
            first = list(itertools.islice(rows, 1))
            found = survey(itertools.chain(first, rows), self.job, self.workers)
        prompts = [render(self.job.template, row.text, self.job.values) for row in first if row.error is None]
        if self.options.output_format in ("json", "jsonl"):
            messages = [msgspec.to_builtins(prompt.messages) for prompt in prompts]
            plan = {"source": self.source.full_name, **dataclasses.asdict(found)}
            lines = [to_json({**plan, "messages": messages[0] if messages else None})]
        else:
            lines = [*found.lines(), *(line for prompt in prompts for line in self._prompt_lines(prompt))]
        self.outside.stdout.write("".join(f"{line}\n" for line in lines).encode("utf-8", "replace"))
        self.outside.stdout.flush()

    def _prompt_lines(self, prompt: Prompt) -> list[str]:
        from llmcli.output.sanitize import sanitize

        (tokens,) = self.workers.count_tokens([prompt])
        shown = [f"[{message.role}]\n{message.content}" for message in prompt.messages]
        text = sanitize("\n\n".join(shown), self.outside.stdout_is_terminal)
        return [f"the prompt of row 1, {tokens:,} tokens:", "", text]

    def to_stream(self, path: Path | None) -> None:
        """No journal: results in input order as they come, to standard output or a device."""
        check_formats(self.format, path is None and self.outside.stdout_is_terminal)
        with self._reader() as reader, self._stream(path) as stream:
            writer = self._writer(stream, reader, self._columns_at_once(reader))
            budget = ErrorBudget(self.options.max_errors)

            def take(ready: list[tuple[Row, Outcome]]) -> None:
                for row, outcome in ready:
                    self._write(writer, True, row, outcome)
                    budget.answered(budget.read_asked(), outcome)
                stream.flush()
                budget.check("mend the cause, or allow more with --max-errors N")

            shown = path is not None or not self.outside.stdout_is_terminal
            if not shown:
                self.outside.status(f"working on {self.source.name}")
            with progress(self.outside, self.tally, None) if shown else nullcontext():
                deliver(self._rows(reader), _text_or_error, self._answer, take)
            writer.end()
        self._conclude()

    def to_file(self, output: Path) -> None:
        """Through the journal, into a file that is complete or not there."""
        beside = Beside(output)
        with Lock(beside.lock, str(output)), spooled(self.source, beside):
            with self._reader() as reader:
                identity = identify(self.job, self.workers.info, reader.field)
                about = self._provenance(reader)
                journal = Journal(
                    beside.journal,
                    identity,
                    about,
                    started=self.job.engine.started or time.time(),
                    retry_errors=self.options.retry_errors,
                )
                with resumable(journal, self.outside.complain):
                    budget = ErrorBudget(self.options.max_errors, self.options.retry_errors)
                    ahead = READ_AHEAD if self.source.regular else 1
                    batch = Batch(journal, identity, self.workers, self.tally, budget, ahead)
                    self._fill(batch, reader)
                    self._write_output(batch, beside, _plain(reader) or self._seen)
                    spare = journal.spare()
            if self.options.sidecar:
                write_sidecar(beside.sidecar, about)
            if spare:  # `--limit` may have been a look at a job that was stopped
                self.outside.note(f"{journal.path} is kept: it has {counted(spare, 'answer')} of other rows")
            elif not self.summary.failed and not self.options.keep_journal:
                journal.remove()
        self._conclude()

    # -------------------------------------------------------------- the steps

    def _fill(self, batch: Batch, reader: Reader) -> None:
        found = self._preflight(batch.journal)
        self.summary.distinct = distinct = found.distinct if found and found.whole else None
        total = None if distinct is None else max(0, distinct - batch.journal.resumed)
        rows = self._observed(reader) if self._needs_columns(reader) else self._rows(reader)
        with progress(self.outside, self.tally, total):
            batch.ask_missing(rows)

    def _write_output(self, batch: Batch, beside: Beside, columns: Columns) -> None:
        self.source.check_unchanged()
        self.outside.status(f"writing {beside.output}")
        with self._reader() as reader, output_file(beside.output, beside.temporary, RESUME) as stream:
            writer = self._writer(stream, reader, columns)
            batch.write_all(self._rows(reader), partial(self._write, writer, self.format == "text"))
            writer.end()
            self.source.check_unchanged()

    def _preflight(self, journal: Journal) -> Preflight | None:
        """Survey a file before the first row, and tell what was found to those who want to know."""
        if journal.resumed:
            self.outside.note(f"resuming: {counted(journal.resumed, 'answer')} in {journal.path}")
        talkative = self.outside.verbose or self.outside.stderr_is_terminal
        if self.source.regular:
            self.outside.status(f"reading {self.source.name}")
            with self._reader() as reader:
                found = survey(self._rows(reader), self.job, self.workers)
            self.outside.status("")
        elif talkative:
            found = survey_pipe(self.job, self.workers)
        else:
            return None
        found.known = journal.resumed
        if talkative:
            for line in found.lines():
                self.outside.note(line)
        elif found.too_long:
            *_, last = found.lines()
            self.outside.note(last)
        return found

    @contextmanager
    def _reader(self) -> Iterator[Reader]:
        """Open the source once more; where its columns are written too, they must leave room for ours."""
        reader = open_reader(self.source, self.options)
        with closing(reader):
            if self._copies:
                known = reader.keys_ahead() if isinstance(reader, JsonReader) else reader.columns or ()
                self.results.check(known, self.source.name)
            try:
                yield reader
            finally:
                self.source.stop()

    def _rows(self, reader: Reader) -> Iterator[Row]:
        """Rows up to the limit; a JSON object that has a key of ours is an error."""
        rows = itertools.islice(reader.rows(), self.options.limit)
        if reader.columns is not None:
            return rows
        return map(self._without_clash, rows)

    def _columns_at_once(self, reader: Reader) -> Columns:
        """
        The input's columns, before its rows are read for good.

        For a table of JSON objects a file is read twice; of a pipe the first object says the columns,
        and an object with others is an error.
        """
        if not isinstance(reader, JsonReader) or not self._needs_columns(reader):
            return _plain(reader)
        if not self.source.regular:
            columns = reader.keys_ahead()
            self._allowed = frozenset(columns)
            return dict.fromkeys(columns, ())
        with self._reader() as again:
            for _ in self._observed(again):
                pass
        return self._seen

    def _needs_columns(self, reader: Reader) -> bool:
        """Whether the keys of all JSON objects must be known before the first is written."""
        return reader.columns is None and self.format in ("csv", "tsv", "parquet")

    def _answer(self, texts: Iterable[str]) -> Iterator[tuple[int, Outcome]]:
        """The workers' answers, counted."""
        with closing_answers(self.workers.answer(texts)) as answers:
            for position, outcome in answers:
                self.tally.add(outcome)
                yield position, outcome

    def _without_clash(self, row: Row) -> Row:
        ours = self.results.names
        if self._copies and row.record is not None and not row.record.keys().isdisjoint(ours):
            clash = ", ".join(repr(key) for key in row.record if key in ours)
            row.error = bad_row(self.source.name, row.number, f"already has {clash}")
        elif self._allowed is not None and row.record is not None and not row.record.keys() <= self._allowed:
            new = min(row.record.keys() - self._allowed)
            row.error = bad_row(self.source.name, row.number, f"has {new!r}, which the first row lacks")
        return row

    def _observed(self, reader: Reader) -> Iterator[Row]:
        """Rows, and what keys they have: a table needs a column for each that is not one of ours."""
        self._seen.clear()
        ours = set(self.results.flat)
        for row in self._rows(reader):
            record = row.record if row.record is not None else reader.record(row)
            keys = record.keys() - ours
            if not keys <= self._seen.keys():
                self._seen.update((key, set()) for key in record if key in keys and key not in self._seen)
                if len(self._seen) > MOST_COLUMNS:
                    raise UsageError(
                        f"the objects of {self.source.name} have more than {MOST_COLUMNS:,} different keys",
                        hint="-o FILE.jsonl needs no columns",
                    )
            for key in keys:
                if kind := kind_of(record[key]):
                    self._seen[key].add(kind)
            yield row

    def _writer(self, stream: BinaryIO, reader: Reader, columns: Columns) -> Writer:
        return open_writer(self.format, stream, reader, self.results, columns, self._provenance(reader))

    def _write(self, writer: Writer, told: bool, row: Row, outcome: Outcome) -> None:
        """Write a row and count it; `told` names its error to the user, up to a few."""
        writer.write(row, outcome)
        self.summary.add(outcome, bool(self.results.labels))
        if told and isinstance(outcome, LlmError) and self.summary.failed <= ERRORS_TOLD:
            where = "" if row.error is not None else f"row {row.number:,}: "
            self.outside.warn(where + one_line(outcome.message))

    @contextmanager
    def _stream(self, path: Path | None) -> Iterator[BinaryIO]:
        """Standard output, made harmless for a terminal, or a device that is written to as it is."""
        if path is None:
            if self.outside.stdout_is_terminal:
                yield cast(BinaryIO, _Terminal(self.outside))
            else:
                yield self.outside.stdout
            return
        try:
            with path.open("wb") as raw, zipped(raw, path) as stream:
                yield stream
        except BrokenPipeError:
            raise
        except OSError as error:
            raise cannot_write(error, path) from error

    # -------------------------------------------------------------- what is told

    def _provenance(self, reader: Reader) -> dict[str, Any]:
        return provenance(self.job, self.workers.info, self.source.full_name, reader.field, self.results.name)

    def _conclude(self) -> None:
        """The summary, and what must be said in any case."""
        self.outside.status("")
        if self.summary.cut:
            were = "was" if self.summary.cut == 1 else "were"
            self.outside.note(f"{counted(self.summary.cut, 'answer')} {were} cut at --max-tokens")
        if self.outside.quiet or not (self.outside.verbose or self.outside.stderr_is_terminal):
            return
        bars = self.outside.width if self.outside.stderr_is_terminal else 0
        for line in summary_lines(self.summary, self.tally, bars):
            self.outside.complain(f"llm: {line}")

    def failure(self) -> RowsFailed:
        """What the run ends with when rows failed."""
        summary = self.summary
        message = f"{summary.failed:,} of {summary.rows:,} rows failed: {summary.failures()}"
        if self.options.output is None:
            return RowsFailed(message)
        hint = f"see the column {self.results.error!r}"
        if self.format == "text":
            hint = "-o FILE.csv has a column for why"
        if any(cause != CAUSES["UnreadableInput"] for cause in summary.causes):
            hint += "; --retry-errors asks them again"
        return RowsFailed(message, hint=hint)


def _text_or_error(row: Row) -> str | LlmError:
    return row.text if row.error is None else row.error


class _Terminal:
    """Standard output when it is a terminal, as a stream of bytes."""

    def __init__(self, outside: Outside) -> None:
        self._outside = outside

    def write(self, data: bytes) -> int:
        """Whole lines of UTF-8, as the writers put them."""
        self._outside.write(data.decode("utf-8", "replace"))
        return len(data)

    def flush(self) -> None:
        """The outside does."""


def _plain(reader: Reader) -> Columns:
    """The columns that a reader knows by itself."""
    return dict.fromkeys(reader.columns or (), ())
