"""What the user gave for a template's parameters: checked, typed, and written out for the prompt."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, TypeGuard

import msgspec

from llmcli.errors import UsageError
from llmcli.messages import Sampling
from llmcli.registry import nearest
from llmcli.templates.nouns import Param, Template


def check_values(template: Template, values: Mapping[str, Any]) -> dict[str, Any]:
    """
    The value of every parameter, typed: given, else its default; None counts as not given.

    Raises UsageError for a parameter that is unknown, missing, of another type or not among its choices.
    """
    known = {param.name for param in template.params}
    for name in values:
        if name not in known and values[name] is not None:
            close = nearest(name, known)
            raise UsageError(
                f"{template.name} has no parameter {name!r}",
                hint=f"did you mean {close!r}?" if close else f"it has {', '.join(sorted(known)) or 'none'}",
            )
    return {param.name: _value(template, param, values.get(param.name)) for param in template.params}


def label_set(template: Template, values: Mapping[str, Any]) -> tuple[str, ...]:
    """
    The labels to choose from; `values` are checked ones.

    Raises UsageError for fewer than two labels, or the same one twice.
    """
    given = template.labels if template.labels_param is None else values[template.labels_param]
    labels = tuple(label.strip() for label in given or ())
    twice = _twice(labels)
    option = f"--{template.labels_param or 'labels'}"
    if twice is not None:
        raise UsageError(f"the label {twice!r} is given twice", hint=f"each label of {option} once")
    if len(labels) < 2 or "" in labels:
        raise UsageError(f"{template.name} needs two labels or more", hint=f"for example {option} spam,ham")
    return labels


def schema_for(template: Template, values: Mapping[str, Any]) -> dict[str, Any] | None:
    """
    The JSON Schema that the answer obeys; a list of field names becomes an object of texts, each of
    which may be null: a fact that the text does not give must not be invented.
    """
    if template.schema_param is None:
        return template.schema
    fields = [field.strip() for field in values[template.schema_param]]
    option = f"--{template.schema_param}"
    if not fields:
        raise UsageError(f"{template.name} needs a field", hint=f"for example {option} name,date")
    twice = _twice(fields)
    if twice is not None:
        raise UsageError(f"the field {twice!r} is given twice", hint=f"each field of {option} once")
    return {
        "type": "object",
        "properties": {field: {"type": ["string", "null"]} for field in fields},
        "required": fields,
        "additionalProperties": False,
    }


def _twice(items: Sequence[str]) -> str | None:
    """The first that comes again."""
    return next((item for item in items if items.count(item) > 1), None)


def sampling_for(template: Template, values: Mapping[str, Any], options: Mapping[str, Any]) -> Sampling:
    """
    How this template's answers are drawn: its own settings, over them the user's options.

    `options` are fields of Sampling; None means "not given".

    Raises UsageError for a value out of range.
    """
    chosen = {**template.sampling, **{name: value for name, value in options.items() if value is not None}}
    for name, value in chosen.items():
        if problem := sampling_problem(name, value):
            raise UsageError(f"--{name.replace('_', '-')} {problem}, not {value!r}")
    sampling = in_form(template, values, msgspec.convert(chosen, Sampling))
    if (sampling.schema or sampling.grammar) and options.get("beams") is None:
        return msgspec.structs.replace(sampling, beams=1)  # a model's own are for answers in no given form
    return sampling


def in_form(template: Template, values: Mapping[str, Any], sampling: Sampling) -> Sampling:
    """With the form that the template gives its answers, where the caller has not given one."""
    if sampling.schema is not None or sampling.grammar is not None:
        return sampling
    if template.grammar is not None:
        return msgspec.structs.replace(sampling, grammar=template.grammar)
    schema = schema_for(template, values)
    return sampling if schema is None else msgspec.structs.replace(sampling, schema=json.dumps(schema))


# What a field of Sampling may be: the words for it, and the test. Bounds are llama.cpp's own meaning of each.
SAMPLING: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "temperature": ("is a number from 0", lambda v: is_number(v) and v >= 0),
    "top_k": ("is a whole number from 0 to 2147483647", lambda v: _whole(v) and 0 <= v < 2**31),
    "top_p": ("is a number above 0, at most 1", lambda v: is_number(v) and 0 < v <= 1),
    "min_p": ("is a number from 0 to 1", lambda v: is_number(v) and 0 <= v <= 1),
    "max_tokens": (
        "is a whole number from 1 to 2147483647",
        lambda v: v is None or (_whole(v) and 1 <= v < 2**31),
    ),
    "beams": ("is a whole number from 1 to 32", lambda v: _whole(v) and 1 <= v <= 32),
    "seed": ("is a whole number from 0 to 9223372036854775807", lambda v: _whole(v) and 0 <= v < 2**63),
    "stop": (
        "is a list of texts",
        lambda v: isinstance(v, list | tuple) and all(isinstance(stop, str) and stop for stop in v),
    ),
}


def sampling_problem(name: str, value: Any) -> str | None:
    """What is wrong with a value for a field of Sampling."""
    if name not in SAMPLING:
        return None
    words, fits = SAMPLING[name]
    return None if fits(value) else words


def typed(param: Param, value: Any) -> Any:
    """
    A value as the parameter's type; what comes from the command line is text.

    >>> typed(Param("labels", type="list"), "spam, ham")
    ['spam', 'ham']

    Raises ValueError with the words for what it should be.
    """
    try:
        made = _CONVERT[param.type](value)
    except (TypeError, ValueError, KeyError) as error:
        raise ValueError(f"is {_WORDS[param.type]}") from error
    items = made if isinstance(made, list) else [made]
    if param.choices and not all(any(_is_choice(item, choice) for choice in param.choices) for item in items):
        raise ValueError(f"is one of {', '.join(param.choices)}")
    if param.min is not None and made < param.min:
        raise ValueError(f"is {_WORDS[param.type]} from {param.min}")
    return made


def _is_choice(item: Any, choice: str) -> bool:
    """The choices of a number are text too: 1 and 1.0 are one number."""
    if isinstance(item, float):
        with suppress(ValueError):
            return item == float(choice)
    return str(item) == choice


def _value(template: Template, param: Param, given: Any) -> Any:
    empty = given is None or (param.required and isinstance(given, str) and not given.strip())
    if empty:
        if param.required:
            raise UsageError(f"{template.name} needs {param.option}", hint=param.help)
        given = param.default
    try:
        made = typed(param, given)
    except ValueError as error:
        close = nearest(str(given), param.choices)
        raise UsageError(
            f"{param.option} {error}, not {given!r}", hint=f"did you mean {close!r}?" if close else ""
        ) from error
    return [_named(param, item) for item in made] if isinstance(made, list) else _named(param, made)


def _named(param: Param, value: Any) -> Any:
    """`de`, `DE` and `german` are German; a name that the table lacks stays as typed."""
    if not param.names or not isinstance(value, str):
        return value
    folded = value.strip().casefold()
    for code, name in param.names.items():
        if folded in (code.casefold(), name.casefold()):
            return name
    return value.strip()


def is_number(value: Any) -> TypeGuard[int | float]:
    """Whether it is a finite number, of a YAML file or a command line."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _list(value: Any) -> list[str]:
    if isinstance(value, str):
        return [item.strip() for item in _items(value) if item.strip()]
    return [str(item) for item in value]


def _items(text: str) -> list[str]:
    """
    What stands between commas; an item that is in quotes as a whole may have commas of its own, as in CSV.

    >>> _items('spam, "ham, and eggs"'), _items('"Heroes" album, 5" disc')
    (['spam', ' ham, and eggs'], ['"Heroes" album', ' 5" disc'])
    """
    found = []
    for match in _ITEM.finditer(text):
        blank, quoted, plain = match.groups()
        found.append(plain if quoted is None else blank + quoted.replace('""', '"'))
    return found


def _float(value: Any) -> float:
    made = float(value)
    if not math.isfinite(made):
        raise ValueError(value)
    return made


_ITEM = re.compile(r'(?:^|(?<=,))(?:(\s*)"((?:[^"]|"")*)"\s*(?=,|\Z)|([^,]*))')

_BOOL = {
    **dict.fromkeys(("true", "yes", "on", "1"), True),
    **dict.fromkeys(("false", "no", "off", "0"), False),
}

_CONVERT: dict[str, Callable[[Any], Any]] = {
    "str": str,
    "int": lambda value: int(str(value)),
    "float": _float,
    "bool": lambda value: _BOOL[str(value).lower()],
    "list": _list,
}

_WORDS = {
    "str": "a text",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "list": "a list, separated by commas",
}
