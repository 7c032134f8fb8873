"""
One call of a text command, from the command line's words to the answers on standard output.

Choose the input, choose the model, open the engine, and then: rows go to `llmcli.rows`, a dry run
shows the prompts, everything else is asked and written answer by answer.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llmcli import config
from llmcli.cli import inputs, opening, options, results
from llmcli.cli.environment import Environment
from llmcli.cli.inputs import Inputs, Item
from llmcli.cli.keeping import Keep, keeping
from llmcli.cli.opening import Chosen
from llmcli.cli.options import InputOptions, ModelOptions, OutputOptions, RowOptions, SamplingOptions
from llmcli.cli.results import Answer
from llmcli.cli.tally import Tally
from llmcli.cli.thinking import ThinkingEngine
from llmcli.errors import LlmError, RowsFailed, UsageError
from llmcli.templates import Template, check_values, label_set, sampling_for, with_overrides

if TYPE_CHECKING:
    from llmcli.engines.base import Engine
    from llmcli.messages import Prompt, Sampling
    from llmcli.rows.columns import ResultColumns
    from llmcli.tasks import Result


MANY = 8192  # bytes of rows: above that, reading them faster pays for a start that is a second later


@dataclass(frozen=True)
class Asked:
    """What the command line says; `example` is a line that would work, `shadows` as in registry.Found."""

    template: Template
    values: Mapping[str, Any]
    files: tuple[str, ...]
    extract: bool | None
    model: ModelOptions
    sampling: SamplingOptions
    input: InputOptions
    output: OutputOptions
    rows: RowOptions
    example: str
    shadows: bool


@dataclass(frozen=True)
class Task:
    """The same, ready to be run: the template as the model wants it, everything checked."""

    asked: Asked
    template: Template
    values: Mapping[str, Any]
    sampling: Sampling
    chosen: Inputs
    model: Chosen
    columns: ResultColumns


def run(asked: Asked, env: Environment) -> None:
    """Text in, template, engine, text out."""
    task = prepare(asked, env)
    if asked.shadows and asked.template.source == "project":
        env.note(f"{asked.template.path} is used, not the template of that name elsewhere")
    if asked.rows.on:
        _run_rows(task, None, env)
        return
    with opening.opened(env, task.model) as plain:
        engine: Engine = ThinkingEngine(plain) if asked.output.show_thinking else plain
        if task.chosen.kind in ("rows", "lines"):
            _run_rows(task, engine, env)
        elif asked.output.dry_run:
            _dry_run(task, engine, env)
        else:
            _run_texts(task, engine, env)


def prepare(asked: Asked, env: Environment) -> Task:
    """Check everything that can be checked before a model is loaded."""
    from llmcli.rows.columns import columns_of

    _check_names(asked)
    chosen = inputs.choose(asked.files, asked.input, env, asked.example, asked.rows.input_format)
    if chosen.kind not in ("rows", "lines"):
        _refuse_row_options(asked)
    form = results.form_name(asked.output, chosen.kind)
    _keep_the_input(chosen, asked.output.file, env)
    values = check_values(asked.template, asked.values)
    model = opening.choose(env, asked.model)
    if chosen.kind in ("rows", "lines"):
        model = _on_its_first_day(model, asked.output.file, env)
        model = model.to_run(texts=_how_many(chosen, env))
    template = _for_model(asked, model)
    if chosen.kind == "document" and template.mode != "extract":
        model = model.to_run(texts="one")
    if template.mode in ("label", "extract"):
        model = model.to_run(only_labels=True)
    labels = label_set(template, values) if template.mode == "label" else ()
    if asked.output.probabilities and not labels:
        raise UsageError(f"--probabilities is for labels, and {template.name} has none", hint="leave it out")
    sampling = sampling_for(template, values, asked.sampling.given())
    opening.say_unfit(model, template, values, labels, env)
    columns = columns_of(
        template,
        values,
        asked.output.as_name,
        asked.rows.error_as,
        probabilities=asked.output.probabilities,
    )
    results.check_names(columns, form, chosen.kind)
    return Task(asked, template, values, sampling, chosen, model, columns)


def _refuse_row_options(asked: Asked) -> None:
    """Raise UsageError for an option of rows where there are none: it would do nothing."""
    given = [f"--{name.replace('_', '-')}" for name in options.changed(asked.rows)]
    if asked.input.field is not None:
        given.append("--field")
    if given:
        raise UsageError(
            f"{given[0]} is for rows, and this is text",
            hint="rows come from .csv, .tsv, .jsonl and .parquet files, or with --lines",
        )


def _check_names(asked: Asked) -> None:
    """Raise UsageError for a name that is empty, and for a cluster's options without a cluster."""
    columns = (
        ("--field", asked.input.field),
        ("--as", asked.output.as_name),
        ("--error-as", asked.rows.error_as),
    )
    for option, name in columns:
        if name == "":
            raise UsageError(f"{option} is empty", hint="give the column a name")
    for name in ("copies", "cpus", "gpus"):
        if asked.rows.on is None and getattr(asked.rows, name) is not None:
            raise UsageError(f"--{name} is of a cluster", hint="with --on ray")


def _keep_the_input(chosen: Inputs, output: str | None, env: Environment) -> None:
    """Raise UsageError where the output would take the place of a file that is read, or has no name."""
    if output == "":  # "$OUT" with nothing in it
        raise UsageError("-o is empty", hint="name a file, or - for standard output")
    if output is None or not (env.cwd / output).is_file():
        return
    place = env.cwd / output

    def is_place(name: str) -> bool:
        return env.stdin_is(place) if name == inputs.STDIN else place.samefile(env.cwd / name)

    if any(map(is_place, chosen.files)):
        raise UsageError(f"{output} is the input itself", hint="choose another -o")


def _on_its_first_day(model: Chosen, output: str | None, env: Environment) -> Chosen:
    """A job of rows that is resumed renders the date of the day on which it began."""
    from llmcli.rows.journal import start_of
    from llmcli.rows.output_file import resolved

    begun = start_of(None if output is None else resolved(env.cwd / output))
    return model.to_run(started=begun)


def _how_many(chosen: Inputs, env: Environment) -> str:
    """What the engine should expect of rows; standard input may have any number."""
    files = [env.cwd / name for name in chosen.files if name != inputs.STDIN]
    known = len(files) == len(chosen.files) and all(path.is_file() for path in files)
    return "some" if known and sum(path.stat().st_size for path in files) < MANY else "many"


def _for_model(asked: Asked, model: Chosen) -> Template:
    """The template as this model wants it, in the mode that the command line wants."""
    from msgspec.structs import replace

    template = asked.template
    overrides = model.templates.get(template.name)
    if overrides and template.source == "built in":
        template = with_overrides(template, overrides)
    if asked.extract is True:
        return replace(template, mode="extract")
    if asked.extract is False and template.mode == "extract":
        return replace(template, mode="generate")
    return template


# ------------------------------------------------------------ texts


def _run_texts(task: Task, engine: Engine, env: Environment) -> None:
    """Ask for every text and write each answer in its turn."""
    output = task.asked.output
    form = results.form_name(output, task.chosen.kind)
    tally = Tally(env, task.chosen.kind == "document", output.show_thinking)
    shape = results.Shape(
        kind=task.chosen.kind,
        columns=task.columns,
        template=task.template.name,
        engine=engine,
        headings=not env.quiet,
        bars=env.width if env.stdout_is_terminal and not env.quiet and not output.file else 0,
    )
    wanted = output.log or config.load(env.environ).log_commands
    with (
        results.destination(output.file, env) as write,
        keeping(wanted, task.template.name, task.model.reference) as keep,
    ):
        if _streams(task, form, env):
            _stream(task, engine, tally, keep, env)
        else:
            for words in results.FORMS[form](shape, _answers(task, engine, tally, keep, env)):
                write(words)
    tally.finish()


def _answers(task: Task, engine: Engine, tally: Tally, keep: Keep, env: Environment) -> Iterator[Answer]:
    """Every text's answer, in the order of the texts, each as soon as it and those before it are there."""
    from llmcli.rows.window import in_order
    from llmcli.tasks import run_tasks

    def answer(texts: Iterable[str]) -> Iterator[tuple[int, Result | LlmError]]:
        cut = task.asked.input.truncate
        settings = (engine, task.values, task.sampling)
        return run_tasks(task.template, texts, *settings, notify=env.status, truncate=cut)

    def text_of(item: Item) -> str | LlmError:
        return item.error or item.text

    for ready in in_order(task.chosen.items(env), text_of, answer):
        for item, outcome in ready:
            if isinstance(outcome, LlmError):
                tally.failed(item, outcome)
            else:
                tally.answered(item, outcome)
                keep(item.text, outcome.text)
            yield Answer(item, outcome)


def _streams(task: Task, form: str, env: Environment) -> bool:
    """Whether the answer is printed as it is written: one text, generated, to a terminal or on request."""
    output = task.asked.output
    plain = task.chosen.kind == "document" and task.template.mode == "generate" and form == "text"
    return plain and not output.file and (output.stream or env.stdout_is_terminal)


def _stream(task: Task, engine: Engine, tally: Tally, keep: Keep, env: Environment) -> None:
    """Print the only text's answer as it is written."""
    from llmcli.tasks import stream_task

    item = next(task.chosen.items(env))
    if item.error is not None:
        tally.failed(item, item.error)
        return
    try:
        pieces = stream_task(
            task.template,
            item.text,
            engine,
            task.values,
            task.sampling,
            notify=env.status,
            truncate=task.asked.input.truncate,
        )
        for piece in pieces:
            if isinstance(piece, str):
                env.status("")
                env.write(piece, flush=True)
            else:
                tally.answered(item, piece)
                keep(item.text, piece.text)
    except LlmError as error:
        tally.failed(item, error)
    finally:
        if not env.at_line_start:
            env.write("\n")


# ------------------------------------------------------------ rows


def _run_rows(task: Task, engine: Engine | None, env: Environment) -> None:
    """Hand rows to `llmcli.rows`, one file at a time."""
    from llmcli.rows import job as jobs
    from llmcli.rows.runner import run_rows

    asked, output = task.asked, task.asked.output
    job = jobs.Job(
        template=task.template,
        values=task.values,
        sampling=task.sampling,
        model=task.model.reference,
        engine=task.model.options,
        truncate=asked.input.truncate,
    )
    env.status("")  # rows have a progress line of their own
    form = results.form_name(output, task.chosen.kind)
    if len(task.chosen.files) > 1 and (output.file or form in ("csv", "tsv")):
        raise UsageError("a table is made of one input file", hint="one call for each")
    failures: list[RowsFailed] = []
    for name in task.chosen.files:
        options = jobs.RowOptions(
            source=None if name == inputs.STDIN else env.cwd / name,
            input_format="lines" if task.chosen.kind == "lines" else asked.rows.input_format,
            field=asked.input.field,
            encoding=asked.input.encoding,
            delimiter=asked.rows.delimiter,
            quote=asked.rows.quote,
            header=not asked.rows.no_header,
            output=None if output.file is None else env.cwd / output.file,
            output_format="json" if output.json else output.format,
            name=output.as_name,
            error_name=asked.rows.error_as,
            probabilities=output.probabilities,
            sidecar=asked.rows.sidecar,
            limit=asked.rows.limit,
            max_errors=asked.rows.max_errors,
            retry_errors=asked.rows.retry_errors,
            keep_journal=asked.rows.keep_journal,
            dry_run=output.dry_run,
            on=asked.rows.on,
            copies=asked.rows.copies,
            cpus=asked.rows.cpus,
            gpus=asked.rows.gpus,
        )
        try:
            run_rows(job, options, engine, env)
        except RowsFailed as failed:
            failures.append(failed)
    if failures:
        raise failures[0]


# ------------------------------------------------------------ dry run


def _dry_run(task: Task, engine: Engine, env: Environment) -> None:
    """Show what the model would be asked, and how long it is; ask nothing."""
    from llmcli.rows.preflight import fate
    from llmcli.tasks import prompts_of

    form = results.form_name(task.asked.output, task.chosen.kind)
    tally = Tally(env, single=task.chosen.kind == "document")
    for item in task.chosen.items(env):
        if item.error is not None:
            tally.failed(item, item.error)
            continue
        prompts = prompts_of(task.template, item.text, engine, task.values)
        sizes, context = engine.count_tokens(prompts), engine.info.context
        if form == "text":
            _show_first(prompts, sizes, context, env)
        else:
            for prompt, tokens in zip(prompts, sizes):
                said = [{"role": message.role, "content": message.content} for message in prompt.messages]
                env.write_json({"source": item.shown, "messages": said, "tokens": tokens, "context": context})
        if context and max(sizes, default=0) > context:
            env.note(f"longer than the context: it would {fate(task.template, task.asked.input.truncate)}")
    tally.finish()


def _show_first(prompts: Sequence[Prompt], sizes: Sequence[int], context: int, env: Environment) -> None:
    """For a reader: the first prompt of a text, and how many there are."""
    for prompt, tokens in zip(prompts[:1], sizes):
        for message in prompt.messages:
            env.write(f"[{message.role}]\n{message.content}\n\n")
        env.write(f"{tokens:,} tokens of {context:,}\n")
    if len(prompts) > 1:
        more = f"and {len(prompts) - 1:,} more like it"
        env.write(f"{more}, {sum(sizes):,} tokens together (--json shows them all)\n")
