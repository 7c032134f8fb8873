"""
The part of Jinja that a prompt may use: put values in, choose between wordings.

    {{ text }}   {{ labels | join(', ') }}   {% if style == 'bullets' %}…{% else %}…{% endif %}

No loops, no calls, no attributes, no arithmetic, no includes: whatever a stranger's `prompts` folder
holds, a prompt is rendered in time and space that grow with its length, and reaches nothing but its values.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from jinja2 import StrictUndefined, nodes
from jinja2 import Template as Compiled
from jinja2.exceptions import TemplateError, TemplateSyntaxError
from jinja2.sandbox import ImmutableSandboxedEnvironment
from msgspec import Struct

FILTERS = ("capitalize", "default", "first", "join", "last", "length", "lower", "title", "trim", "upper")
TESTS = ("defined", "undefined", "in", "eq", "ne", "equalto", "none", "string", "number", "sequence")

_ALLOWED = (
    nodes.Template, nodes.Output, nodes.TemplateData, nodes.Name, nodes.Const, nodes.Getitem,
    nodes.Filter, nodes.Test, nodes.Compare, nodes.Operand, nodes.And, nodes.Or, nodes.Not,
    nodes.If, nodes.CondExpr, nodes.Concat, nodes.List, nodes.Tuple, nodes.Dict, nodes.Pair,
)  # fmt: skip

_CALLED = {
    nodes.For: "a loop",
    nodes.Getattr: "an attribute (a.b)",
    nodes.Call: "a call",
    nodes.Assign: "an assignment",
    nodes.Include: "an include",
    nodes.Import: "an import",
    nodes.FromImport: "an import",
    nodes.Extends: "extends",
    nodes.Macro: "a macro",
    nodes.BinExpr: "arithmetic",
    nodes.UnaryExpr: "arithmetic",
}


class Fault(Struct, frozen=True):
    """What is wrong with a prompt's text; `line` counts from 1 at the text's start."""

    line: int
    message: str


def faults(source: str, variables: frozenset[str]) -> list[Fault]:
    """
    Everything that keeps this text from being a prompt over these variables.

    >>> faults("Hello {{ nmae }}", frozenset({"name"}))
    [Fault(line=1, message="'nmae' is not defined; the variables here are name")]
    """
    try:
        tree = environment().parse(source)
        every = _walk(tree)
        found = [_forbidden(node) or _unknown(node, variables) for node in every]
        if not any(found):
            environment().compile(tree)  # only now: compiling works out constants, such as 'a' * 10**9
    except TemplateSyntaxError as error:
        return [Fault(error.lineno or 1, f"not a Jinja text: {error.message}")]
    except (TemplateError, RecursionError) as error:
        return [Fault(1, f"not a Jinja text: {error}")]
    return [fault for fault in found if fault is not None]


def variables_of(source: str) -> frozenset[str]:
    """The names that a text without faults uses."""
    return frozenset(node.name for node in environment().parse(source).find_all(nodes.Name))


def fill(source: str, values: Mapping[str, Any]) -> str:
    """
    The text with its values in place; the values are taken as they are, nothing in them is read.

    Raises jinja2.exceptions.TemplateError for a value that is missing.

    >>> fill("{{ greeting }}!", {"greeting": "{{ text }}"})
    '{{ text }}!'
    """
    return compiled(source).render(values)


@lru_cache(maxsize=256)
def compiled(source: str) -> Compiled:
    """The text, compiled once."""
    return environment().from_string(source)


@lru_cache(maxsize=1)
def environment() -> ImmutableSandboxedEnvironment:
    """Jinja's immutable sandbox, with no globals, few filters, and no undefined value."""
    made = ImmutableSandboxedEnvironment(undefined=StrictUndefined, finalize=_written, autoescape=False)
    made.globals.clear()
    made.filters = {name: made.filters[name] for name in FILTERS}
    made.tests = {name: made.tests[name] for name in TESTS}
    return made


def _written(value: Any) -> Any:
    """A list reads as its items, separated by commas."""
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else value


def _walk(node: nodes.Node) -> list[nodes.Node]:
    """The nodes from the top down, without what stands below a forbidden one."""
    if not isinstance(node, _ALLOWED):
        return [node]
    return [node, *(below for child in node.iter_child_nodes() for below in _walk(child))]


def _forbidden(node: nodes.Node) -> Fault | None:
    if isinstance(node, _ALLOWED):
        return None
    what = next((name for kind, name in _CALLED.items() if isinstance(node, kind)), type(node).__name__)
    return Fault(node.lineno, f"a prompt cannot hold {what}: only values, filters and if")


def _unknown(node: nodes.Node, variables: frozenset[str]) -> Fault | None:
    """A name, filter or test that is not there."""
    if isinstance(node, nodes.Name) and node.name not in variables:
        known = ", ".join(sorted(variables)) or "none"
        return Fault(node.lineno, f"{node.name!r} is not defined; the variables here are {known}")
    if isinstance(node, nodes.Filter) and node.name not in FILTERS:
        return Fault(node.lineno, f"no filter is called {node.name!r}; there are {', '.join(FILTERS)}")
    if isinstance(node, nodes.Test) and node.name not in TESTS:
        return Fault(node.lineno, f"no test is called {node.name!r}; there are {', '.join(TESTS)}")
    return None
