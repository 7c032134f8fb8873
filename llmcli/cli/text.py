"""
A template as a command: `llm title` is `prompts/title.yaml`.

The template's parameters become options beside those that every text command has. Running it is one
path: choose the input, open the engine, read, ask, write; rows of a file go on to `llmcli.rows`.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import typer

from llmcli.cli import inputs, options, results
from llmcli.cli.door import Command, environment
from llmcli.cli.environment import Environment
from llmcli.cli.inputs import Inputs
from llmcli.cli.opening import Opened, opened
from llmcli.cli.options import InputOptions, ModelOptions, OutputOptions, RowOptions, SamplingOptions
from llmcli.errors import BadConfig
from llmcli.registry import Found
from llmcli.templates import (
    Param,
    Template,
    check_values,
    label_set,
    load_template,
    sampling_for,
    with_overrides,
)

if TYPE_CHECKING:
    pass

GROUPS: dict[str, type] = {
    "model": ModelOptions,
    "sampling": SamplingOptions,
    "input": InputOptions,
    "output": OutputOptions,
    "rows": RowOptions,
}


@dataclass(frozen=True)
class Asked:
    """One call of a template's command: everything that the command line said."""

    template: Template
    values: dict[str, Any]
    files: tuple[str, ...]
    extract: bool | None
    model: ModelOptions
    sampling: SamplingOptions
    input: InputOptions
    output: OutputOptions
    rows: RowOptions


def template_command(found: Found, env: Environment) -> Command:
    """The command that a template is. Raises BadConfig where the file is not a template."""
    template = load_template(found)

    def command(ctx: typer.Context, **given: Any) -> None:
        run(_asked(template, given), environment(ctx))

    options.give_signature(command, [_CONTEXT, *_parameters(template)])
    app = typer.Typer(rich_markup_mode=None, add_completion=False)
    app.command(found.name, cls=Command, help=template.help, epilog=example(template))(command)
    return cast(Command, typer.main.get_command(app))


def run(asked: Asked, env: Environment) -> None:
    """Text in, template, engine, text out."""
    chosen = inputs.choose(asked.files, asked.input, env, example(asked.template).splitlines()[0])
    values = check_values(asked.template, asked.values)
    if asked.template.source == "project" and _shadows(asked.template, env):
        env.note(f"{asked.template.path} is used, not the template of that name elsewhere")
    with opened(env, asked.model) as answering:
        template = _for_model(asked, answering)
        if chosen.kind == "rows" or (chosen.kind == "lines" and asked.output.output):
            _run_rows(asked, template, values, chosen, answering, env)
        elif asked.output.dry_run:
            _dry_run(template, values, chosen, answering, env)
        else:
            _run_texts(asked, template, values, chosen, answering, env)


# ------------------------------------------------------------ options


_CONTEXT = inspect.Parameter("ctx", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)


def _parameters(template: Template) -> list[inspect.Parameter]:
    """The command's parameters: files, the template's own, then the shared ones by group."""
    files = typer.Argument(
        None, metavar="[FILE]...", help="Texts, or - for standard input.", show_default=False
    )
    made = [
        inspect.Parameter("files", inspect.Parameter.KEYWORD_ONLY, default=files, annotation=list[str]),
        *(_own_option(template, param) for param in template.params),
    ]
    if template.extract:
        choice = typer.Option(
            None,
            "--extract/--no-extract",
            help="Only sentences of the text itself, or a text of the model's own.",
        )
        made.append(
            inspect.Parameter("extract", inspect.Parameter.KEYWORD_ONLY, default=choice, annotation=bool)
        )
    for group in GROUPS.values():
        made += options.parameters(group)
    taken = [parameter.name for parameter in made]
    clash = next((param for param in template.params if taken.count(param.name) > 1), None)
    if clash is not None:
        raise BadConfig(
            f"{template.path}: every command has an option {clash.option}", hint="rename the parameter"
        )
    return made


def _own_option(template: Template, param: Param) -> inspect.Parameter:
    """A template's parameter; its value stays text here, `check_values` knows its type."""
    if param.type == "bool":
        declared: Any = typer.Option(None, f"{param.option}/--no-{param.option[2:]}", help=_help(param))
        return inspect.Parameter(
            param.name, inspect.Parameter.KEYWORD_ONLY, default=declared, annotation=bool
        )
    metavar = "|".join(param.choices) or {"list": "A,B,…", "int": "N", "float": "X"}.get(param.type, "TEXT")
    declared = typer.Option(None, param.option, metavar=metavar, help=_help(param), show_default=False)
    return inspect.Parameter(param.name, inspect.Parameter.KEYWORD_ONLY, default=declared, annotation=str)


def _help(param: Param) -> str:
    if param.required:
        return f"{param.help} [required]".strip()
    default = ",".join(param.default) if isinstance(param.default, list) else param.default
    return f"{param.help} [default: {default}]".strip() if default not in (None, "") else param.help


def _asked(template: Template, given: dict[str, Any]) -> Asked:
    groups = {name: options.collect(group, given) for name, group in GROUPS.items()}
    files = tuple(given.pop("files") or ())
    extract = given.pop("extract", None)
    return Asked(template, given, files, extract, **groups)


def example(template: Template) -> str:
    """Command lines that end the help; required parameters with a value that fits."""
    needed = "".join(f" {param.option} {_sample(param)}" for param in template.params if param.required)
    base = f"llm {template.name}{needed}"
    if template.labels or template.labels_param:
        return (
            f'{base} --text "I love this phone."\n{base} --lines < reviews.txt\n{base} reviews.csv -o out.csv'
        )
    return f"{base} report.txt\ncat report.txt | {base}\n{base} texts.jsonl -o out.jsonl"


def _sample(param: Param) -> str:
    samples = {"to": "de", "labels": "spam,ham", "question": '"Who wrote it?"', "fields": "name,date"}
    if param.choices:
        return param.choices[0]
    return samples.get(param.name) or {"int": "3", "float": "0.5", "list": "a,b"}.get(param.type, '"…"')


# ------------------------------------------------------------ running


def _shadows(template: Template, env: Environment) -> bool:
    from llmcli.registry import find_template

    return find_template(template.name, env.cwd).shadows


def _for_model(asked: Asked, answering: Opened) -> Template:
    """The template as this model wants it, in the mode that the command line wants."""
    from msgspec.structs import replace

    template = asked.template
    overrides = answering.templates.get(template.name)
    if overrides and template.source == "built in":
        template = with_overrides(template, overrides)
    if asked.extract is True:
        template = replace(template, mode="extract")
    elif asked.extract is False and template.mode == "extract":
        template = replace(template, mode="generate")
    return template


def _run_texts(
    asked: Asked,
    template: Template,
    values: dict[str, Any],
    chosen: Inputs,
    answering: Opened,
    env: Environment,
) -> None:
    """Ask for every text and write each answer in its turn."""
    labels = label_set(template, values) if template.mode == "label" else None
    form = results.form_name(asked.output)
    sampling = sampling_for(template, values, asked.sampling.given())
    shape = results.Shape(
        kind=chosen.kind,
        name=asked.output.as_name or template.name,
        template=template.name,
        model=answering.engine.info.model,
        labels=labels,
        probabilities=asked.output.probabilities,
        headings=not env.quiet,
        bars=env.stdout_is_terminal and not env.quiet and not asked.output.output,
    )
    tally = Tally()
    with results.destination(asked.output.output, env) as write:
        if _streams(asked, chosen, template, form, env):
            _stream(template, values, chosen, answering, sampling, tally, env)
        else:
            answers = _answers(template, values, chosen, answering, sampling, tally, env)
            for words in results.FORMS[form](shape, answers):
                write(words)
    tally.finish(chosen.kind)


def _streams(asked: Asked, chosen: Inputs, template: Template, form: str, env: Environment) -> bool:
    """Whether the answer is printed as it is written: one text, generated, to a terminal or on request."""
    plain = chosen.kind == "document" and template.mode == "generate" and form == "text"
    return plain and not asked.output.output and (asked.output.stream or env.stdout_is_terminal)
