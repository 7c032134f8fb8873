"""
YAML as every file of ours is read: small, plain, strict, and everything in it with its line.

Plain means the JSON-like core of YAML 1.2: `no` and `yes` are texts, so `labels: [yes, no]` is what it looks
like. Anchors and aliases (a few lines of them can unfold to gigabytes), tags, deep nesting and more than
64 kB are refused before anything is built, and no key may be given twice.

`read` and `parse` give a file's data and stop at the first mistake. `compose` gives its nodes, for a reader
that wants to name everything that is wrong. What a file means is its reader's business.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from msgspec import Struct
from yaml.constructor import SafeConstructor
from yaml.representer import SafeRepresenter

from llmcli.errors import BadConfig, from_os_error

LIMIT = 64 << 10  # bytes
DEPTH = 20

_CORE = {
    "null": re.compile(r"(?:~|null|Null|NULL|)\Z"),
    "bool": re.compile(r"(?:true|True|TRUE|false|False|FALSE)\Z"),
    "int": re.compile(r"[-+]?(?:0|[1-9][0-9]*)\Z"),
    "float": re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+\.[0-9]*|[0-9]+(?=[eE]))(?:[eE][-+]?[0-9]+)?\Z"),
}

Place = tuple[str | int, ...]


class Refused(Exception):
    """A text that is no YAML, or more YAML than is read; `line` counts from 1, None for all of it."""

    def __init__(self, line: int | None, message: str) -> None:
        super().__init__(message)
        self.line = line
        self.message = message


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
    return _document(load(path), path)


def parse(text: str, path: Path) -> Document:
    """
    Read a text as `read` reads a file; `path` is for the messages.

    >>> parse("a: 1\\nb: [x]", Path("f.yaml")).lines[("b", 0)]
    2
    """
    return _document(text.encode(), path)


def load(path: Path) -> bytes:
    """A file's bytes, one more than are read at the most. Raises MissingInput, PermissionRefused."""
    try:
        with path.open("rb") as file:
            return file.read(LIMIT + 1)
    except OSError as error:
        raise from_os_error(error, f"read {path}") from error


def _document(data: bytes, path: Path) -> Document:
    lines: dict[Place, int] = {}
    try:
        node = compose(data)
        value = {} if node is None else _build(node, (), lines)
    except Refused as refused:
        where = f"{path}:{refused.line}" if refused.line else str(path)
        raise BadConfig(f"{where}: {refused.message}") from refused
    return Document(path, value, lines)


# ------------------------------------------------------------------ nodes


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]  # C where PyYAML has it
    """SafeLoader with the core types of YAML 1.2 only."""

    yaml_implicit_resolvers: dict[Any, Any] = {}  # noqa: RUF012 - as PyYAML declares it


for _tag, _pattern in _CORE.items():
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", _pattern, None)


def compose(data: bytes) -> yaml.Node | None:
    """The root node of a text, None where it is empty. Raises Refused."""
    if len(data) > LIMIT:
        raise Refused(None, f"larger than {LIMIT >> 10} kB")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise Refused(data[: error.start].count(b"\n") + 1, "not UTF-8 text") from error
    try:
        _refuse_tricks(text)  # first: libyaml's composer recurses in C, and dies of deep nesting
        loader = _Loader(text)
        try:
            node: yaml.Node | None = loader.get_single_node()
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        words = " ".join(part for part in (error.context, error.problem) if part)
        raise Refused(mark.line + 1 if mark else None, f"not YAML: {words}") from error
    except yaml.reader.ReaderError as error:
        line = text.encode()[: error.position].count(b"\n") + 1
        raise Refused(line, "not YAML: a control character") from error
    return node


def value_of(node: yaml.Node) -> Any:
    """The node as Python: dict, list, str, int, float, bool or None. Raises Refused."""
    return _build(node, (), {})


def node_of(value: Mapping[str, Any]) -> yaml.Node:
    """The node for a mapping that was read elsewhere; it has no lines."""
    node: yaml.Node = SafeRepresenter().represent_data(_plain(value))
    return node


def line_of(node: yaml.Node) -> int | None:
    """The line on which a node begins."""
    return node.start_mark.line + 1 if node.start_mark else None


def text_line(node: yaml.ScalarNode) -> int | None:
    """The line of the file on which the first line of a node's text stands."""
    start = line_of(node)
    return start + 1 if start is not None and node.style in ("|", ">") else start


def _refuse_tricks(text: str) -> None:
    depth = 0
    for event in yaml.parse(text, Loader=_Loader):
        line = event.start_mark.line + 1 if event.start_mark else None
        if getattr(event, "anchor", None) is not None:  # an alias has one too
            raise Refused(line, "anchors and aliases (& and *) are not read; quote a text that begins so")
        if (tag := getattr(event, "tag", None)) is not None:
            raise Refused(line, f"the tag {tag} is not read")
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > DEPTH:
            raise Refused(line, f"nested deeper than {DEPTH}")


def _build(node: yaml.Node, place: Place, lines: dict[Place, int]) -> Any:
    """A node's value; `lines` gets the line of each of its parts."""
    lines.setdefault(place, line_of(node) or 1)  # a mapping's value: the line of its key stands already
    if isinstance(node, yaml.SequenceNode):
        return [_build(item, (*place, index), lines) for index, item in enumerate(node.value)]
    if isinstance(node, yaml.MappingNode):
        return _mapping(node, place, lines)
    try:
        return SafeConstructor().construct_document(node)
    except (yaml.YAMLError, ValueError) as error:  # a number of 5,000 digits, say
        raise Refused(line_of(node), f"cannot be read: {' '.join(str(error).split())}") from error


def _mapping(node: yaml.MappingNode, place: Place, lines: dict[Place, int]) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for key_node, value_node in node.value:
        if not isinstance(key_node, yaml.ScalarNode):
            raise Refused(line_of(key_node), "a key must be a plain word")
        key = str(key_node.value)
        if key in made:
            raise Refused(line_of(key_node), f"{key!r} is given twice")
        inner = (*place, key)
        lines[inner] = line_of(key_node) or 1
        made[key] = _build(value_node, inner, lines)
    return made


def _plain(value: Any) -> Any:
    """The same value in dicts and lists, which is all that YAML's representer knows."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value
