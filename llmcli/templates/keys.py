"""
The keys of a template's file, one reader each, in a table (`FIELDS`).

A reader takes the key's node and gives its fields of the Template; what is wrong with it, it notes with the
line. Knows nothing of files and names; that is `reading`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any, get_args

import msgspec
import yaml
from msgspec import UNSET

from llmcli.registry import nearest
from llmcli.strict_yaml import line_of, text_line, value_of
from llmcli.templates.language import faults, variables_of
from llmcli.templates.nouns import Example, Mode, Param, ParamType, Problem
from llmcli.templates.values import SAMPLING, is_number, sampling_problem, typed

# Options that every text command has (design, section 3): a parameter of that name could not be given.
GLOBAL_OPTIONS = frozenset(
    {
        *("model", "context", "parallel", "threads", "gpu_layers", "kv_type", "lora", "sequential"),
        *("temperature", "top_p", "top_k", "min_p", "max_tokens", "seed", "beams"),
        *("thinking", "show_thinking"),
        *("text", "lines", "field", "encoding", "truncate", "limit", "extract", "no_extract"),
        *("output", "format", "json", "as", "probabilities", "stream", "quiet", "verbose"),
        *("log", "dry_run", "debug", "color", "no_color", "help", "version", "private"),
        *("journal", "keep_journal", "max_errors", "retry_errors", "on", "copies", "cpus", "gpus"),
        *("texts", "template", "errors", "sampling"),  # of llmcli.Llm.run
        *("sidecar", "input_format", "delimiter", "quote", "header", "no_header", "error_as"),
    }
)
VARIABLES = frozenset({"text", "document", "sentence", "parts"})  # ours, in a prompt
# Jinja's
KEYWORDS = frozenset({"and", "else", "false", "if", "in", "is", "none", "not", "or", "self", "true"})

_PARAM_NAME = re.compile(r"[a-z][a-z0-9_]{0,31}")
_REFERENCE = re.compile(r"\{\{\s*(\w+)\s*\}\}\Z")


class Reading:
    """One template being read: the parameters it declares, the keys it has, what is wrong so far."""

    def __init__(self, params: dict[str, Param], labels: tuple[str, ...] | None) -> None:
        self.params = params
        self.labels = labels
        self.seen: set[str] = set()
        self.problems: list[Problem] = []

    def note(self, node: yaml.Node, message: str) -> None:
        """Something is wrong on this node's line."""
        self.problems.append(Problem(line_of(node), message))

    def fields(self, node: yaml.Node, allowed: frozenset[str]) -> dict[str, Any]:
        """The fields of a Template; `params` and `labels` first, because others are checked against them."""
        entries = self.mapping(node, allowed, "a template")
        self.seen = set(entries)
        made: dict[str, Any] = {}
        for key in sorted(entries, key=lambda key: (key != "params", key != "labels")):
            made.update(FIELDS[key](self, key, entries[key]))
        return made

    def mapping(self, node: yaml.Node, allowed: frozenset[str] | None, what: str) -> dict[str, yaml.Node]:
        """The entries of a mapping; unknown keys and keys given twice are problems."""
        if not isinstance(node, yaml.MappingNode):
            self.note(node, f"{what} is a mapping (key: value)")
            return {}
        entries: dict[str, yaml.Node] = {}
        for key_node, value in node.value:
            key = key_node.value if isinstance(key_node, yaml.ScalarNode) else None
            if key is None:
                self.note(key_node, "a key must be a plain word")
            elif key in entries:
                self.note(key_node, f"{key!r} is given twice")
            elif allowed is not None and key not in allowed:
                close = nearest(key, allowed)
                known = f"did you mean {close!r}?" if close else f"known: {', '.join(sorted(allowed))}"
                self.note(key_node, f"{key!r} is no key of {what}; {known}")
            else:
                entries[key] = value
        return entries

    def sequence(self, node: yaml.Node, what: str) -> list[yaml.Node]:
        """The items of a list."""
        if isinstance(node, yaml.SequenceNode):
            return list(node.value)
        self.note(node, f"{what} is a list")
        return []

    def text(self, node: yaml.Node, what: str) -> str:
        """A scalar as it is written, so that `labels: [1, 2]` are the texts 1 and 2."""
        if isinstance(node, yaml.ScalarNode):
            return str(node.value)
        unquoted = isinstance(node, yaml.MappingNode) and node.flow_style
        remedy = '; what begins with {{ needs quotes: "{{ text }} …"' if unquoted else ""
        self.note(node, f"{what} is a text{remedy}")
        return ""

    def texts(self, node: yaml.Node, what: str) -> tuple[str, ...]:
        """A list of scalars, as they are written."""
        return tuple(self.text(item, f"each of {what}") for item in self.sequence(node, what))

    def prompt(self, node: yaml.Node, what: str, variables: frozenset[str]) -> str:
        """A text in the template language over these variables and the parameters."""
        source = self.text(node, what)
        if isinstance(node, yaml.ScalarNode):
            start = text_line(node)
            for fault in faults(source, variables | self.params.keys()):
                line = None if start is None else start + fault.line - 1
                self.problems.append(Problem(line, f"{what}: {fault.message}"))
        return source


def _help(reading: Reading, key: str, node: yaml.Node) -> dict[str, Any]:
    text = reading.text(node, "help").strip()
    if not text:
        reading.note(node, "help is empty; say in one line what the command does")
    if "\n" in text or getattr(node, "style", None) in ("|", ">"):
        reading.note(node, "help is one line: a listing reads no further")
    return {"help": text}


def _prompt(reading: Reading, key: str, node: yaml.Node) -> dict[str, Any]:
    before = len(reading.problems)
    source = reading.prompt(node, key, frozenset({"text"}))
    if len(reading.problems) == before and "text" not in variables_of(source):
        reading.note(node, f"{key} never says {{{{ text }}}}, so the user's text would be lost")
    return {key: source}


def _system(reading: Reading, key: str, node: yaml.Node) -> dict[str, Any]:
    return {key: reading.prompt(node, key, frozenset())}


def _params(reading: Reading, key: str, node: yaml.Node) -> dict[str, Any]:
    for name, entry in reading.mapping(node, None, "params").items():
        if not _PARAM_NAME.fullmatch(name):
            reading.note(entry, f"parameter {name!r}: small letters, digits and _, beginning with a letter")
        elif name in GLOBAL_OPTIONS or name in VARIABLES:
            reading.note(entry, f"parameter {name!r}: the name is taken by llm itself")
        elif name in KEYWORDS:
            reading.note(entry, f"parameter {name!r}: the name is a word of the template language")
        else:
            reading.params[name] = _param(reading, name, entry)
    return {"params": tuple(reading.params.values())}


_PARAM_KEYS = frozenset({"type", "default", "choices", "min", "help", "names"})


def _param(reading: Reading, name: str, node: yaml.Node) -> Param:
    what = f"parameter {name!r}"
    entries = reading.mapping(node, _PARAM_KEYS, what)
    default = value_of(entries["default"]) if "default" in entries else UNSET
    kind = _kind(default)
    if "type" in entries:
        kind = reading.text(entries["type"], f"type of {what}")
        if kind not in get_args(ParamType):
            known = ", ".join(get_args(ParamType))
            reading.note(entries["type"], f"{what}: type is one of {known}, not {kind!r}")
            kind = "str"
    if "default" in entries and kind == "str":
        default = reading.text(entries["default"], f"default of {what}")
    choices = reading.texts(entries["choices"], f"choices of {what}") if "choices" in entries else ()
    names = _names(reading, what, entries["names"]) if "names" in entries else {}
    least = _least(reading, what, kind, entries["min"]) if "min" in entries else None
    param = Param(
        name=name,
        type=kind,  # type: ignore[arg-type]  # checked just above
        choices=choices,
        min=least,
        help=reading.text(entries["help"], f"help of {what}").strip() if "help" in entries else "",
        names=names,
    )
    if default is UNSET:
        return param
    try:
        return msgspec.structs.replace(param, default=typed(param, default))
    except ValueError as error:
        reading.note(entries["default"], f"{what} {error}, and its default is {default!r}")
        return param


def _least(reading: Reading, what: str, kind: str, node: yaml.Node) -> float | None:
    """The smallest value of a parameter that is a number."""
    value = value_of(node)
    if kind not in ("int", "float"):
        reading.note(node, f"{what}: min is for a number, and its type is {kind}")
    elif not is_number(value) or (kind == "int" and value != int(value)):
        reading.note(node, f"{what}: min is {'a whole' if kind == 'int' else 'a'} number, not {value!r}")
    else:
        return value
    return None


def _names(reading: Reading, what: str, node: yaml.Node) -> dict[str, str]:
    """The table of a parameter, or that of another one before it, by its name."""
    if isinstance(node, yaml.ScalarNode) and node.value in reading.params:
        return reading.params[node.value].names
    entries = reading.mapping(node, None, f"names of {what}")
    return {code: reading.text(value, f"each of names of {what}") for code, value in entries.items()}


def _kind(default: Any) -> str:
    """The type of a parameter that declares none: its default's."""
    kinds = {bool: "bool", int: "int", float: "float", list: "list"}
    return kinds.get(type(default), "str")


def _labels(reading: Reading, key: str, node: yaml.Node) -> dict[str, Any]:
    if isinstance(node, yaml.ScalarNode):
        return {"labels_param": _list_param(reading, key, node)}
    labels = tuple(label.strip() for label in reading.texts(node, "labels"))
    if len(labels) < 2 or "" in labels or len(set(labels)) < len(labels):
        reading.note(node, "labels are two or more different texts")
    reading.labels = labels
    return {"labels": labels}


def _schema(reading: Reading, key: str, node: yaml.Node) -> dict[str, Any]:
    if isinstance(node, yaml.ScalarNode):
        return {"schema_param": _list_param(reading, key, node)}
    if not reading.mapping(node, None, "schema"):
        return {}
    schema = value_of(node)
    try:
        json.dumps(schema, allow_nan=False)
    except (TypeError, ValueError):
        reading.note(node, "schema is a JSON Schema: texts, numbers, true, false, null, lists and mappings")
    return {"schema": schema}


def _grammar(reading: Reading, key: str, node: yaml.Node) -> dict[str, Any]:
    return {key: reading.text(node, key)}


def _list_param(reading: Reading, key: str, node: yaml.ScalarNode) -> str:
    reference = _REFERENCE.match(node.value.strip())
    name = reference[1] if reference else ""
    if name not in reading.params or reading.params[name].type != "list":
        reading.note(node, f'{key} is given in place, or as "{{{{ NAME }}}}" of a parameter with type: list')
    return name


def _examples(reading: Reading, key: str, node: yaml.Node) -> dict[str, Any]:
    examples = []
    for item in reading.sequence(node, "examples"):
        entries = reading.mapping(item, frozenset({"text", "reply", "params"}), "an example")
        if not entries.keys() >= {"text", "reply"}:
            reading.note(item, "an example has a text and a reply")
            continue
        reply = reading.text(entries["reply"], "reply")
        if reading.labels and reply.strip() not in reading.labels:
            reading.note(entries["reply"], f"an example's reply {reply!r} is none of the labels")
        given = reading.mapping(entries["params"], frozenset(reading.params), "an example's params") if (
            "params" in entries
        ) else {}  # fmt: skip
        params = {}
        for name, value in given.items():
            try:
                params[name] = typed(reading.params[name], value_of(value))
            except ValueError as error:
                reading.note(value, f"an example's {name} {error}")
        examples.append(Example(reading.text(entries["text"], "text"), reply, params))
    return {"examples": tuple(examples)}


def _sampling(reading: Reading, key: str, node: yaml.Node) -> dict[str, Any]:
    made = {}
    for name, entry in reading.mapping(node, frozenset(SAMPLING), "sampling").items():
        value = value_of(entry)
        value = [value] if name == "stop" and isinstance(value, str) else value
        if problem := sampling_problem(name, value):
            reading.note(entry, f"{name} {problem}, not {value!r}")
        made[name] = tuple(value) if isinstance(value, list) else value
    return {key: made}


def _extract(reading: Reading, key: str, node: yaml.Node) -> dict[str, Any]:
    return {key: reading.prompt(node, key, frozenset({"number", "count"})).strip()}


def _mode(reading: Reading, key: str, node: yaml.Node) -> dict[str, Any]:
    mode = reading.text(node, key)
    if mode not in get_args(Mode):
        reading.note(node, f"mode is one of {', '.join(get_args(Mode))}, not {mode!r}")
    return {key: mode}


def _keep_layout(reading: Reading, key: str, node: yaml.Node) -> dict[str, Any]:
    value = value_of(node)
    if not isinstance(value, bool):
        reading.note(node, f"{key} is true or false")
    return {key: value is True}


FIELDS: dict[str, Callable[[Reading, str, yaml.Node], dict[str, Any]]] = {
    "help": _help,
    "system": _system,
    "prompt": _prompt,
    "params": _params,
    "labels": _labels,
    "examples": _examples,
    "sampling": _sampling,
    "schema": _schema,
    "grammar": _grammar,
    "reduce": _prompt,
    "extract": _extract,
    "mode": _mode,
    "keep_layout": _keep_layout,
}
