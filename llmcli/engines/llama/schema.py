"""
JSON Schema as a grammar for the model, and as a check of what came back.

Two doors: `to_gbnf` before the model is asked, `check_answer` after it has answered. Which part of JSON
Schema is supported, and how the rest is refused, stands in schema_nodes.py.

The grammar is narrower than JSON so that an answer comes to an end: little white space, numbers of at
most 16 digits before and 15 after the point, no properties but those named, in the order given.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NoReturn

from llmcli.engines.llama.grammar import check_gbnf
from llmcli.engines.llama.schema_nodes import (
    Array,
    Choice,
    Definition,
    Node,
    Object,
    Property,
    Simple,
    Text,
    Values,
    is_type,
    read_schema,
    step,
)
from llmcli.errors import BadConfig, UnusableAnswer


def to_gbnf(schema: Mapping[str, Any]) -> str:
    """
    A grammar whose every text is JSON that fits the schema.

    Raises BadConfig for a schema outside the supported part, or too large for llama.cpp.

    >>> print(to_gbnf({"enum": ["yes", "no"]}))
    root ::= "\\"" ("yes\\"" | "no\\"")
    """
    writer = _Writer()
    root = writer.write(read_schema(schema))
    text = "\n".join([f"root ::= {root}", *(f"{name} ::= {body}" for name, body in writer.rules.items())])
    try:
        check_gbnf(text)
    except BadConfig as error:  # within every limit of the reader, yet too much in all
        raise BadConfig(f"schema: too large ({error.message})", error.hint) from None
    return text


# Writing the grammar.

_ONCE = {
    "ws": r'("\n" " "{0,16} | " ")?',
    "digits": r"[0-9]{1,15}",
    "integer": r'"-"? ("0" | [1-9] [0-9]{0,15})',
    "number": r'integer ("." digits)? ([eE] [+-]? [0-9]{1,2})?',
    "boolean": r'"true" | "false"',
    "null": r'"null"',
    # Ranges of what is text: `[^"\\]` would let halves of surrogate pairs and bytes that are no UTF-8 pass.
    "char": r'[ !#-\[\]-\uD7FF\uE000-\U0010FFFF] | "\\" (["\\/bfnrt] | "u" unit)',
    "unit": r'([0-9a-cefA-CEF] hex | [dD] [0-7]) hex hex | [dD] [89abAB] hex hex "\\u" [dD] [c-fC-F] hex hex',
    "hex": r"[0-9a-fA-F]",
}
_NEEDS = {"number": ("integer", "digits"), "char": ("unit", "hex")}
_LONGEST_BRANCHING = 50


class _Writer:
    """Expressions for nodes; what they refer to gathers in `rules`."""

    def __init__(self) -> None:
        self.rules: dict[str, str] = {}
        self._made: dict[int, str] = {}

    def write(self, node: Node) -> str:
        if isinstance(node, Simple):
            return self._once(node.type)
        if isinstance(node, Text):
            return rf'"\"" {self._once("char")}{_times(node.least, node.most)} "\""'
        if isinstance(node, Values):
            return self._values(node.texts)
        if isinstance(node, Array):
            return self._array(node)
        if isinstance(node, Object):
            return self._object(node)
        if isinstance(node, Choice):
            return f"({' | '.join(self.write(choice) for choice in node.nodes)})"
        if id(node) not in self._made:
            self._made[id(node)] = self._rule("part", self.write(node.node))
        return self._made[id(node)]

    def _once(self, name: str) -> str:
        if name not in self.rules:
            self.rules[name] = _ONCE[name]
            for needed in _NEEDS.get(name, ()):
                self._once(needed)
        return name

    def _rule(self, kind: str, body: str) -> str:
        name = f"{kind}-{len(self.rules)}"
        self.rules[name] = body
        return name

    def _array(self, node: Array) -> str:
        ws = self._once("ws")
        if node.most == 0:
            return f'"[" {ws} "]"'
        item = self._rule("item", self.write(node.item))
        another = self._rule("another", f'"," {ws} {item}')
        more = _times(max(0, node.least - 1), None if node.most is None else node.most - 1)
        filled = f"{ws} {item} {another}{more} {ws}"
        return f'"[" {filled} "]"' if node.least else f'"[" ({filled} | {ws}) "]"'

    def _object(self, node: Object) -> str:
        """
        Properties in order, a comma between those that are there.

        Which comes first is open until one that is required: up to there each
        has an alternative of its own, and shares what may follow it.
        """
        ws = self._once("ws")
        members = [self._member(member) for member in node.properties]
        required = [member.required for member in node.properties]
        until = required.index(True) if True in required else len(members) - 1
        rests = self._rests(members, required, until)
        starts = [f"{member}{rest}" for member, rest in zip(members, rests)]
        if not starts:
            return f'"{{" {ws} "}}"'
        filled = f"{ws} ({' | '.join(starts)}) {ws}" if len(starts) > 1 else f"{ws} {starts[0]} {ws}"
        return f'"{{" {filled} "}}"' if True in required else f'"{{" ({filled} | {ws}) "}}"'

    def _rests(self, members: Sequence[str], required: Sequence[bool], until: int) -> list[str]:
        """What may follow each of the members up to `until`."""
        follow = [
            f' "," ws {member}' if must else f' ("," ws {member})?' for member, must in zip(members, required)
        ]
        rest = "".join(follow[until + 1 :])
        rests = [rest]
        for number in range(until, 0, -1):
            name = self._rule("rest", follow[number].strip() + rest)
            rest = f" {name}"
            rests.append(rest)
        return rests[::-1]

    def _member(self, member: Property) -> str:
        key = _quoted(json.dumps(member.name, ensure_ascii=False) + ":")
        return self._rule("member", f"{key} {self._once('ws')} {self.write(member.node)}")

    def _values(self, texts: Sequence[str]) -> str:
        branches = self._branches(texts, 0)
        return branches[0] if len(branches) == 1 else f"({' | '.join(branches)})"

    def _branches(self, texts: Sequence[str], depth: int) -> list[str]:
        """
        Alternatives that share what they begin with.

        llama.cpp tries the whole vocabulary on every alternative: a thousand values side by
        side take seconds a token.
        """
        if depth > _LONGEST_BRANCHING:
            return [_quoted(text) for text in texts]
        groups: dict[str, list[str]] = {}
        for text in texts:
            groups.setdefault(text[:1], []).append(text)
        return [self._branch(group, depth) for group in groups.values()]

    def _branch(self, texts: Sequence[str], depth: int) -> str:
        if len(texts) == 1:
            return _quoted(texts[0])
        shared = _shared(texts)
        rest = " | ".join(self._branches([text[len(shared) :] for text in texts], depth + 1))
        return f"{_quoted(shared)} {self._rule('value', rest) if depth else f'({rest})'}"


def _shared(texts: Sequence[str]) -> str:
    """
    What all of some texts begin with.

    >>> _shared(["north", "none", "no"])
    'no'
    """
    first, last = min(texts), max(texts)
    return first[: next((n for n, (a, b) in enumerate(zip(first, last)) if a != b), len(first))]


def _times(least: int, most: int | None) -> str:
    if most is None:
        return {0: "*", 1: "+"}.get(least, f"{{{least},}}")
    return f"{{{least},{most}}}"


def _quoted(text: str) -> str:
    r"""
    A text as a GBNF literal.

    >>> print(_quoted('"a\\n"'))
    "\"a\\n\""
    """
    escaped = re.sub(r'["\\]', lambda match: "\\" + match.group(), text)
    escaped = re.sub(
        r"[\x00-\x1f\x7f-\x9f\u2028\u2029]", lambda match: f"\\u{ord(match.group()):04X}", escaped
    )
    return f'"{escaped}"'


# Checking an answer.


def check_answer(schema: Mapping[str, Any], text: str) -> Any:
    """
    The value of an answer in JSON, which fits the schema.

    Raises UnusableAnswer, which names the place: the answer was cut, is no JSON, or does not fit.
    Raises BadConfig for a schema that `to_gbnf` refuses too.

    >>> check_answer({"type": "integer"}, "12")
    12
    >>> check_answer({"type": "integer"}, '"a"')
    Traceback (most recent call last):
        ...
    llmcli.errors.UnusableAnswer: the answer does not fit the schema: $ is a string, not an integer
    """
    node = read_schema(schema)
    value = _parsed(text)
    problem = _problem(node, value, "$")
    if problem:
        raise UnusableAnswer(f"the answer does not fit the schema: {problem}")
    return value


def _parsed(text: str) -> Any:
    if not text.strip():
        raise UnusableAnswer("the answer is empty and should be JSON")
    try:
        return json.loads(text, object_pairs_hook=_distinct, parse_constant=_no_constant, parse_float=_number)
    except json.JSONDecodeError as error:
        if _is_cut(text, error):
            message = f"the answer is JSON that was cut after {len(text):,} characters"
            raise UnusableAnswer(message, hint="raise --max-tokens") from None
        place = f"line {error.lineno}:{error.colno}"
        raise UnusableAnswer(f"the answer is no JSON: {error.msg} at {place}") from None
    except (ValueError, RecursionError) as error:
        raise UnusableAnswer(f"the answer is no usable JSON: {error}") from None


def _is_cut(text: str, error: json.JSONDecodeError) -> bool:
    """
    Whether the JSON went well up to the end of the text.

    >>> def cut(text):
    ...     try:
    ...         json.loads(text)
    ...     except json.JSONDecodeError as error:
    ...         return _is_cut(text, error)
    >>> [cut(text) for text in ('{"a": tru', '[1.', '["a', '["\\\\u00', '[tru]', '[1 2]')]
    [True, True, True, True, False, False]
    """
    rest = text[error.pos :]
    if not rest.strip() or error.msg.startswith("Unterminated string"):
        return True
    if "escape" in error.msg:
        return len(rest) < 6 and '"' not in rest
    return any(word.startswith(rest) for word in ("true", "false", "null", "-", ".", "e+", "e-", "E+", "E-"))


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the name {twice!r} is there twice")
    return found


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number")


def _number(text: str) -> float:
    value = float(text)
    if value - value:  # infinity has no difference from itself
        raise ValueError(f"{text} is too large a number")
    return value


def _problem(node: Node, value: Any, place: str) -> str | None:
    """What is wrong with a value; None if it fits."""
    if isinstance(node, Definition):
        return _problem(node.node, value, place)
    if isinstance(node, Choice):
        return _choice_problem(node, value, place)
    if isinstance(node, Values):
        if any(_same(value, allowed) for allowed in node.values):
            return None
        return f"{place} is {_shown(value)}, not one of {', '.join(node.texts)[:80]}"
    wanted = _type_of(node)
    if not is_type(value, wanted):
        return f"{place} is {_kind(value)}, not {_article(wanted)}"
    if isinstance(node, Text):
        return _count_problem(len(value), node, f"{place} has {len(value)} characters")
    if isinstance(node, Array):
        wrong = _count_problem(len(value), node, f"{place} has {len(value)} items")
        return wrong or _first(_problem(node.item, item, step(place, n)) for n, item in enumerate(value))
    return _object_problem(node, value, place) if isinstance(node, Object) else None


def _choice_problem(node: Choice, value: Any, place: str) -> str | None:
    problems = [_problem(choice, value, place) for choice in node.nodes]
    fitting = problems.count(None)
    if not fitting:
        return max((problem for problem in problems if problem), key=len)
    if node.one and fitting > 1:
        return f"{place} fits {fitting} alternatives of 'oneOf'"
    return None


def _object_problem(node: Object, value: dict[str, Any], place: str) -> str | None:
    names = {member.name for member in node.properties}
    if node.closed:
        for name in value:
            if name not in names:
                return f"{place} has a property {name!r}, which the schema does not name"
    for member in node.properties:
        if member.required and member.name not in value:
            return f"{place} lacks {member.name!r}"
    present = [member for member in node.properties if member.name in value]
    return _first(_problem(member.node, value[member.name], step(place, member.name)) for member in present)


def _first(problems: Iterable[str | None]) -> str | None:
    return next((problem for problem in problems if problem), None)


def _count_problem(count: int, node: Text | Array, found: str) -> str | None:
    if count < node.least:
        return f"{found}, at least {node.least} are asked"
    if node.most is not None and count > node.most:
        return f"{found}, at most {node.most} are allowed"
    return None


def _type_of(node: Node) -> str:
    if isinstance(node, Simple):
        return node.type
    return {Text: "string", Array: "array", Object: "object"}[type(node)]


_TYPES = ("null", "boolean", "integer", "number", "string", "array", "object")


def _kind(value: Any) -> str:
    return _article(next(name for name in _TYPES if is_type(value, name)))


def _article(name: str) -> str:
    if name == "null":
        return name
    return f"an {name}" if name[0] in "aio" else f"a {name}"


def _same(first: Any, second: Any) -> bool:
    """JSON's equality: 1 is 1.0 and is not true."""
    if isinstance(first, bool) or isinstance(second, bool):
        return first is second
    if isinstance(first, dict) and isinstance(second, dict):
        return first.keys() == second.keys() and all(_same(first[key], second[key]) for key in first)
    if isinstance(first, list) and isinstance(second, list):
        return len(first) == len(second) and all(map(_same, first, second))
    return bool(first == second)


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:60] + "…"
