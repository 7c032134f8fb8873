"""
Read a small YAML file strictly, and remember the line of everything in it.

Plain data only: no tags, no anchors or aliases (a few lines of them can unfold to gigabytes), no key
twice, at most 64 kB. Knows nothing of what the file means; `Document.line` lets its reader name
the place of what is wrong.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from msgspec import Struct

from llmcli.errors import BadConfig, from_os_error

LIMIT = 64 << 10
DEPTH = 20

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_PLAIN = ("str", "int", "float", "bool", "null", "map", "seq")
_TAGS = frozenset(f"tag:yaml.org,2002:{name}" for name in _PLAIN)

Place = tuple[str | int, ...]


class Document(Struct, frozen=True):
    """A file's data, and the line (from 1) on which each part of it begins."""

    path: Path
    data: Any
    lines: dict[Place, int]

    def line(self, place: Place) -> int:
        """The line of a part, or of what encloses it where the part is not there."""
        while place and place not in self.lines:
            place = place[:-1]
        return self.lines.get(place, 1)

    def error(self, place: Place, what: str, hint: str = "") -> BadConfig:
        """A BadConfig that names file and line."""
        return BadConfig(f"{self.path}:{self.line(place)}: {what}", hint=hint)


def read(path: Path) -> Document:
    """
    Read a file; BadConfig names file and line of what is wrong with it, MissingInput where it is not there.

    An empty file is an empty mapping.
    """
    try:
        with path.open("rb") as file:
            data = file.read(LIMIT + 1)
    except OSError as error:
        raise from_os_error(error, f"read {path}") from error
    if len(data) > LIMIT:
        raise BadConfig(f"{path} is larger than {LIMIT >> 10} kB")
    try:
        return parse(data.decode("utf-8-sig"), path)
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise BadConfig(f"{path}:{line}: not UTF-8") from error


def parse(text: str, path: Path) -> Document:
    """
    Read a text as `read` reads a file; `path` is for the messages.

    >>> parse("a: 1\\nb: [x]", Path("f.yaml")).lines[("b", 0)]
    2
    """
    lines: dict[Place, int] = {}
    try:
        loader = _Loader(text)
        try:
            _refuse_tricks(text, path)  # first: libyaml's composer recurses in C, and dies of deep nesting
            node = loader.get_single_node()
            value = _build(loader, node, (), lines, path) if node is not None else {}
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark is not None else 1
        raise BadConfig(f"{path}:{line}: {error.problem or 'not YAML'}") from error
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise BadConfig(f"{path}: not YAML: {' '.join(str(error).split())}") from error
    return Document(path, value, lines)


def _refuse_tricks(text: str, path: Path) -> None:
    depth = 0
    for event in yaml.parse(text, Loader=_Loader):
        line = event.start_mark.line + 1 if event.start_mark is not None else 1
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise BadConfig(f"{path}:{line}: anchors and aliases are not read")
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > DEPTH:
            raise BadConfig(f"{path}:{line}: nested deeper than {DEPTH}")


def _build(loader: Any, node: Any, place: Place, lines: dict[Place, int], path: Path) -> Any:
    line = node.start_mark.line + 1
    lines.setdefault(place, line)  # a mapping's value: the line of its key stands already
    if len(place) > DEPTH:
        raise BadConfig(f"{path}:{line}: nested deeper than {DEPTH}")
    if node.tag not in _TAGS:
        if node.tag == "tag:yaml.org,2002:timestamp":
            return node.value  # a date stays the words it was written in
        raise BadConfig(f"{path}:{line}: the tag {node.tag} is not read", hint="plain YAML only")
    if isinstance(node, yaml.MappingNode):
        return dict(_pairs(loader, node, place, lines, path))
    if isinstance(node, yaml.SequenceNode):
        return [_build(loader, item, (*place, index), lines, path) for index, item in enumerate(node.value)]
    return loader.construct_object(node)


def _pairs(
    loader: Any, node: Any, place: Place, lines: dict[Place, int], path: Path
) -> Iterator[tuple[str, Any]]:
    seen: set[str] = set()
    for key_node, value_node in node.value:
        line = key_node.start_mark.line + 1
        if not isinstance(key_node, yaml.ScalarNode):
            raise BadConfig(f"{path}:{line}: a key must be a word")
        key = key_node.value
        if key in seen:
            raise BadConfig(f"{path}:{line}: {key!r} stands there twice")
        seen.add(key)
        inner = (*place, key)
        lines[inner] = line
        yield key, _build(loader, value_node, inner, lines, path)
