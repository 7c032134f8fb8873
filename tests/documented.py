"""What a Markdown page shows: its files, and its commands with their output."""

from __future__ import annotations

import re
from collections.abc import Iterator

NOT_CHECKED = "output not checked here"

_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_FILE = re.compile(r"# file: (\S+)\n")


def section(page: str, title: str) -> str:
    """The part of a page under a heading of the second level."""
    return page.split(f"\n## {title}\n")[1].split("\n## ")[0]


def files(page: str) -> dict[str, str]:
    """The blocks that begin with `# file: NAME`, by name."""
    blocks = (text for _, text in _BLOCK.findall(page))
    return {name[1]: text[name.end() :] for text in blocks if (name := _FILE.match(text))}


def commands(page: str) -> list[tuple[str, str]]:
    """Each `$ command` of the console blocks that is to be run, with the output shown under it."""
    shown = (pair for kind, text in _BLOCK.findall(page) if kind == "console" for pair in _pairs(text))
    return [pair for pair in shown if NOT_CHECKED not in pair[0]]


def _pairs(text: str) -> Iterator[tuple[str, str]]:
    for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        command, _, output = part.partition("\n")
        yield command, output
