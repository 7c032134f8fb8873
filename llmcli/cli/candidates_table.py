"""
The table that completion reads: commands, options, arguments, models, templates; see `candidates`.

Made from the real command line, so it cannot differ from it.
"""

from __future__ import annotations

import contextlib
import json
import re
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from llmcli import config, paths
from llmcli.atomic import write_atomically
from llmcli.cli.candidates import TABLE_VERSION, Table, stamp, table_path
from llmcli.cli.environment import from_system
from llmcli.cli.main import root
from llmcli.errors import LlmError
from llmcli.models import hub, installed
from llmcli.models.entries import entries, user_file
from llmcli.models.scan import scan
from llmcli.registry import folders, help_line, list_templates

# What a metavar stands for; of NAME the command decides.
KINDS = {
    "MODEL": "models file",
    "FILE": "file",
    "FILE[:SCALE]": "file",
    "CONVERSATION": "session",
    "CONVERSATION…": "session",
    "KEY": "settings",
    "[KEY]": "settings",
    "FILE|NAME": "templates file",
    "NAME|hf:OWNER/REPO[:QUANT]|URL": "known",
}
NAMES = {"models": "models file", "prompts": "templates"}
HELP = 60  # characters


def make_table() -> Table:
    """Make the table and keep it in the cache."""
    made_from = [[str(path), stamp(str(path))] for path in _sources()]
    table: Table = {
        "version": TABLE_VERSION,
        "made_from": made_from,
        "commands": _commands(),
        "settings": [[key, help] for key, help in config.HELP.items()],
        "templates": [[one.name, _short(help_line(one.path))] for one in list_templates(Path())],
        **_models(),
    }
    place = Path(table_path())
    with contextlib.suppress(OSError):
        paths.make_private(place.parent)
        write_atomically(place, json.dumps(table, ensure_ascii=False).encode())
    return table


def _sources() -> list[Path]:
    """The files and folders that the table is made from; each is looked at before each completion."""
    found = [paths.shipped("models.yaml"), user_file(), installed.registry_file(), hub.cache_folder()]
    found += [Path(__file__).parent, *(path for path in Path(__file__).parent.glob("*.py"))]
    for _, folder in folders(Path().absolute()):
        found.append(folder)
        with contextlib.suppress(OSError):
            found += sorted(folder.glob("*.yaml"))
    return found


def _models() -> dict[str, list[list[str]]]:
    """Models that can be used, and those that can be pulled."""
    from llmcli.models.resolve import find_entry

    try:
        known = entries()
        here = [[name, entry.parameters] for name, entry in known.items() if find_entry(entry) is not None]
        here += [[name, "yours"] for name in installed.load()]
        here += [[model.reference, model.quantisation] for model in scan()]
    except LlmError:
        return {"models": [], "known": []}
    about = {name: f"{entry.parameters} {entry.quantisation}".strip() for name, entry in known.items()}
    return {"models": here, "known": [[name, help] for name, help in about.items()]}


def _commands() -> dict[str, Any]:
    """Every command by its words (`models pull`), the program itself by none."""
    env = from_system()
    group = root()
    found: dict[str, Any] = {}
    with group.make_context("llm", [], obj=env, resilient_parsing=True) as ctx:
        listed = []
        for name in group.list_commands(ctx):
            try:
                command = group.get_command(ctx, name)
            except LlmError:  # a broken template hides itself only
                continue
            if command is None:
                continue
            inner = getattr(command, "commands", {})
            listed.append([name, _short(command.get_short_help_str(HELP))])
            found[name] = _described(command, name, [[one, _help(inner[one])] for one in inner])
            for one, subcommand in inner.items():
                found[f"{name} {one}"] = _described(subcommand, f"{name} {one}", [])
        found[""] = _described(group, "", listed)
    _add_names(found)
    return found


def _add_names(commands: dict[str, Any]) -> None:
    """Offer the short names that a template's parameter knows: `--to de`, `--to fr`."""
    from llmcli.templates import load_template

    for one in list_templates(Path()):
        try:
            names = {
                param.option: "=" + "|".join(param.names)
                for param in load_template(one).params
                if param.names
            }
        except LlmError:
            continue
        for option in commands.get(one.name, {}).get("options", []):
            option["takes"] = next(
                (names[name] for name in option["names"] if name in names), option["takes"]
            )


def _help(command: Any) -> str:
    return _short(command.get_short_help_str(HELP))


def _described(command: Any, name: str, subcommands: list[list[str]]) -> dict[str, Any]:
    options = [one for one in command.params if one.param_type_name == "option" and not one.hidden]
    arguments = [one for one in command.params if one.param_type_name == "argument"]
    help_option = {"names": ["--help", "-h"], "help": "Show this help.", "takes": "", "many": False}
    return {
        "subcommands": subcommands,
        "options": [_option(one, name) for one in options] + [help_option],
        "arguments": [_kind(one, name) for one in arguments],
        "repeats": any(one.nargs == -1 for one in arguments),
    }


def _option(param: Any, command: str) -> dict[str, Any]:
    names = [*param.opts, *param.secondary_opts]
    takes = "" if param.is_flag else _kind(param, command) or "text"
    return {"names": names, "help": _short(param.help or ""), "takes": takes, "many": bool(param.multiple)}


def _kind(param: Any, command: str) -> str:
    """What a value may be, in the words of `candidates._of_kind`."""
    annotation = getattr(getattr(param, "type_descriptor", None), "annotation", None)
    if get_origin(annotation) is Literal:
        return "=" + "|".join(map(str, get_args(annotation)))
    metavar = param.metavar or ""
    if param.name == "session":
        return "session"
    if metavar in KINDS:
        return KINDS[metavar]
    if "NAME" in metavar and param.param_type_name == "argument":
        return NAMES.get(command.split(" ")[0], "")
    words = [word for word in metavar.split("|") if re.fullmatch(r"[a-z0-9_-]+", word)]
    return "=" + "|".join(words) if "|" in metavar and words else ""


def _short(text: str) -> str:
    """A help text as one short line."""
    text = " ".join(text.split())
    return text if len(text) <= HELP else text[: HELP - 1] + "…"
