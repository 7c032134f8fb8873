"""
What the user added by hand: a small file of names and the places of their files.

`llm models add` and `pull URL` write here; models of the hub need no entry, their cache is looked at. The
files themselves stay where they are.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable
from pathlib import Path

import msgspec
from msgspec import Struct

from llmcli import paths
from llmcli.atomic import write_atomically
from llmcli.errors import BadConfig, UsageError, from_os_error
from llmcli.output.json_text import printable


class Installed(Struct, frozen=True):
    """
    One added model; `owned` files were downloaded by us into our folder, and `rm` deletes them.

    `sha256` is the file's, `later_sha256` those of a split model's other parts.
    """

    path: str
    sha256: str | None = None
    source: str = ""
    owned: bool = False
    later_sha256: tuple[str, ...] = ()


def folder() -> Path:
    """Where models fetched from a URL are kept."""
    return paths.data_dir() / "models"


def registry_file() -> Path:
    """The file of names."""
    return folder() / "installed.json"


def load() -> dict[str, Installed]:
    """Every added model by its name."""
    path = registry_file()
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, Installed])
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise from_os_error(error, f"read {path}") from error
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise BadConfig(f"{path} is damaged", hint="delete it, then add your models again") from error


def add(name: str, model: Installed) -> None:
    """Keep a name, over an older one of the same spelling. UsageError for a path that is not UTF-8."""
    if printable(model.path) != model.path:
        raise UsageError(f"the path {printable(model.path)} is not UTF-8", hint="rename the file or folder")
    _change(lambda known: known | {name: model})


def refuse_taken(name: str, path: Path) -> None:
    """UsageError where a name is another file's."""
    older = load().get(name)
    if older is not None and older.path != str(path):
        raise UsageError(f"{name} is the name of {older.path}", hint=f"llm models rm {name}, or --name")


def remove(name: str) -> None:
    """Forget a name; the file stays."""
    _change(lambda known: {key: model for key, model in known.items() if key != name})


def _change(change: Callable[[dict[str, Installed]], dict[str, Installed]]) -> None:
    """Read, change, write, with other processes kept out between."""
    try:
        paths.make_private(folder())
        lock = os.open(folder() / ".installed.lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            text = msgspec.json.format(msgspec.json.encode(change(load())), indent=2)
            write_atomically(registry_file(), text + b"\n", durable=True)
        finally:
            os.close(lock)
    except OSError as error:
        raise from_os_error(error, f"write {registry_file()}") from error
