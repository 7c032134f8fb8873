"""
A template as a command: `llm title` is `prompts/title.yaml`.

The template's parameters become options beside those that every text command has; `running` then
answers what the command line asked.
"""

from __future__ import annotations

import inspect
from typing import Any, cast

import typer

from llmcli.cli import options
from llmcli.cli.door import Command, environment
from llmcli.cli.environment import Environment
from llmcli.cli.options import InputOptions, ModelOptions, OutputOptions, RowOptions, SamplingOptions
from llmcli.cli.running import Asked, run
from llmcli.registry import Found
from llmcli.templates import Param, Template, load_template

GROUPS: dict[str, type] = {
    "model": ModelOptions,
    "sampling": SamplingOptions,
    "input": InputOptions,
    "output": OutputOptions,
    "rows": RowOptions,
}


def template_command(found: Found, env: Environment) -> Command:
    """The command that a template is. Raises BadConfig where the file is not a template."""
    template = load_template(found)
    lines = examples(template)

    def command(ctx: typer.Context, **given: Any) -> None:
        asked = _asked(template, given, lines[0], found.shadows)
        run(asked, environment(ctx))

    options.give_signature(command, [_CONTEXT, *_parameters(template)])
    app = typer.Typer(rich_markup_mode=None, add_completion=False)
    app.command(found.name, cls=Command, help=template.help, epilog="\n".join(lines))(command)
    return cast(Command, typer.main.get_command(app))


OWN = "of_template_"  # in front of a template's own parameters: one may be called `from`, or `files`

_CONTEXT = inspect.Parameter("ctx", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)


def _parameters(template: Template) -> list[inspect.Parameter]:
    """The command's parameters: files, the template's own, then the shared ones by group."""
    files = typer.Argument(None, metavar="FILE", help="Texts; - is standard input.", show_default=False)
    made = [_parameter("files", files, list[str])]
    made += [_own_option(param) for param in template.params]
    if template.extract:
        choice = typer.Option(
            None, "--extract/--no-extract", help="Sentences of the text itself, or the model's own words."
        )
        made.append(_parameter("extract", choice, bool))
    for group in GROUPS.values():
        made += options.parameters(group)
    return made


def _parameter(name: str, declared: Any, annotation: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=declared, annotation=annotation)


def _own_option(param: Param) -> inspect.Parameter:
    """A template's parameter; its value stays text here, `check_values` knows its type."""
    if param.type == "bool":
        both = f"{param.option}/--no-{param.option[2:]}"
        return _parameter(OWN + param.name, typer.Option(None, both, help=_help(param)), bool)
    metavar = "|".join(param.choices) or {"list": "A,B,…", "int": "N", "float": "X"}.get(param.type, "TEXT")
    declared = typer.Option(None, param.option, metavar=metavar, help=_help(param), show_default=False)
    return _parameter(OWN + param.name, declared, list[str] if param.type == "list" else str)


def _help(param: Param) -> str:
    if param.required:
        return f"{param.help} [required]".strip()
    default = ",".join(param.default) if isinstance(param.default, list) else param.default
    return param.help if default in (None, "") else f"{param.help} [default: {default}]".strip()


def _asked(template: Template, given: dict[str, Any], example: str, shadows: bool) -> Asked:
    groups = {name: options.collect(group, given) for name, group in GROUPS.items()}
    return Asked(
        template=template,
        files=tuple(given.pop("files") or ()),
        extract=given.pop("extract", None),
        values={name.removeprefix(OWN): _words(value) for name, value in given.items()},
        example=example,
        shadows=shadows,
        **groups,
    )


def _words(value: Any) -> Any:
    """What was given; a list's option may be given several times (`--labels spam,ham --labels unsure`)."""
    return ",".join(value) if isinstance(value, list) else value


def examples(template: Template) -> list[str]:
    """Command lines that end the help; required parameters with a value that fits."""
    needed = "".join(f" {param.option} {_sample(param)}" for param in template.params if param.required)
    base = f"llm {template.name}{needed}"
    if template.labels or template.labels_param:
        return [
            f'{base} --text "I love this phone."',
            f"cat reviews.txt | {base} --lines",
            f"{base} reviews.csv -o labelled.csv",
        ]
    return [f"{base} report.txt", f"cat report.txt | {base}", f"{base} texts.jsonl -o answers.jsonl"]


_SAMPLES = {"to": "de", "labels": "spam,ham", "question": '"Who wrote it?"', "fields": "name,date"}


def _sample(param: Param) -> str:
    if param.choices:
        return param.choices[0]
    if param.min is not None:
        return str(param.min)
    return _SAMPLES.get(param.name) or {"int": "3", "float": "0.5", "list": "a,b"}.get(param.type, '"…"')
