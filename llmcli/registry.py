"""
Find a template by its name: the project's folder, the user's, the built-in ones.

A template is one YAML file and its name is the file's name: `prompts/title.yaml`
is `llm title`. Nothing here parses YAML: a listing reads first lines only, so
`llm --help` stays fast and a broken file breaks nothing but itself.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal, NamedTuple

from llmcli.errors import UsageError
from llmcli.paths import config_dir, shipped

Source = Literal["project", "user", "built in"]

NAME = re.compile(r"[A-Za-z0-9._][A-Za-z0-9._-]{0,63}")
NAME_RULE = "letters (a to z), digits, dot, _ and - (not first), at most 64"
SUFFIX = ".yaml"

# Commands that are not templates; a template of that name could never be called.
RESERVED = frozenset({"complete", "models", "prompts", "history", "config", "doctor", "completion", "eval"})

_FIRST_LINES = 4096  # bytes read for a listing: comments and one `help:` line


class Found(NamedTuple):  # not a Struct: `llm --help` imports this, and msgspec would be a tenth of its time
    """A template's file; `shadows` says that it hides one of the same name further down the search order."""

    name: str
    path: Path
    source: Source
    shadows: bool = False


def find_template(name: str, cwd: Path) -> Found:
    """
    The file of a template; the project's folder wins, then the user's, then the built-in ones.

    Raises UsageError with the nearest name for one that does not exist.
    """
    if NAME.fullmatch(name) is None:
        raise UsageError(
            f"{name!r} is not a template name",
            hint=NAME_RULE,
        )
    places = [
        (source, path)
        for source, folder in folders(cwd)
        if (path := _inside(folder, name + SUFFIX, source)) is not None
    ]
    if not places:
        known = [found.name for found in list_templates(cwd)]
        close = nearest(name, known)
        raise UsageError(
            f"no template is called {name!r}",
            hint=f"did you mean {close!r}?" if close else f"there are {', '.join(known)}",
        )
    return _winner(name, places)


def list_templates(cwd: Path) -> list[Found]:
    """Every template that can be called from here, one per name, by name."""
    places: dict[str, list[tuple[Source, Path]]] = {}
    for source, folder in folders(cwd):
        for path in _templates_in(folder, source):
            places.setdefault(path.name[: -len(SUFFIX)], []).append((source, path))
    return [_winner(name, places[name]) for name in sorted(places)]


def folders(cwd: Path) -> tuple[tuple[Source, Path], ...]:
    """Where templates are looked for, in this order."""
    return (
        ("project", cwd / "prompts"),
        ("user", config_dir() / "prompts"),
        ("built in", shipped("prompts")),
    )


def help_line(path: Path) -> str:
    """
    What a template says of itself, from its first line `help: …`, without a YAML parser.

    Empty when the file cannot be read or begins otherwise; `load_template` says why.
    """
    try:
        with path.open("rb") as file:
            start = file.read(_FIRST_LINES).decode("utf-8", errors="replace").removeprefix("\ufeff")
    except OSError:
        return ""
    for line in start.splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        return _unquoted(line.removeprefix("help:").strip()) if line.startswith("help:") else ""
    return ""


def nearest(word: str, choices: Iterable[str]) -> str | None:
    """
    The choice that was probably meant, in small letters or large.

    >>> nearest("sumarize", ["summarize", "title"]), nearest("TITLE", ["summarize", "title"])
    ('summarize', 'title')
    """
    from difflib import get_close_matches  # only an error needs it

    by_letters = {choice.casefold(): choice for choice in choices}
    close = get_close_matches(word.casefold(), list(by_letters), n=1, cutoff=0.6)
    return by_letters[close[0]] if close else None


def _winner(name: str, places: list[tuple[Source, Path]]) -> Found:
    """The first place; a copy of the built-in template counts as that: a checkout of llm has ./prompts."""
    source, path = places[0]
    last_source, last_path = places[-1]
    if last_source == "built in" and len(places) > 1 and _same(path, last_path):
        return Found(name, path, "built in")
    return Found(name, path, source, shadows=len(places) > 1)


def _same(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other) or one.read_bytes() == other.read_bytes()
    except OSError:
        return False


def _templates_in(folder: Path, source: Source) -> Iterator[Path]:
    return (path for path, why_not in _looked_at(folder, source) if not why_not)


def left_out(cwd: Path) -> Iterator[tuple[Source, Path, str]]:
    """What looks like a template in the project's and the user's folder and is none, with the reason."""
    for source, folder in folders(cwd)[:-1]:
        for path, why_not in _looked_at(folder, source):
            if why_not:
                yield source, path, why_not


def _looked_at(folder: Path, source: Source) -> Iterator[tuple[Path, str]]:
    """What looks like a template in a folder, each with the reason why it is none; "" where it is one."""
    try:
        paths = sorted(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        yield folder, f"cannot be read: {error.strerror}"
        return
    for path in paths:
        if path.suffix == ".yml":
            yield path, f"name it {path.stem}{SUFFIX}"
        elif not path.name.endswith(SUFFIX):
            continue
        elif not NAME.fullmatch(path.name[: -len(SUFFIX)]):
            yield path, f"its name is none for a template: {NAME_RULE}"
        elif not _inside(folder, path.name, source):
            yield path, "no file, or a link that leads nowhere or out of the project's folder"
        else:
            yield path, ""


def _inside(folder: Path, name: str, source: Source) -> Path | None:
    """
    The regular file `name` in `folder`.

    A project's folder may be a stranger's: a link there that leads outside is not followed. In the
    user's own folder links are welcome (dotfiles are kept that way).
    """
    path = folder / name
    try:
        if not path.is_file():
            return None
        if source == "project" and path.is_symlink() and folder.resolve() not in path.resolve().parents:
            return None
    except OSError:
        return None
    return path


def _unquoted(text: str) -> str:
    if len(text) >= 2 and text[0] == text[-1] and text[0] in "'\"":
        return text[1:-1].replace("''", "'") if text[0] == "'" else text[1:-1].replace('\\"', '"')
    return "" if text[:1] in ("|", ">") else text.split(" #")[0].strip()
