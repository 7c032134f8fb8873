"""
Option values from their words, without pydantic.

Typer ≥0.29 checks each value with a pydantic model, whose import alone takes as long as the rest of a
small command. The types that our commands use need none of it: this module gives Typer's
parameters a converter of ours (and better sentences). A parameter of another type keeps Typer's own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args, get_origin

import typer

if TYPE_CHECKING:
    from typer._click import Context, Parameter


def _whole(value: Any) -> int:
    try:
        return int(value)
    except ValueError:
        raise ValueError(f"{value!r} is not a whole number") from None


def _number(value: Any) -> float:
    try:
        number = float(value)
    except ValueError:
        raise ValueError(f"{value!r} is not a number") from None
    if not math.isfinite(number):
        raise ValueError(f"{value!r} is not a finite number")
    return number


def one_of(choices: Iterable[Any]) -> Callable[[Any], Any]:
    """
    A converter that accepts these words only.

    >>> one_of(["head", "tail"])("tail")
    'tail'
    """
    known = {str(choice): choice for choice in choices}

    def convert(value: Any) -> Any:
        if str(value) not in known:
            raise ValueError(f"{value!r} is not one of {', '.join(known)}")
        return known[str(value)]

    return convert


CONVERTERS: dict[Any, Callable[[Any], Any]] = {
    str: str,
    int: _whole,
    float: _number,
    bool: bool,
    Path: Path,
}


def converter(annotation: Any) -> Callable[[Any], Any] | None:
    """The converter of an option's type, None where we have none."""
    if get_origin(annotation) is list:
        return converter(get_args(annotation)[0])
    if get_origin(annotation) is Literal:
        return one_of(get_args(annotation))
    return CONVERTERS.get(annotation)


class Plain(NamedTuple):
    """Stands where Typer keeps its pydantic adapter."""

    convert: Callable[[Any], Any]
    least: float | None = None
    most: float | None = None

    def coerce(self, value: Any, param: Any, ctx: Context) -> Any:
        """The value, converted and inside its bounds; BadParameter otherwise."""
        many = param.multiple or param.nargs == -1
        if value is None:
            return () if many else None
        try:
            if many:
                return [self._checked(one) for one in value]
            return self._checked(value)
        except ValueError as error:
            raise typer.BadParameter(str(error), ctx=ctx, param=param) from None

    def _checked(self, value: Any) -> Any:
        converted = self.convert(value)
        if self.least is not None and converted < self.least:
            raise ValueError(f"{value} is below {self.least}")
        if self.most is not None and converted > self.most:
            raise ValueError(f"{value} is above {self.most}")
        return converted


def make_light(params: Iterable[Parameter]) -> None:
    """Give each parameter whose type we know its plain converter, and its bounds with it."""
    for param in params:
        convert = converter(getattr(getattr(param, "type_descriptor", None), "annotation", None))
        if convert is not None:
            bounds: Any = param
            param._runtime_param = Plain(convert, bounds.min, bounds.max)  # type: ignore[attr-defined]
            bounds.min = bounds.max = None  # so that the help does not say `[1<=x<=256]`
