"""`llm prompts`: list the templates, show one, begin a new one, check a file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llmcli import registry
from llmcli.cli.door import Command, environment, new_app
from llmcli.cli.environment import Environment
from llmcli.errors import BadConfig, CannotCreate, LlmError, MissingInput, UsageError, cannot_write
from llmcli.output.json_text import printable
from llmcli.paths import config_dir, make_private
from llmcli.registry import RESERVED, Found

if TYPE_CHECKING:
    from llmcli.templates import Problem, Template

app = new_app(
    "List, show, write and check templates. A template is one YAML file, and a command.",
    example="""
    llm prompts list
    llm prompts show sentiment
    llm prompts new haiku
    """,
)

Name = Annotated[str, typer.Argument(metavar="NAME", help="The template's name.")]


@app.command("list", cls=Command, epilog="llm prompts list --json")
def list_templates(
    ctx: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a template.")] = False,
) -> None:
    """List every template that can be called from here."""
    env = environment(ctx)
    found = registry.list_templates(env.cwd)
    problems = [_problem(one) for one in found]
    for source, path, why in registry.left_out(env.cwd):
        found.append(registry.Found(printable(path.name), path, source))
        problems.append(why)
    if as_json:
        for one, problem in zip(found, problems):
            env.write_json(_record(one, problem))
        return
    rows = [
        (
            one.name,
            one.source + (", hides another" if one.shadows else ""),
            f"broken: {problem}" if problem else registry.help_line(one.path),
        )
        for one, problem in zip(found, problems)
    ]
    env.write_table(("NAME", "FROM", "HELP"), rows)


@app.command("show", cls=Command, epilog="llm prompts show sentiment")
def show(ctx: typer.Context, name: Name) -> None:
    """Print a template's file."""
    env = environment(ctx)
    found = registry.find_template(name, env.cwd)
    env.note(f"{found.path} ({found.source})")
    env.write(_text(found.path))


@app.command("new", cls=Command, epilog="llm prompts new haiku\nllm haiku report.txt")
def new(
    ctx: typer.Context,
    name: Name,
    here: Annotated[bool, typer.Option("--here", help="In ./prompts, for this project.")] = False,
) -> None:
    """Begin a template: write a small one that works, to be changed."""
    from llmcli.templates import starter

    env = environment(ctx)
    name = name.removesuffix(registry.SUFFIX)
    _refuse_taken(name)
    folder = env.cwd / "prompts" if here else config_dir() / "prompts"
    path = folder / f"{name}.yaml"
    hidden = next((one for one in registry.list_templates(env.cwd) if one.name == name), None)
    try:
        if here:
            folder.mkdir(exist_ok=True)
        else:
            make_private(folder)
        with path.open("x", encoding="utf-8") as file:
            file.write(starter(name))
    except FileExistsError:
        raise CannotCreate(f"{path} exists", hint=f"edit it, or llm prompts show {name}") from None
    except OSError as error:
        raise cannot_write(error, path) from error
    env.write(f"{path}\n")
    if hidden is not None:
        env.note(f"it hides {hidden.path} ({hidden.source})")
    env.note(f"edit it, then: llm {name} --help")


@app.command("check", cls=Command, epilog="llm prompts check prompts/title.yaml")
def check(
    ctx: typer.Context,
    files: Annotated[list[str], typer.Argument(metavar="FILE|NAME", help="YAML files, or names.")],
) -> None:
    """Say everything that is wrong with templates, line by line."""
    env = environment(ctx)
    errors: list[LlmError] = []
    for name in files:
        try:
            if _check(name, env):
                errors.append(BadConfig(f"{name} cannot be used"))
        except LlmError as error:  # the others are checked nevertheless
            if len(files) == 1:
                raise
            env.complain(f"llm: error: {error}")
            errors.append(error)
    if errors:
        worst = max(errors, key=lambda error: error.exit_code)
        raise type(worst)(f"{len(errors)} of {len(files)} template{'s' * (len(files) > 1)} cannot be used")


@app.command("path", cls=Command, epilog="cp haiku.yaml $(llm prompts path | sed -n 2p)")
def path(ctx: typer.Context) -> None:
    """Print the folders that templates are looked for in, in this order."""
    env = environment(ctx)
    for _, folder in registry.folders(env.cwd):
        env.write(f"{folder}\n")


def _problem(one: Found) -> str:
    """What keeps a template from being used; empty for a good one."""
    from llmcli.templates import load_template

    try:
        template = load_template(one)
    except LlmError as error:
        return str(error)
    return "; ".join(problem.message for problem in _form_problems(template))


def _check(name: str, env: Environment) -> bool:
    """Print a template's problems, or that there are none; gives whether there are some."""
    from llmcli.templates import check_template

    template, problems = check_template(_find(name, env))
    if template is not None:
        problems = [*problems, *_form_problems(template)]
    for problem in problems:
        where = f"{name}:{problem.line}" if problem.line else name
        env.write(f"{where}: {problem.message}\n")
    if template is not None and not problems:
        env.write(f"{name}: ok\n")
    return bool(problems)


def _form_problems(template: Template) -> list[Problem]:
    """What the built-in engine would say of the schema or the grammar before it asks anything."""
    from llmcli.templates import Problem

    try:
        if template.schema is not None:
            from llmcli.engines.llama.schema import to_gbnf

            to_gbnf(template.schema)
        if template.grammar is not None:
            from llmcli.engines.llama.grammar import check_gbnf

            check_gbnf(template.grammar)
    except LlmError as error:
        return [Problem(None, str(error))]
    return []


def _find(name: str, env: Environment) -> Found:
    """A file's path, or else a template's name."""
    file = env.cwd / name
    if file.is_file():
        if file.suffix != registry.SUFFIX:
            env.note(f"{name} is no command: a template's file ends in {registry.SUFFIX}")
        return Found(file.stem, file, "project")
    if os.sep in name or name.endswith(registry.SUFFIX):
        raise MissingInput(f"no file {name!r}")
    return registry.find_template(name, env.cwd)


def _refuse_taken(name: str) -> None:
    from llmcli.cli.main import COMMANDS

    if registry.NAME.fullmatch(name) is None:
        raise UsageError(f"{name!r} is not a template name", hint=registry.NAME_RULE)
    if name in RESERVED or (name in COMMANDS and name != "chat"):
        raise UsageError(f"{name!r} is a command of llm's own", hint="choose another name")


def _record(one: Found, problem: str) -> dict[str, object]:
    return {
        "name": one.name,
        "source": one.source,
        "path": str(one.path),
        "shadows": one.shadows,
        "help": registry.help_line(one.path),
        "error": problem or None,
    }


def _text(path: Path) -> str:
    from llmcli.documents import read_document

    text = read_document(path)
    return text if text.endswith("\n") else text + "\n"
