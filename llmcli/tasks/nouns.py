"""What a task gives, and what it works with."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from msgspec import Struct

from llmcli.engines.base import Engine
from llmcli.errors import LlmError
from llmcli.messages import DEGENERATE, FinishReason, Prompt, Sampling, Usage
from llmcli.templates import Template

Truncate = Literal["head", "tail", "middle"]
Notify = Callable[[str], None]


class Extracted(Struct, frozen=True):
    """
    A sentence of the text itself: `text` is verbatim its characters `start` to `end`, `line` counts from 1;
    `p` is the probability that it is a main point, None where the engine gives none.
    """

    text: str
    line: int
    start: int
    end: int
    p: float | None


class Result(Struct, frozen=True):
    """
    The answer to one text.

    A label's `p` and `probabilities` are None where the engine has none; `method` says how they came
    about. `usage` is of all requests that the text took, `chunks` the parts it was read in. `left_out`
    counts the tokens of the text that were cut away because the caller asked for that (`truncate`).
    """

    text: str
    p: float | None = None
    probabilities: dict[str, float | None] | None = None
    method: str | None = None
    finish_reason: FinishReason = "stop"
    usage: Usage = Usage()
    chunks: int = 1
    spans: tuple[Extracted, ...] = ()
    thinking: str = ""
    left_out: int = 0

    @property
    def unusable(self) -> str | None:
        """Why this is no answer, though it is what the model said; None where it is one."""
        if self.finish_reason == "degenerate":
            return DEGENERATE
        if self.finish_reason == "length" and not self.text.strip():
            return "the answer has no word: --max-tokens were spent before it began"
        return None


EMPTY = Result("", chunks=0)  # the answer to a text without words; no model is asked


class Failed(Exception):
    """One text has no answer."""

    def __init__(self, error: LlmError) -> None:
        super().__init__(str(error))
        self.error = error


@dataclass(frozen=True)
class Task:
    """What is asked of every text, of whom, and how."""

    template: Template
    engine: Engine
    values: Mapping[str, Any]
    sampling: Sampling
    notify: Notify
    truncate: Truncate | None = None

    def count(self, prompts: Iterable[Prompt | str]) -> list[int]:
        """Tokens of each."""
        return self.engine.count_tokens(list(prompts))


A = TypeVar("A")


@contextmanager
def closing(answers: Iterator[A]) -> Iterator[Iterator[A]]:
    """Close an engine's iterator at the end, also an early one: that cancels its requests."""
    try:
        yield answers
    finally:
        close = getattr(answers, "close", None)
        if close is not None:
            close()


def in_full(
    answers: Iterator[tuple[int, A | LlmError]], number: int, notify: Notify, what: str = "part"
) -> list[A]:
    """
    All answers to `number` prompts, in the prompts' order.

    Raises Failed with the first error among them.
    """
    found: dict[int, A] = {}
    with closing(answers):
        for position, answer in answers:
            if isinstance(answer, LlmError):
                raise Failed(answer)
            found[position] = answer
            if number > 1:
                notify(f"{what} {len(found):,} of {number:,}")
    return [found[position] for position in range(number)]


def total(usages: Iterable[Usage]) -> Usage:
    """The tokens of several requests together."""
    return sum(usages, Usage())
