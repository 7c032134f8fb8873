"""
YAML as templates read it: small, plain, and every value with its line.

Plain means the JSON-like core of YAML 1.2: `no` and `yes` are texts, so `labels: [yes, no]` is what it
looks like. Anchors, aliases, tags, deep nesting and more than 64 kB are refused before anything is built.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import yaml
from msgspec import Struct
from yaml.constructor import SafeConstructor
from yaml.representer import SafeRepresenter

BYTES = 64 * 1024
DEPTH = 16

_CORE = {
    "null": re.compile(r"(?:~|null|Null|NULL|)\Z"),
    "bool": re.compile(r"(?:true|True|TRUE|false|False|FALSE)\Z"),
    "int": re.compile(r"[-+]?(?:0|[1-9][0-9]*)\Z"),
    "float": re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+\.[0-9]*|[0-9]+(?=[eE]))(?:[eE][-+]?[0-9]+)?\Z"),
}


class Problem(Struct, frozen=True):
    """Something wrong with a template; `line` counts from 1, None where there is no file."""

    line: int | None
    message: str


class Refused(Exception):
    """A text that is no YAML, or more YAML than a template may hold."""

    def __init__(self, line: int | None, message: str) -> None:
        super().__init__(message)
        self.problem = Problem(line, message)


class _Loader(yaml.SafeLoader):
    """SafeLoader with the core types of YAML 1.2 only."""

    yaml_implicit_resolvers: dict[Any, Any] = {}  # noqa: RUF012 - as PyYAML declares it


# libyaml's parser where PyYAML was built with it: five times as fast, and nothing is built by it here.
_Events = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

for _tag, _pattern in _CORE.items():
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", _pattern, None)


def compose(data: bytes) -> yaml.Node:
    """
    The document's root node.

    Raises Refused.
    """
    if len(data) > BYTES:
        raise Refused(None, f"larger than {BYTES // 1024} kB, which is no template")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise Refused(data[: error.start].count(b"\n") + 1, "not UTF-8 text") from error
    try:
        _refuse_tricks(text)
        node: yaml.Node | None = _Loader(text).get_single_node()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise Refused(mark.line + 1 if mark else None, f"not YAML: {_words(error)}") from error
    except yaml.reader.ReaderError as error:
        line = text[: error.position].count("\n") + 1
        raise Refused(line, "not YAML: a control character") from error
    if node is None:
        raise Refused(1, "empty")
    return node


def node_of(value: Mapping[str, Any]) -> yaml.Node:
    """The node for a mapping that was read elsewhere; it has no lines."""
    node: yaml.Node = SafeRepresenter().represent_data(_plain(value))
    return node


def value_of(node: yaml.Node) -> Any:
    """The node as Python: dict, list, str, int, float, bool or None."""
    return SafeConstructor().construct_document(node)


def line_of(node: yaml.Node) -> int | None:
    """The line on which a node begins."""
    return node.start_mark.line + 1 if node.start_mark else None


def text_line(node: yaml.ScalarNode) -> int | None:
    """The line of the file on which the first line of a node's text stands."""
    start = line_of(node)
    return start + 1 if start is not None and node.style in ("|", ">") else start


def _refuse_tricks(text: str) -> None:
    depth = 0
    for event in yaml.parse(text, Loader=_Events):
        line = event.start_mark.line + 1 if event.start_mark else None
        if getattr(event, "anchor", None) is not None:  # an alias has one too
            raise Refused(line, "no anchors and aliases (& and *) in a template; quote a text that begins so")
        if (tag := getattr(event, "tag", None)) is not None:
            raise Refused(line, f"no tags in a template, such as {tag}")
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > DEPTH:
            raise Refused(line, "nested too deep")


def _words(error: yaml.MarkedYAMLError) -> str:
    return " ".join(part for part in (error.context, error.problem) if part)


def _plain(value: Any) -> Any:
    """The same value in dicts and lists, which is all that YAML's representer knows."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value
