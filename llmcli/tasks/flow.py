"""
Feed the engine with the prompts of text after text, and give each text's result when its answers are there.

The engine draws prompts when it has room, often from a thread of its own, so texts are read lazily: a
stream without end flows, and memory holds only the texts that are being worked on.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from threading import Lock
from typing import Any, Generic, Protocol, TypeVar

from llmcli.errors import LlmError
from llmcli.messages import Prompt
from llmcli.tasks.nouns import EMPTY, Failed, Result, closing

A = TypeVar("A")  # what the engine answers: Completion or LabelScores


class Work(Generic[A]):
    """One text on its way: what is asked about it, and the answers so far."""

    __slots__ = ("answers", "failed", "items", "left", "position", "text")

    def __init__(self, position: int, text: str, items: Sequence[Any]) -> None:
        self.position = position
        self.text = text
        self.items = items
        self.answers: list[A | LlmError | None] = [None] * len(items)
        self.left = len(items)
        self.failed = False


class Way(Protocol[A]):
    """
    A way to answer: what to ask about a text, how to ask it, and what the answers come to.

    `mends` are the errors of one item that `finish` gets over, if it has the other items' answers.
    """

    mends: tuple[type[LlmError], ...]

    def plan(self, text: str) -> Sequence[Any]:
        """The items of a text that need an answer each."""
        ...

    def prompt(self, text: str, item: Any) -> Prompt:
        """The prompt for one item."""
        ...

    def ask(self, prompts: Iterable[Prompt]) -> Iterator[tuple[int, A | LlmError]]:
        """The engine's answers."""
        ...

    def finish(self, work: Work[A]) -> Result:
        """The result of a text all of whose answers are there, or which failed. Raises Failed."""
        ...


def flow(texts: Iterable[str], way: Way[A]) -> Iterator[tuple[int, Result | LlmError]]:
    """(position, result) of every text, as they finish; see `run_tasks`."""
    desk = _Desk(texts, way)
    with closing(way.ask(desk.prompts())) as answers:
        for place, answer in answers:
            work = desk.take(place, answer)
            if work is not None:
                yield work.position, _finished(way, work)
            while desk.ready:
                position, ready = desk.ready.popleft()
                yield position, _finished(way, ready) if isinstance(ready, Work) else ready
    while desk.ready:
        position, ready = desk.ready.popleft()
        yield position, _finished(way, ready) if isinstance(ready, Work) else ready
    if desk.failure is not None:
        raise desk.failure


def _finished(way: Way[A], work: Work[A]) -> Result | LlmError:
    try:
        return way.finish(work)
    except Failed as failed:
        return failed.error


class _Desk(Generic[A]):
    """
    Which prompt belongs to which text. `prompts` runs in the engine's thread, the rest in the caller's;
    `ready` holds what needs no answer (any more): empty texts, texts that failed before they were asked.
    """

    def __init__(self, texts: Iterable[str], way: Way[A]) -> None:
        self.ready: deque[tuple[int, Work[A] | Result | LlmError]] = deque()
        self.failure: BaseException | None = None
        self._texts = texts
        self._way = way
        self._places: dict[int, tuple[Work[A], int]] = {}
        self._lock = Lock()

    def prompts(self) -> Iterator[Prompt]:
        """Every text's prompts. What the texts themselves raise is kept for the caller, after the answers."""
        place = 0
        try:
            for position, text in enumerate(self._texts):
                if not text or text.isspace():
                    self.ready.append((position, EMPTY))
                    continue
                work: Work[A] = Work(position, text, self._way.plan(text))
                if not work.items:
                    self.ready.append((position, work))
                for index, item in enumerate(work.items):
                    if work.failed:
                        self._skip(work, len(work.items) - index)
                        break
                    prompt = self._way.prompt(text, item)
                    self._places[place] = (work, index)
                    place += 1
                    yield prompt
        except Exception as error:
            self.failure = error

    def take(self, place: int, answer: A | LlmError) -> Work[A] | None:
        """Note an answer; give the text's work when it was the last one."""
        work, index = self._places.pop(place)
        with self._lock:
            work.answers[index] = answer
            work.left -= 1
            work.failed |= isinstance(answer, LlmError) and not isinstance(answer, self._way.mends)
            return work if work.left == 0 else None

    def _skip(self, work: Work[A], number: int) -> None:
        """A text that has failed is not asked about further."""
        with self._lock:
            work.left -= number
            if work.left == 0:
                self.ready.append((work.position, work))
