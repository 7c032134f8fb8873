"""
The user's settings: one `config.yaml`, each key also as an environment variable.

LLMCLI_<KEY> wins over config.yaml, which wins over the defaults below. A key that is not known is
refused with the nearest one that is. Options of the command line win over all of this;
they are the cli's business.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args, get_type_hints

import msgspec
from msgspec import Struct

from llmcli import paths
from llmcli.errors import BadConfig, UsageError, from_os_error
from llmcli.kv_types import KvType
from llmcli.registry import nearest

if TYPE_CHECKING:
    from llmcli.strict_yaml import Document

PREFIX = "LLMCLI_"
SPOKEN = {"yes": True, "on": True, "true": True, "no": False, "off": False, "false": False}


class Config(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """
    Every setting there is, with its default; None means "choose well for this machine".

    The comment beside a field is its help in `llm config show`.
    """

    model: str = "starter"
    threads: int | None = None
    gpu_layers: int | Literal["auto", "all"] = "auto"
    context: int | None = None
    parallel: int | None = None
    kv_type: KvType | None = None
    flash_attention: bool | None = None
    prefix_cache: int = 1000
    log: bool = True
    log_commands: bool = False
    editing_mode: Literal["emacs", "vi"] = "emacs"
    theme: Literal["auto", "dark", "light", "none"] = "auto"
    offline: bool = False


HELP: dict[str, str] = {
    "model": "the model that answers: a name, a .gguf file, hf:owner/repo:quant, or server:URL#name",
    "threads": "processor threads",
    "gpu_layers": "layers on the GPU: a number, auto (all that fit) or all",
    "context": "context window, in tokens",
    "parallel": "texts that are worked on together",
    "kv_type": "number format of the KV cache: f16, or q8_0 for half the memory",
    "flash_attention": "flash attention, yes or no; unset, wherever it is the faster",
    "prefix_cache": "MB on disk for what templates put before a text, evaluated once; 0 for none",
    "log": "keep the history of chats",
    "log_commands": "keep in the history what text commands are asked and answer, as --log does",
    "editing_mode": "keys of the chat's prompt: emacs or vi",
    "theme": "colours: auto, dark, light or none",
    "offline": "never use the network",
}
YES_OR_NO = (bool, bool | None)
AT_LEAST_ONE = frozenset({"threads", "context", "parallel"})
LARGEST = {
    "prefix_cache": 10**9,
    "threads": 1024,
    "parallel": 256,
    "context": 2**31 - 1,
    "gpu_layers": 2**31 - 1,
}


class Setting(Struct, frozen=True):
    """One key's value and where it comes from: "default", the file's path, or the variable's name."""

    key: str
    value: Any
    source: str


def config_path() -> Path:
    """Where config.yaml is, or would be."""
    return paths.config_dir() / "config.yaml"


def load(environ: Mapping[str, str] | None = None) -> Config:
    """The settings as they hold now; BadConfig (78) names the file and line, or the variable."""
    return Config(**{setting.key: setting.value for setting in settings(environ)})


def settings(environ: Mapping[str, str] | None = None) -> list[Setting]:
    """Every setting with its source, in the order of `Config`."""
    environ = os.environ if environ is None else environ
    path = config_path()
    filed = _from_file(path)
    found = []
    for field in msgspec.structs.fields(Config):
        key, variable = field.name, variable_of(field.name)
        if environ.get(variable):
            found.append(Setting(key, _from_words(key, environ[variable], variable), variable))
        elif key in filed:
            found.append(Setting(key, filed[key], str(path)))
        else:
            found.append(Setting(key, field.default, "default"))
    return found


def variable_of(key: str) -> str:
    """
    The environment variable of a key.

    >>> variable_of("gpu_layers")
    'LLMCLI_GPU_LAYERS'
    """
    return PREFIX + key.upper()


def set_value(key: str, words: str) -> Any:
    """
    Write one key to config.yaml, leaving the rest of the file as it is; gives the value.

    UsageError for a key or value that would be refused, BadConfig where the file is broken already.
    """
    check_key(key)
    try:
        value = _from_words(key, words, key)
    except BadConfig as error:
        raise UsageError(error.message, hint=error.hint) from error
    _rewrite(key, f"{key}: {_as_yaml(value)}\n")
    return value


def unset(key: str) -> None:
    """Take a key out of config.yaml, so that its default holds again."""
    check_key(key)
    _rewrite(key, "")


def check_key(key: str) -> None:
    """UsageError for a setting that there is not, with the nearest."""
    if key not in HELP:
        close = nearest(key, HELP)
        hint = f"did you mean {close}?" if close else f"there are {', '.join(HELP)}"
        raise UsageError(f"no setting is called {key!r}", hint=hint)


def as_words(value: Any) -> str:
    """
    A value as `set_value` takes it; empty for None.

    >>> as_words(True), as_words(8), as_words(None)
    ('yes', '8', '')
    """
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "" if value is None else str(value)


def _from_file(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    from llmcli import strict_yaml  # 15 ms that most users' first runs do not need

    return _checked(strict_yaml.read(path))


def _checked(document: Document) -> dict[str, Any]:
    if not isinstance(document.data, dict):
        raise document.error((), "settings are lines of the form `key: value`")
    values = dict(document.data)
    for key, value in document.data.items():
        if key not in HELP:
            close = nearest(key, HELP)
            hint = f"did you mean {close}?" if close else f"there are {', '.join(HELP)}"
            raise document.error((key,), f"unknown key {key!r}", hint=hint)
        if get_type_hints(Config)[key] is bool and isinstance(value, str):
            value = values[key] = SPOKEN.get(value.lower(), value)
        problem = _problem(key, value)
        if problem:
            raise document.error((key,), f"{key}: {problem}")
    return values


def _problem(key: str, value: Any) -> str | None:
    """What is wrong with a value of the right key, or None."""
    try:
        msgspec.convert(value, get_type_hints(Config)[key])
    except msgspec.ValidationError:
        return f"not {_kind(key)}: {value!r}"
    if value == "":
        return "nothing is given"
    if key in AT_LEAST_ONE and value is not None and value < 1:
        return f"{value} is below 1"
    if key in ("gpu_layers", "prefix_cache") and isinstance(value, int) and value < 0:
        return f"{value} is below 0"
    if isinstance(value, int) and value > LARGEST.get(key, value):
        return f"{value} is above {LARGEST[key]}"
    return None


def _kind(key: str) -> str:
    """What a setting's value must be, in words."""
    kind = get_type_hints(Config)[key]
    choices = [word for part in (kind, *get_args(kind)) for word in get_args(part) if isinstance(word, str)]
    words: dict[Any, str] = {str: "a word", "gpu_layers": "a number, auto or all"}
    said = words.get(key) or words.get(kind) or ("yes or no" if kind in YES_OR_NO else "")
    return said or (f"one of {', '.join(choices)}" if choices else "a whole number")


def _from_words(key: str, words: str, source: str) -> Any:
    """A value from an environment variable or a command line."""
    kind = get_type_hints(Config)[key]
    words = words.strip()
    try:
        value = msgspec.convert(
            SPOKEN.get(words.lower(), words) if kind in YES_OR_NO else words, kind, strict=False
        )
    except msgspec.ValidationError as error:
        raise BadConfig(f"{source}: not {_kind(key)}: {words!r}", hint=HELP[key]) from error
    problem = _problem(key, value) or ""
    if problem:
        raise BadConfig(f"{source}: {problem}", hint=HELP[key])
    return value


def _as_yaml(value: Any) -> str:
    """
    One value on one line; a JSON text is YAML too.

    >>> _as_yaml("on")
    '"on"'
    """
    if isinstance(value, str) and re.fullmatch(r"[A-Za-z][A-Za-z0-9._/-]*", value) and value.lower() not in (
        *SPOKEN, "null", "y", "n"
    ):  # fmt: skip
        return value
    try:
        return msgspec.json.encode(value).decode()
    except UnicodeEncodeError as error:
        raise UsageError("the value is not UTF-8", hint="rename the file or folder that it names") from error


def _rewrite(key: str, line: str) -> None:
    """Replace, add or drop one line of config.yaml; comments and order stay."""
    from llmcli import strict_yaml
    from llmcli.atomic import write_atomically

    path = config_path()
    try:
        old = path.read_bytes().decode("utf-8-sig") if path.exists() else ""
        kept = [text for text in old.splitlines(keepends=True) if not re.match(rf"{key}\s*:", text)]
        if kept and not kept[-1].endswith("\n"):
            kept[-1] += "\n"
        place = next(
            (i for i, text in enumerate(old.splitlines()) if re.match(rf"{key}\s*:", text)), len(kept)
        )
        new = "".join([*kept[:place], line, *kept[place:]])
        written = _checked(strict_yaml.parse(new, path))
        wanted = _checked(strict_yaml.parse(line, path)) if line else {}
        if written.get(key) != wanted.get(key):
            raise BadConfig(
                f"{path}: the old value of {key} has not a line of its own", hint="edit the file by hand"
            )
        paths.make_private(path.parent)
        write_atomically(path, new.encode(), durable=True)
    except UnicodeDecodeError as error:
        raise BadConfig(f"{path} is not UTF-8 text", hint="edit the file by hand") from error
    except OSError as error:
        raise from_os_error(error, f"write {path}") from error
