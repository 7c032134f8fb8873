"""
The program: find the command and run it, inside the error boundary (`boundary`).

A command's module is imported when the command is called; `llm --help` imports none of them (see
`llmcli.cli` for the convention). `main` is the only place that exits.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from importlib import import_module
from types import FrameType
from typing import TYPE_CHECKING, NamedTuple, cast

import typer

from llmcli import __version__
from llmcli.cli.boundary import Terminated, guard
from llmcli.cli.door import Group, environment, new_app
from llmcli.cli.environment import Environment, as_word, from_system
from llmcli.errors import UsageError

if TYPE_CHECKING:
    from typer._click import Command as AnyCommand
    from typer._click import Context, HelpFormatter


class Entry(NamedTuple):
    """Where a command is and how it is listed."""

    module: str
    section: str
    help: str


TEXT, CONVERSATION, MANAGEMENT = "Text commands", "Conversation", "Management"

COMMANDS = {
    "complete": Entry("llmcli.cli.complete", TEXT, "Continue a text as it stands, without a chat template."),
    "chat": Entry("llmcli.cli.chat", CONVERSATION, "Talk with a model."),
    "history": Entry("llmcli.cli.history", CONVERSATION, "List, search, show and delete past conversations."),
    "models": Entry("llmcli.cli.models", MANAGEMENT, "List, download and check models."),
    "prompts": Entry("llmcli.cli.prompts", MANAGEMENT, "List, show, write and check templates."),
    "config": Entry("llmcli.cli.config", MANAGEMENT, "Show and change settings."),
    "doctor": Entry("llmcli.cli.doctor", MANAGEMENT, "Check this machine and this installation."),
    "completion": Entry("llmcli.cli.completion", MANAGEMENT, "Print the completion script of a shell."),
}


EXAMPLES = """
llm summarize report.txt
echo "Where is the train station?" | llm translate --to de
llm sentiment --text "I love this phone."
llm chat
"""


class Commands(Group):
    """The commands of llm: the table above and one per template, each looked up when it is called."""

    def list_commands(self, ctx: Context) -> list[str]:
        """Every command's name, as `--help` orders them."""
        return [name for names in self._sections(ctx).values() for name in names]

    def get_command(self, ctx: Context, cmd_name: str) -> AnyCommand | None:
        """Import the module of a command, or build a template's command; None if there is neither."""
        if cmd_name in COMMANDS:
            app = import_module(COMMANDS[cmd_name].module).app
            command = typer.main.get_command(app)
            command.name = cmd_name
            return command
        return _template_command(cmd_name, environment(ctx))

    def unknown_command(self, ctx: Context, name: str) -> UsageError:
        """What to say of a command that there is not: maybe it is a text, or a file."""
        if any(character.isspace() for character in name):
            return UsageError(f"no command {name!r}", hint=f"to ask it: llm chat --once {as_word(name)}")
        if not name.startswith("-") and (environment(ctx).cwd / name).is_file():
            return UsageError(f"{name!r} is a file, not a command", hint=f"llm summarize {name}")
        return super().unknown_command(ctx, name)

    def format_commands(self, ctx: Context, formatter: HelpFormatter) -> None:
        """The commands in their sections, with a line each that needs no import."""
        for section, commands in self._sections(ctx).items():
            with formatter.section(section):
                formatter.write_dl(list(commands.items()))

    def _sections(self, ctx: Context) -> dict[str, dict[str, str]]:
        sections: dict[str, dict[str, str]] = {TEXT: _template_lines(environment(ctx))}
        for name, entry in COMMANDS.items():
            sections.setdefault(entry.section, {})[name] = entry.help
        return sections


def _template_lines(env: Environment) -> dict[str, str]:
    """Every template's name and help line; the chat command's own template is not a command."""
    from llmcli import registry

    found = registry.list_templates(env.cwd)
    return {one.name: registry.help_line(one.path) for one in found if one.name not in COMMANDS}


def _template_command(name: str, env: Environment) -> AnyCommand | None:
    """The command that a template is, or None where no template has this name."""
    from llmcli import registry

    if all(found.name != name for found in registry.list_templates(env.cwd)):
        return None
    from llmcli.cli.text import template_command

    return template_command(registry.find_template(name, env.cwd), env)


def _show_version(ctx: typer.Context, given: bool) -> None:
    if given:
        environment(ctx).write(f"llmcli {__version__}\n")
        raise typer.Exit


def _root(
    version: bool = typer.Option(
        False, "-V", "--version", help="Show the version.", is_eager=True, callback=_show_version
    ),
) -> None:
    """Run a language model on your own machine: text in, template, model, text out."""


def root() -> Group:
    """The whole command line."""
    app = new_app(example=EXAMPLES)
    app.info.cls = Commands
    app.callback()(_root)
    return cast(Group, typer.main.get_group(app))


def program(args: Sequence[str], env: Environment) -> int:
    """Run one command line, without any handling of errors; give its exit code."""
    commands = root()
    # Not `commands.main`: it turns a closed pipe into exit 1, and an end of input into an abort.
    try:
        with commands.make_context("llm", list(args), obj=env) as ctx:
            commands.invoke(ctx)
    except typer.Exit as done:
        return done.exit_code
    return 0


def run(args: Sequence[str], env: Environment) -> int:
    """Run one command line, whatever happens; give its exit code."""
    return guard(lambda: program(args, env), env)


def _terminate(signum: int, frame: FrameType | None) -> None:
    raise Terminated


def _hold_standard_descriptors() -> None:
    """Where 0, 1 or 2 was closed, put /dev/null there, so that no file of ours gets that number."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)


def main(args: Sequence[str] | None = None) -> None:
    """Run `llm` as a process: signals, streams, exit."""
    _hold_standard_descriptors()
    signal.signal(signal.SIGTERM, _terminate)
    env = from_system()
    code = run(sys.argv[1:] if args is None else args, env)
    _leave(code)


def _leave(code: int) -> None:
    """Exit; where standard output is broken, Python's own last flush must not complain about it."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except (OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    sys.exit(code)
