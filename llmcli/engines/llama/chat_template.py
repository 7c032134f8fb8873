"""
A model's chat template: messages in, literal text with slots for their contents out.

Rendered sandboxed, with a limit of time and size, once per shape of conversation
(roles, thinking): contents are placeholders, so that what a document says can never
be mistaken for what the template says. Knows nothing of tokens.
"""

from __future__ import annotations

import ctypes
import datetime
import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias

from jinja2 import TemplateError
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from llmcli.errors import ModelError, UsageError
from llmcli.messages import Message

RENDER_SECONDS = 3.0
RENDER_CHARACTERS = 1_000_000
REPEAT_LIMIT = 100_000

Part: TypeAlias = "str | int"
"""Literal text of the template, or the number of the message whose content stands here."""

# The names that published chat templates give to their switch for thinking.
THINKING_SWITCHES = ("enable_thinking", "thinking")


class _Timeout(BaseException):
    """Rendering took too long; not an Exception, so that no template code can catch it."""


class _RefusedError(Exception):
    """The template called raise_exception."""


# What template code can raise: its own complaints, and Python's about what it does with its values.
_TEMPLATE_ERRORS = (
    TemplateError,
    _RefusedError,
    ArithmeticError,
    AttributeError,
    LookupError,
    MemoryError,
    RuntimeError,
    TypeError,
    ValueError,
)


class _Sandbox(ImmutableSandboxedEnvironment):
    """A sandbox that also refuses `'A' * 3_000_000_000`."""

    intercepted_binops = frozenset(["*", "**"])

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        sizes = [len(x) if isinstance(x, (str, list, tuple)) else x for x in (left, right)]
        product = 1.0
        for size in sizes:
            product *= float(abs(size)) if isinstance(size, (int, float)) else 1.0
        numbers = all(isinstance(operand, (int, float)) for operand in (left, right))
        if operator == "**" or (product > REPEAT_LIMIT and not numbers):
            raise _RefusedError(f"{operator} of this size is not allowed")
        return super().call_binop(context, operator, left, right)


class ChatTemplate:
    """
    One model's chat template.

    `thinking_off`: the variables that turn this model's thinking off, where the usual
    switches do not. `seconds`: the longest that one rendering may take. Raises ModelError
    where the template cannot be compiled, or loses or reorders what it is given.
    """

    def __init__(
        self,
        source: str,
        *,
        bos: str,
        eos: str,
        started: datetime.datetime,
        thinking_off: Mapping[str, Any] | None = None,
        seconds: float = RENDER_SECONDS,
    ) -> None:
        environment = _Sandbox(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
        environment.filters["tojson"] = _to_json
        environment.globals["raise_exception"] = _raise_exception
        # The date is the job's start, so that a resumed job renders the same prompts.
        environment.globals["strftime_now"] = started.strftime
        self.source = source
        self._seconds = seconds
        self._thinking_off = dict(thinking_off or {})
        self._tokens = {"bos_token": bos, "eos_token": eos}
        self._shapes: dict[tuple[tuple[str, ...], bool, bool], list[Part]] = {}
        try:
            self._template = environment.from_string(source)
        except TemplateError as error:
            raise ModelError(f"the model's chat template cannot be compiled: {error}") from error
        self._render(("user", "assistant", "user"), False, False)
        self.has_system = self._keeps_system()

    def _keeps_system(self) -> bool:
        """Whether a system message comes out as one; some templates refuse it, some drop it."""
        try:
            self._render(("system", "user"), False, False)
        except ModelError:
            return False
        return True

    def layout(
        self, messages: Sequence[Message], *, thinking: bool, continue_last: bool
    ) -> tuple[list[Part], list[str]]:
        """The template's text with slots, and the contents that go into the slots."""
        adapted = _adapt(messages, self.has_system)
        roles = tuple(message.role for message in adapted)
        parts = self._render(roles, thinking, continue_last)
        return parts, [message.content for message in adapted]

    def header(self, messages: Sequence[Message], *, thinking: bool) -> str:
        """The template's own text after the last message: where the answer begins."""
        parts, _ = self.layout(messages, thinking=thinking, continue_last=False)
        return parts[-1] if isinstance(parts[-1], str) else ""

    @property
    def can_not_think(self) -> bool:
        """Whether the template has a switch that turns thinking off."""
        return bool(self._thinking_off) or any(switch in self.source for switch in THINKING_SWITCHES)

    def _render(self, roles: tuple[str, ...], thinking: bool, continue_last: bool) -> list[Part]:
        key = (roles, thinking, continue_last)
        if key not in self._shapes:
            marks = [f"\ue000{number}\ue001" for number in range(len(roles))]
            messages = [{"role": role, "content": mark} for role, mark in zip(roles, marks)]
            text = self._call(messages, thinking, generation=not continue_last)
            parts = _split(text, marks)
            if continue_last:  # the last message stays open: what closes it is cut off
                parts = parts[: parts.index(len(roles) - 1) + 1]
            if len(self._shapes) > 64:
                self._shapes.clear()
            self._shapes[key] = parts
        return self._shapes[key]

    def _call(self, messages: list[dict[str, str]], thinking: bool, generation: bool) -> str:
        switches: dict[str, Any] = dict.fromkeys(THINKING_SWITCHES, thinking)
        if not thinking:
            switches.update(self._thinking_off)
        try:
            with _time_limit(self._seconds):
                pieces, size = [], 0
                for piece in self._template.generate(
                    messages=messages,
                    add_generation_prompt=generation,
                    tools=None,
                    documents=None,
                    **self._tokens,
                    **switches,
                ):
                    pieces.append(piece)
                    size += len(piece)
                    if size > RENDER_CHARACTERS:
                        raise ModelError("the model's chat template writes without end")
                return "".join(pieces)
        except _Timeout:
            raise ModelError(f"the model's chat template runs for more than {self._seconds:g} s") from None
        except _TEMPLATE_ERRORS as error:
            raise ModelError(f"the model's chat template fails: {error or type(error).__name__}") from error


def _split(text: str, marks: Sequence[str]) -> list[Part]:
    """
    Cut a rendered text at its placeholders.

    >>> _split("<u>\\ue0000\\ue001<a>", ["\\ue0000\\ue001"])
    ['<u>', 0, '<a>']
    """
    parts: list[Part] = []
    rest = text
    for number, mark in enumerate(marks):
        if rest.count(mark) != 1:
            raise ModelError("the model's chat template drops, doubles or reorders messages")
        before, rest = rest.split(mark)
        if before:
            parts.append(before)
        parts.append(number)
    if rest:
        parts.append(rest)
    return parts


def _adapt(messages: Sequence[Message], has_system: bool) -> list[Message]:
    """Neighbours of one role merged, contents stripped, a system message moved where it is not known."""
    adapted: list[Message] = []
    pending = ""
    for message in messages:
        content = message.content.strip()
        if message.role == "system" and (not has_system or not content):
            pending = f"{pending}\n\n{content}".strip()
            continue
        if pending and message.role == "user":
            content, pending = f"{pending}\n\n{content}".strip(), ""
        if adapted and adapted[-1].role == message.role:
            content = f"{adapted.pop().content}\n\n{content}"
        adapted.append(Message(message.role, content))
    if pending:
        adapted.append(Message("user", pending))
    if not adapted or (adapted[0].role == "assistant"):
        raise UsageError("a conversation begins with a message of the user")
    return adapted


@contextmanager
def _time_limit(seconds: float) -> Iterator[None]:
    """Raise _Timeout in this thread after some seconds; works for Python code, in any thread."""
    thread = ctypes.c_ulong(threading.get_ident())
    done = threading.Lock()
    finished = False

    def expire() -> None:
        with done:
            if not finished:
                ctypes.pythonapi.PyThreadState_SetAsyncExc(thread, ctypes.py_object(_Timeout))

    timer = threading.Timer(seconds, expire)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        with done:
            finished = True
        timer.cancel()


def _to_json(value: Any, indent: int | None = None, **_: Any) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _raise_exception(message: str) -> None:
    raise _RefusedError(message)
