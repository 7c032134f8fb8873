"""
What every command module is made of: the Typer app, plain help with an example, the house options.

A command module looks like this (llmcli/cli/greet.py, with a row "greet" in `main.COMMANDS`):

    app = new_app("Greet somebody.", example='llm greet Ada')

    @app.command(cls=Command, epilog='llm greet Ada --loud')
    def greet(ctx: typer.Context, name: str, loud: bool = False) -> None:
        "Greet somebody by name."
        env = environment(ctx)
        env.write(f"Hello {name}\\n")          # results: standard output
        env.note("greeted one person")         # anything else: standard error

One `@app.command` makes the command itself; several make `llm greet SUBCOMMAND`. `epilog` is the
example that ends the help, one command a line. `rich_help_panel="Model"` on an option names its
group in the help. Errors are raised as LlmError; nothing here or in a command prints or exits.

Every command gets -q, -v, --no-color and --debug from here; they act on the Environment.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, cast

import typer
from typer.core import TyperCommand, TyperGroup, TyperOption
from typer.exceptions import TyperException

from llmcli.cli.coerce import make_light
from llmcli.cli.environment import Environment
from llmcli.errors import UsageError

if TYPE_CHECKING:
    from typer._click import Command as AnyCommand
    from typer._click import Context, HelpFormatter, Parameter

OTHER = "Other"


def environment(ctx: Context) -> Environment:
    """The streams and settings this command runs with."""
    return cast(Environment, ctx.obj)


def new_app(help: str = "", example: str = "", **settings: Any) -> typer.Typer:
    """A Typer app with the house's settings: plain help, no completion options, no pretty tracebacks."""
    return typer.Typer(
        cls=Group,
        help=help or None,
        epilog=example or None,
        rich_markup_mode=None,
        add_completion=False,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
        **{"no_args_is_help": True, **settings},
    )


def _set(field: str, value: object) -> Any:
    def callback(ctx: Context, param: Parameter, given: bool) -> None:
        if given and not ctx.resilient_parsing:
            setattr(environment(ctx), field, value)

    return callback


HOUSE_OPTIONS = (
    (["-q", "--quiet"], "quiet", True, "No notes, no progress, no file headings."),
    (["-v", "--verbose"], "verbose", True, "Say more on standard error."),
    (["--no-color"], "colour", False, "No colour (also: NO_COLOR, TERM=dumb)."),
    (["--debug"], "debug", True, "Show the traceback of an error."),
)


def house_options() -> list[Parameter]:
    """-q, -v, --no-color, --debug: made fresh for each command, they set a field of the Environment."""
    # Typer builds a bool option's type from a function's signature; this is the shortest public way.
    app = typer.Typer(rich_markup_mode=None, add_completion=False)
    app.command()(_house_signature)
    made = {param.name: param for param in typer.main.get_command(app).params}
    options: list[Parameter] = []
    for _, field, value, _ in HOUSE_OPTIONS:
        option = made["house_" + field]
        option.expose_value = False
        option.is_eager = True
        option.callback = _set(field, value)
        options.append(option)
    return options


def _house_signature() -> None:
    """The house options as Typer reads them."""


_house_signature.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
    [
        inspect.Parameter(
            "house_" + field,
            inspect.Parameter.KEYWORD_ONLY,
            annotation=bool,
            default=typer.Option(False, *names, help=text, rich_help_panel=OTHER),
        )
        for names, field, _, text in HOUSE_OPTIONS
    ]
)


class _PlainHelp:
    """Help as plain text: options in their groups, then the example, unwrapped."""

    params: list[Parameter]
    epilog: str | None
    options_metavar: str | None

    def get_help_option(self, ctx: Context) -> TyperOption | None:
        option = cast("TyperOption | None", super().get_help_option(ctx))  # type: ignore[misc]
        if option is not None:
            option.help = "Show this help."
            option.rich_help_panel = OTHER
            option.callback = _show_help
            make_light([option])
        return option

    def collect_usage_pieces(self, ctx: Context) -> list[str]:
        pieces = [self.options_metavar] if self.options_metavar else []
        pieces += [_argument(param) for param in self.params if param.param_type_name == "argument"]
        return pieces + ([self.subcommand_metavar] if isinstance(self, TyperGroup) else [])

    def format_epilog(self, ctx: Context, formatter: HelpFormatter) -> None:
        lines = inspect.cleandoc(self.epilog or "").splitlines()
        if lines:
            formatter.write(f"\n{'Example' if len(lines) == 1 else 'Examples'}:\n")
            formatter.write("".join(f"  {line}\n" for line in lines))

    def _write_options(self, ctx: Context, formatter: HelpFormatter) -> None:
        groups: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):  # type: ignore[attr-defined]
            record = param.get_help_record(ctx)
            if record is None:
                continue
            if param.param_type_name == "argument":
                record = (_argument(param), getattr(param, "help", None) or "")
            default = "Arguments" if param.param_type_name == "argument" else "Options"
            groups.setdefault(param.rich_help_panel or default, []).append(record)
        groups = {**{k: v for k, v in groups.items() if k != OTHER}, OTHER: groups.get(OTHER, [])}
        for heading, records in groups.items():
            if records:
                with formatter.section(heading):
                    formatter.write_dl(records)


def _argument(param: Parameter) -> str:
    """An argument as the usage line and the help name it."""
    name = (param.metavar or param.name.upper()) + ("..." if param.nargs == -1 else "")
    return name if param.required else f"[{name}]"


def _show_help(ctx: Context, param: Parameter, given: bool) -> None:
    if given and not ctx.resilient_parsing:
        environment(ctx).write(ctx.get_help() + "\n")
        ctx.exit()


class Command(_PlainHelp, TyperCommand):
    """One command."""

    def __init__(self, name: str | None, **settings: Any) -> None:
        super().__init__(name, **settings)
        self.context_settings.setdefault("help_option_names", ["-h", "--help"])
        self.params.extend(house_options())
        make_light(self.params)

    def parse_args(self, ctx: Context, args: list[str]) -> list[str]:
        """Parse; a complaint of the parser itself is told which command it is about."""
        try:
            return super().parse_args(ctx, args)
        except TyperException as error:
            error.ctx = getattr(error, "ctx", None) or ctx  # type: ignore[attr-defined]
            raise

    def format_options(self, ctx: Context, formatter: HelpFormatter) -> None:
        """Options under the headings that their `rich_help_panel` names."""
        self._write_options(ctx, formatter)


class Group(_PlainHelp, TyperGroup):
    """A command of commands; called bare it prints its help."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        make_light(self.params)

    def parse_args(self, ctx: Context, args: list[str]) -> list[str]:
        """Bare, where a subcommand is needed: the help, and success."""
        if not args and self.no_args_is_help and not ctx.resilient_parsing:
            environment(ctx).write(ctx.get_help() + "\n")
            ctx.exit()
        return super().parse_args(ctx, args)

    def resolve_command(
        self, ctx: Context, args: list[str]
    ) -> tuple[str | None, AnyCommand | None, list[str]]:
        """The command that the first word names; an unknown one is a usage error with a suggestion."""
        command = self.get_command(ctx, args[0])
        if command is None and args[0] == "help":  # `llm help models pull`, as other programs have it
            rest = [word for word in args if word not in ("help", "--help", "-h")]
            if rest:
                return self.resolve_command(ctx, [*rest, "--help"])
            environment(ctx).write(ctx.get_help() + "\n")
            ctx.exit()
        if command is None:
            raise self.unknown_command(ctx, args[0])
        return args[0], command, args[1:]

    def unknown_command(self, ctx: Context, name: str) -> UsageError:
        """What to say of a command that there is not, with the nearest."""
        from llmcli.registry import nearest

        if name.startswith("-"):
            return UsageError(f"no such option: {name}", hint=f"see {ctx.command_path} --help")
        close = nearest(name, self.list_commands(ctx))
        remedy = f"did you mean {close}?" if close else f"{ctx.command_path} --help lists the commands"
        return UsageError(f"no command {name!r}", hint=remedy)

    def format_options(self, ctx: Context, formatter: HelpFormatter) -> None:
        """The subcommands, then the options."""
        self.format_commands(ctx, formatter)
        self._write_options(ctx, formatter)
