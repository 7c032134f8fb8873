"""`llm config`: show, find and change settings."""

from __future__ import annotations

from typing import Annotated

import typer

from llmcli import config
from llmcli.cli.door import Command, environment, new_app

app = new_app(
    "Show and change settings. Each is also an environment variable, which wins: LLMCLI_MODEL=…",
    example="""
    llm config show
    llm config set model qwen3-0.6b
    """,
)

Key = Annotated[str, typer.Argument(metavar="KEY", help="A setting's name.")]


@app.command("show", cls=Command, epilog="llm config show\nllm config show model")
def show(
    ctx: typer.Context,
    key: Annotated[str | None, typer.Argument(metavar="[KEY]", help="Only this one's value.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a setting.")] = False,
) -> None:
    """Show every setting, and where it comes from."""
    env = environment(ctx)
    found = config.settings(env.environ)
    if key is not None:
        config.check_key(key)
        found = [setting for setting in found if setting.key == key]
    if as_json:
        for one in found:
            record = {"key": one.key, "value": one.value, "source": one.source, "help": config.HELP[one.key]}
            env.write_json(record)
    elif key is not None:
        env.write(f"{config.as_words(found[0].value)}\n")
    else:
        rows = [(one.key, config.as_words(one.value), one.source, config.HELP[one.key]) for one in found]
        header = ("KEY", "VALUE", "FROM", "WHAT IT IS")
        env.write_table(header, rows)


@app.command("path", cls=Command, epilog='$EDITOR "$(llm config path)"')
def path(ctx: typer.Context) -> None:
    """Print where config.yaml is."""
    environment(ctx).write(f"{config.config_path()}\n")


@app.command("set", cls=Command, epilog="llm config set model qwen3-0.6b\nllm config set --unset model")
def set_setting(
    ctx: typer.Context,
    key: Key,
    value: Annotated[str | None, typer.Argument(metavar="VALUE", help="Its new value.")] = None,
    unset: Annotated[bool, typer.Option("--unset", help="Let the default hold again.")] = False,
) -> None:
    """Change a setting in config.yaml; comments stay."""
    from llmcli.errors import UsageError

    env = environment(ctx)
    if unset == (value is not None):
        raise UsageError("a value, or --unset", hint="llm config set model qwen3-0.6b")
    if value is None:
        config.unset(key)
    else:
        config.set_value(key, value)
    variable = config.variable_of(key)
    if env.environ.get(variable):
        env.warn(f"{variable} is set, and wins over it")
