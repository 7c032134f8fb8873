"""
Read a JSON Schema: a dictionary in, nodes out that say what an answer looks like.

The supported part of JSON Schema is what the tables below name, and nothing else: every other
keyword is refused by its name and place, never passed over, for an answer that ignores half of its
schema looks like one that follows it. What is made of the nodes stands in schema.py.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

from llmcli.errors import BadConfig

MAX_DEPTH = 32
MAX_NODES = 2000
MAX_CHOICES = 512
MAX_PROPERTIES = 150
MAX_VALUES = 1000
MAX_VALUE_TEXT = 65_536  # characters of all values of an enum, as JSON
MAX_COUNT = 2000  # llama.cpp takes a higher bound for none (gbnf.MAX_REPEATS)


@dataclass(frozen=True)
class Simple:
    """A number, an integer, a boolean or null."""

    type: str


@dataclass(frozen=True)
class Text:
    """A string; lengths in characters, None is "no bound"."""

    least: int = 0
    most: int | None = None


@dataclass(frozen=True)
class Values:
    """One of some values; `texts` are the same as JSON."""

    values: tuple[Any, ...]
    texts: tuple[str, ...]


@dataclass(frozen=True)
class Array:
    """A list of like items."""

    item: Node
    least: int = 0
    most: int | None = None


@dataclass(frozen=True)
class Property:
    """A named member of an object."""

    name: str
    node: Node
    required: bool


@dataclass(frozen=True)
class Object:
    """Properties in the order in which they are written; `closed` allows no others."""

    properties: tuple[Property, ...]
    closed: bool


@dataclass(frozen=True)
class Choice:
    """One of some nodes; `one` allows only one of them to fit."""

    nodes: tuple[Node, ...]
    one: bool


@dataclass(eq=False)
class Definition:
    """A named part of the schema, read once; `node` is set when it has been read."""

    name: str
    nodes: list[Node] = field(default_factory=list)

    @property
    def node(self) -> Node:
        """What the name stands for."""
        return self.nodes[0]


Node = Simple | Text | Values | Array | Object | Choice | Definition


def read_schema(schema: Mapping[str, Any]) -> Node:
    """
    The nodes of a schema.

    Raises BadConfig, which names the keyword and its place, for everything outside the
    supported part and for what no answer could satisfy.

    >>> read_schema({"type": "string", "maxLength": 9})
    Text(least=0, most=9)
    >>> read_schema({"type": "string", "format": "email"})
    Traceback (most recent call last):
        ...
    llmcli.errors.BadConfig: schema: keyword 'format' at $ is not supported
    """
    return _Reader(schema).read(schema, "$", 0)


def step(place: str, key: str | int) -> str:
    """
    A place one step further in.

    >>> step("$.properties", "a"), step("$.properties", "a b"), step("$.items", 0)
    ('$.properties.a', '$.properties["a b"]', '$.items[0]')
    """
    if isinstance(key, int):
        return f"{place}[{key}]"
    plain = key.isascii() and key.replace("-", "_").isidentifier()
    return f"{place}.{key}" if plain else f"{place}[{json.dumps(key, ensure_ascii=False)}]"


_IGNORED = {"title", "description", "default", "examples", "$schema", "$id"}
_DEFINITIONS = ("$defs", "definitions")
_KEYWORDS = {
    "object": {"properties", "required", "additionalProperties"},
    "array": {"items", "minItems", "maxItems"},
    "string": {"minLength", "maxLength"},
    "number": set[str](),
    "integer": set[str](),
    "boolean": set[str](),
    "null": set[str](),
}
_FORMS = ("$ref", "anyOf", "oneOf", "enum", "const")
_KNOWN = {"type", *_FORMS, *set.union(*_KEYWORDS.values())}


def _refused(message: str, hint: str = "") -> BadConfig:
    return BadConfig(f"schema: {message}", hint)


class _Reader:
    def __init__(self, root: Any) -> None:
        self._root = root
        self._definitions: dict[str, Definition] = {}
        self._choices: dict[int, int] = {}  # id of a Choice or Definition → alternatives before a character
        self._count = 0

    def read(self, schema: Any, place: str, depth: int) -> Node:
        if not isinstance(schema, Mapping):
            raise _refused(f"{place} must be an object, not {json.dumps(schema, default=repr)[:40]}")
        self._count += 1
        if depth > MAX_DEPTH:
            raise _refused(f"{place[:60]}… is nested more than {MAX_DEPTH} deep")
        if self._count > MAX_NODES:
            raise _refused(f"more than {MAX_NODES:,} parts, at {place}")
        keywords = self._keywords(schema, place)
        form = next((name for name in _FORMS if name in keywords), None)
        if form in ("enum", "const"):
            return self._values(schema, form, keywords, place)
        if form is not None:
            self._alone(form, keywords, place)
            return (
                self._ref(schema, place, depth) if form == "$ref" else self._any(schema, form, place, depth)
            )
        return self._typed(schema, keywords, place, depth)

    def _keywords(self, schema: Mapping[str, Any], place: str) -> list[str]:
        ignored = _IGNORED | set(_DEFINITIONS) if place == "$" else _IGNORED
        keywords = [name for name in schema if name not in ignored]
        for name in keywords:
            if name not in _KNOWN:
                raise _refused(f"keyword {_shown(name)} at {place} is not supported")
        return keywords

    def _alone(self, form: str, keywords: list[str], place: str, beside: tuple[str, ...] = ()) -> None:
        for name in keywords:
            if name != form and name not in beside:
                raise _refused(f"keyword {_shown(name)} at {place} is not supported beside {form!r}")

    # One reader for each form.

    def _ref(self, schema: Mapping[str, Any], place: str, depth: int) -> Node:
        reference = schema["$ref"]
        name = _definition_name(reference)
        if name is None:
            raise _refused(
                f"$ref {_shown(reference)} at {place} is not supported",
                hint="only '#/$defs/NAME' and '#/definitions/NAME' are",
            )
        section, key = name
        if reference not in self._definitions:
            target = self._root.get(section)
            if not isinstance(target, Mapping) or key not in target:
                raise _refused(f"$ref {_shown(reference)} at {place} leads nowhere")
            self._definitions[reference] = Definition(key)
            node = self.read(target[key], step(step("$", section), key), depth + 1)
            self._definitions[reference].nodes.append(node)
        elif not self._definitions[reference].nodes:
            raise _refused(f"$ref {_shown(reference)} at {place} is recursive, which is not supported")
        return self._definitions[reference]

    def _any(self, schema: Mapping[str, Any], form: str, place: str, depth: int) -> Node:
        members = schema[form]
        if not isinstance(members, list) or not members:
            raise _refused(f"{form!r} at {place} must be a list of schemas")
        inside = step(place, form)
        nodes = [self.read(member, step(inside, n), depth + 1) for n, member in enumerate(members)]
        return self._choice(nodes, form == "oneOf", place)

    def _choice(self, nodes: list[Node], one: bool, place: str) -> Node:
        choice = Choice(tuple(nodes), one)
        total = sum(map(self._alternatives, nodes))
        if total > MAX_CHOICES:
            raise _refused(f"more than {MAX_CHOICES} alternatives at {place}")
        self._choices[id(choice)] = total
        return choice

    def _alternatives(self, node: Node) -> int:
        while isinstance(node, Definition):
            node = node.node
        return self._choices[id(node)] if isinstance(node, Choice) else 1

    def _values(self, schema: Mapping[str, Any], form: str, keywords: list[str], place: str) -> Node:
        self._alone(form, keywords, place, beside=("type",))
        values = [schema["const"]] if form == "const" else schema["enum"]
        if not isinstance(values, list) or not values:
            raise _refused(f"'enum' at {place} must be a list of values")
        texts = {_as_json(value, step(place, form)): value for value in values}
        if "type" in keywords:
            types = self._types(schema, place)
            texts = {text: value for text, value in texts.items() if any(is_type(value, t) for t in types)}
            if not texts:
                raise _refused(f"no value of {form!r} at {place} is of type {' or '.join(types)}")
        if len(texts) > MAX_VALUES or sum(map(len, texts)) > MAX_VALUE_TEXT:
            raise _refused(
                f"{form!r} at {place} is too large",
                hint=f"at most {MAX_VALUES:,} values of {MAX_VALUE_TEXT:,} characters together",
            )
        return Values(tuple(texts.values()), tuple(texts))

    def _typed(self, schema: Mapping[str, Any], keywords: list[str], place: str, depth: int) -> Node:
        if "type" not in keywords:
            raise _refused(
                f"{place} says no type", hint=f"one of {', '.join(_KEYWORDS)}; or enum, const, anyOf"
            )
        types = self._types(schema, place)
        fitting = {"type"}.union(*(_KEYWORDS[name] for name in types))
        for name in keywords:
            if name not in fitting:
                raise _refused(f"keyword {name!r} at {place} does not belong to type {' or '.join(types)}")
        nodes = [self._of_type(name, schema, place, depth) for name in types]
        return nodes[0] if len(nodes) == 1 else self._choice(nodes, False, place)

    def _types(self, schema: Mapping[str, Any], place: str) -> list[str]:
        given = schema["type"]
        types = given if isinstance(given, list) else [given]
        for name in types:
            if not isinstance(name, str) or name not in _KEYWORDS:
                raise _refused(
                    f"type {_shown(name)} at {place} is unknown", hint=f"one of {', '.join(_KEYWORDS)}"
                )
        if not types:
            raise _refused(f"'type' at {place} is an empty list")
        distinct = list(dict.fromkeys(types))
        if "number" in distinct and "integer" in distinct:
            distinct.remove("integer")
        return distinct

    # One reader for each type that has keywords.

    def _of_type(self, name: str, schema: Mapping[str, Any], place: str, depth: int) -> Node:
        readers: dict[str, Callable[[Mapping[str, Any], str, int], Node]] = {
            "object": self._object,
            "array": self._array,
            "string": self._text,
        }
        return readers[name](schema, place, depth) if name in readers else Simple(name)

    def _text(self, schema: Mapping[str, Any], place: str, _depth: int) -> Node:
        return Text(*_bounds(schema, "minLength", "maxLength", place))

    def _array(self, schema: Mapping[str, Any], place: str, depth: int) -> Node:
        least, most = _bounds(schema, "minItems", "maxItems", place)
        if "items" not in schema:
            raise _refused(f"the array at {place} does not say what it holds", hint="give it 'items'")
        return Array(self.read(schema["items"], step(place, "items"), depth + 1), least, most)

    def _object(self, schema: Mapping[str, Any], place: str, depth: int) -> Node:
        closed = "additionalProperties" in schema
        if closed and schema["additionalProperties"] is not False:
            raise _refused(f"keyword 'additionalProperties' at {place} is supported as false only")
        members = schema.get("properties")
        if not isinstance(members, Mapping):
            raise _refused(f"the object at {place} does not say what it holds", hint="give it 'properties'")
        if len(members) > MAX_PROPERTIES:
            raise _refused(f"more than {MAX_PROPERTIES} properties at {place}")
        required = schema.get("required", [])
        if not isinstance(required, list):
            raise _refused(f"'required' at {place} must be a list of names")
        for name in required:
            if not isinstance(name, str) or name not in members:
                raise _refused(f"'required' at {place} names {_shown(name)}, which is not in 'properties'")
        inside, properties = step(place, "properties"), []
        for name, member in members.items():
            _as_json(name, inside)
            properties.append(
                Property(name, self.read(member, step(inside, name), depth + 1), name in required)
            )
        return Object(tuple(properties), closed)


def _bounds(schema: Mapping[str, Any], low: str, high: str, place: str) -> tuple[int, int | None]:
    for name in (low, high):
        value = schema.get(name, 0)
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise _refused(f"{name!r} at {place} must be a whole number from 0")
        if value > MAX_COUNT:
            raise _refused(f"{name!r} at {place} is {value:,}, at most {MAX_COUNT:,} is supported")
    least, most = schema.get(low, 0), schema.get(high)
    if most is not None and most < least:
        raise _refused(f"{low!r} at {place} is more than {high!r}")
    return least, most


def _definition_name(reference: Any) -> tuple[str, str] | None:
    """Section and name of a local reference (a JSON Pointer in a URI fragment, RFC 6901)."""
    if not isinstance(reference, str):
        return None
    parts = reference.split("/")
    if len(parts) != 3 or parts[0] != "#" or parts[1] not in _DEFINITIONS:
        return None
    return parts[1], unquote(parts[2]).replace("~1", "/").replace("~0", "~")


def is_type(value: Any, name: str) -> bool:
    """
    Whether a JSON value is of a JSON Schema type; 1.0 is an integer, true is no number.

    >>> is_type(1.0, "integer"), is_type(True, "number")
    (True, False)
    """
    if name == "integer" and isinstance(value, float):
        return value.is_integer()
    kinds: dict[str, Any] = {
        "object": dict,
        "array": list,
        "string": str,
        "number": (int, float),
        "integer": int,
        "boolean": bool,
        "null": type(None),
    }
    return isinstance(value, kinds[name]) and (name == "boolean" or not isinstance(value, bool))


def _as_json(value: Any, place: str) -> str:
    """A value as the JSON text that an answer holds."""
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
        text.encode()
    except (ValueError, TypeError, RecursionError):
        raise _refused(f"a value at {place} is no JSON: {_shown(value)}") from None
    return text


def _shown(value: Any) -> str:
    return repr(value)[:60]
