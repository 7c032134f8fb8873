"""
`/set`: how the answers are drawn, and a few things of the chat itself.

The bounds of the sampling fields are the templates' (`templates.values`).
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

from llmcli.chat.talk import Talk
from llmcli.errors import UsageError

NUMBERS: dict[str, Callable[[str], Any]] = {
    "temperature": float, "top_k": int, "top_p": float, "min_p": float, "max_tokens": int, "seed": int,
}  # fmt: skip
SETTINGS = (*NUMBERS, "stop", "context", "keys", "plain")


def set_value(talk: Talk, rest: str) -> None:
    """Show the settings, or change one."""
    if not rest:
        talk.screen.table(_settings(talk))
        return
    name, _, value = rest.partition(" ")
    name, value = name.replace("-", "_"), value.strip()
    if name not in SETTINGS:
        raise UsageError(f"no setting {name!r}", hint=", ".join(SETTINGS))
    if not value:
        raise UsageError(f"{name} needs a value", hint=f"example: /set {name} {EXAMPLES[name]}")
    setter = SPECIAL.get(name)
    if value == "default" and name not in ("keys", "plain"):
        _set_default(talk, name)
    elif setter is not None:
        setter(talk, value)
    else:
        _set_number(talk, name, value)
    talk.screen.whisper(f"{name} {value}")


EXAMPLES = {
    "temperature": "0.7", "top_k": "40", "top_p": "0.95", "min_p": "0.05", "max_tokens": "500", "seed": "7",
    "stop": "END", "context": "8192", "keys": "vi", "plain": "on",
}  # fmt: skip


def _set_number(talk: Talk, name: str, value: str) -> None:
    from llmcli.templates.values import sampling_problem

    number = None
    if not (name in ("max_tokens", "seed") and value == "off"):
        with suppress(ValueError):
            number = NUMBERS[name](value)
        if number is None or sampling_problem(name, number):
            raise UsageError(f"{name} {sampling_problem(name, number or value)}, not {value!r}")
    if name == "seed":
        talk.fixed_seed = number
    else:
        talk.draw_with(**{name: number})


def _set_default(talk: Talk, name: str) -> None:
    """As when the chat began."""
    if name == "seed":
        talk.fixed_seed = talk.first_seed
    elif name == "context":
        talk.change_model(talk.reference, talk.first_context)
    else:
        talk.forget(name)


def _set_stop(talk: Talk, value: str) -> None:
    talk.draw_with(stop=() if value == "off" else (value,))


def _set_context(talk: Talk, value: str) -> None:
    if not value.isdecimal() or not 0 < int(value) < 2**31:
        raise UsageError(f"the context is a number of tokens, not {value!r}")
    if 0 < talk.longest < int(value):
        raise UsageError(f"{talk.model} has at most {talk.longest:,} tokens of context")
    talk.change_model(talk.reference, int(value))


def _set_keys(talk: Talk, value: str) -> None:
    if value not in ("emacs", "vi"):
        raise UsageError(f"keys are emacs or vi, not {value!r}")
    if talk.set_keys is not None:
        talk.set_keys(value)


def _set_plain(talk: Talk, value: str) -> None:
    talk.screen.plain = switch(value)


SPECIAL: dict[str, Callable[[Talk, str], None]] = {
    "stop": _set_stop, "context": _set_context, "keys": _set_keys, "plain": _set_plain,
}  # fmt: skip


def _settings(talk: Talk) -> list[tuple[str, str]]:
    sampling = talk.sampling
    shown: dict[str, Any] = {name: getattr(sampling, name) for name in NUMBERS if name != "seed"}
    shown["seed"] = "drawn for each answer" if talk.fixed_seed is None else talk.fixed_seed
    shown["stop"] = ", ".join(map(repr, sampling.stop)) or "off"
    shown["max_tokens"] = "off" if sampling.max_tokens is None else sampling.max_tokens
    shown["context"] = f"{talk.window:,} tokens" if talk.window else "the model's"
    shown["keys"] = talk.keys
    shown["plain"] = "on" if talk.screen.plain else "off"
    return [(name, str(value)) for name, value in shown.items()]


def switch(value: str) -> bool:
    """`on` or `off`."""
    if value not in ("on", "off"):
        raise UsageError(f"on or off, not {value!r}")
    return value == "on"
