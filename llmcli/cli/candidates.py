"""
What the shell offers at Tab. Called by the completion scripts, must answer in well under 100 ms.

So it imports next to nothing: commands, options, models and templates are read from a table in the
cache folder, which `candidates_table` writes (that takes the whole command line to be imported) and
which is good as long as the files that it names are unchanged. Prints one candidate a line, `value TAB
help`, and FILES where the shell's own completion of file names fits.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

from llmcli.folders import platform_folder

FILES = "\x01files"
TABLE_VERSION = 1

Table = dict[str, Any]
Pairs = list[tuple[str, str]]


def main() -> None:
    """`SHELL WORDS…`: the command line up to the cursor, the last word unfinished (bash: one text)."""
    try:
        found = answer(sys.argv[1], sys.argv[2:])
    except Exception:  # whatever is wrong, a completion is no place to say it
        return
    lines = [f"{value}\t{help}" if help and value != FILES else value for value, help in found]
    sys.stdout.write("".join(line + "\n" for line in lines))


def answer(shell: str, words: list[str]) -> Pairs:
    """The candidates as a shell wants them."""
    if shell != "bash":
        return candidates(words, load_table())
    words = split(words[0])
    # bash takes : and = for the ends of words and replaces only what follows them
    cut = max(words[-1].rfind(":"), words[-1].rfind("=")) + 1
    found = candidates(words, load_table())
    return [(value if value == FILES else value[cut:], help) for value, help in found]


def split(line: str) -> list[str]:
    """
    The words of a command line that is not finished, quotes removed; the last word may be empty.

    >>> split('llm ask "my fi'), split("llm ask ")
    (['llm', 'ask', 'my fi'], ['llm', 'ask', ''])
    """
    words, word, quote, begun, escaped = [], "", "", False, False
    for character in line:
        if escaped:
            word, escaped = word + character, False
        elif character == "\\" and quote != "'":
            escaped = begun = True
        elif quote:
            quote, word = ("", word) if character == quote else (quote, word + character)
        elif character in "'\"":
            quote, begun = character, True
        elif character.isspace():
            if word or begun:
                words.append(word)
            word, begun = "", False
        elif character in "|;&":
            words, word, begun = [], "", False  # another command begins
        else:
            word += character
    return [*words, word]


def candidates(words: list[str], table: Table) -> Pairs:
    """What may stand where the last word is."""
    *before, unfinished = words[1:] or [""]
    command, rest = _command(before, table["commands"])
    if command is None:
        return []
    option, equals, value = unfinished.partition("=")
    if equals and option.startswith("--"):
        kind = _option_kind(option, command)
        return [
            (item if item == FILES else f"{option}={item}", help)
            for item, help in _of_kind(kind, value, table)
        ]
    if rest and rest[-1].startswith("-") and (kind := _option_kind(rest[-1], command)):
        return _of_kind(kind, unfinished, table)
    if unfinished.startswith("-"):
        return _options(command, rest, unfinished)
    return _positional(command, rest, unfinished, table)


def _command(words: list[str], commands: dict[str, Any]) -> tuple[Any, list[str]]:
    """The command that the first words name, and the words after it."""
    command, rest = commands.get(""), words
    name = ""
    while rest and command and command["subcommands"]:
        if rest[0].startswith("-"):
            rest = rest[1:]
            continue
        name = f"{name} {rest[0]}".strip()
        command, rest = commands.get(name), rest[1:]
    return command, rest


def _option_kind(option: str, command: Any) -> str:
    """What follows an option: a kind of value, or nothing for a flag."""
    return next((one["takes"] for one in command["options"] if option in one["names"]), "")


def _options(command: Any, used: list[str], unfinished: str) -> Pairs:
    found = []
    for one in command["options"]:
        if not one["many"] and any(name in used for name in one["names"]):
            continue
        long = [name for name in one["names"] if name.startswith("--")] or one["names"]
        names = one["names"] if not unfinished.startswith("--") and len(unfinished) > 1 else long
        found += [(name, one["help"]) for name in names if name.startswith(unfinished)]
    return found


def _positional(command: Any, rest: list[str], unfinished: str, table: Table) -> Pairs:
    if command["subcommands"]:
        return [(name, help) for name, help in command["subcommands"] if name.startswith(unfinished)]
    place, skip = 0, False
    for word in rest:
        if skip:
            skip = False
        elif word.startswith("-") and word != "-":
            skip = "=" not in word and bool(_option_kind(word, command))
        else:
            place += 1
    kinds = command["arguments"]
    kind = kinds[min(place, len(kinds) - 1)] if kinds and (place < len(kinds) or command["repeats"]) else ""
    return _of_kind(kind, unfinished, table) or ([] if unfinished else _options(command, rest, ""))


def _of_kind(kind: str, unfinished: str, table: Table) -> Pairs:
    """The values of a kind that begin as typed; `a b` joins two kinds."""
    found: Pairs = []
    for one in kind.split():
        if one == "file":
            found.append((FILES, ""))
        elif one == "session":
            found += [pair for pair in _sessions() if pair[0].startswith(unfinished)]
        elif one.startswith("="):
            found += [(word, "") for word in one[1:].split("|") if word.startswith(unfinished)]
        else:
            found += [(value, help) for value, help in table.get(one, []) if value.startswith(unfinished)]
    return found


def _sessions() -> Pairs:
    """Conversations by name and number, the latest first; the file is only read."""
    import sqlite3

    data = os.environ.get("LLMCLI_DATA_DIR") or platform_folder(
        "XDG_DATA_HOME", ".local/share", "Application Support"
    )
    path = os.path.join(os.path.expanduser(data), "history.db")  # noqa: PTH111, PTH118  (pathlib takes 5 ms)
    if not os.path.exists(path):  # noqa: PTH110
        return []
    with sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=0.05) as db:
        rows = db.execute(
            "SELECT id, name, title FROM conversation ORDER BY updated DESC LIMIT 50"
        ).fetchall()
    found = [("last", "the latest")] if rows else []
    for id_, name, title in rows:
        found += [(name, title)] if name else []
        found.append((str(id_), title or name or ""))
    return [(value, " ".join(help.split())) for value, help in found]


# -- the table -----------------------------------------------------------------------


def table_path() -> str:
    """Where the table of this folder is: a project's own templates make it another."""
    cache = os.environ.get("LLMCLI_CACHE_DIR") or platform_folder("XDG_CACHE_HOME", ".cache", "Caches")
    project = os.path.join(os.getcwd(), "prompts")  # noqa: PTH118, PTH109
    name = "completion"
    if os.path.isdir(project):  # noqa: PTH112
        name += f"-{hash_of(project)}"
    return os.path.join(os.path.expanduser(cache), f"{name}.json")  # noqa: PTH111, PTH118


def hash_of(text: str) -> str:
    """A few letters that stand for a text, the same in every process."""
    value = 5381
    for byte in text.encode("utf-8", "surrogateescape"):
        value = (value * 33 + byte) & 0xFFFFFFFFFFFFFFFF
    return f"{value:x}"


def load_table() -> Table:
    """The table, made anew where something that it was made from has changed."""
    try:
        with open(table_path(), encoding="utf-8") as file:  # noqa: PTH123
            table: Table = json.load(file)
        if table["version"] == TABLE_VERSION and all(
            stamp(path) == time for path, time in table["made_from"]
        ):
            return table
    except (OSError, ValueError, KeyError, TypeError):
        pass
    from llmcli.cli.candidates_table import make_table

    return make_table()


def stamp(path: str) -> int | None:
    """A file's or folder's modification time, nanoseconds; None where it is not there."""
    try:
        return os.stat(path).st_mtime_ns  # noqa: PTH116
    except OSError:
        return None
