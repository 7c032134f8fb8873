"""
Many prompts under way at once: drawn lazily, answered in any order, none lost when the child dies.

A call has a thread that reads its prompts, so that a slow source (`tail -f`) never delays
an answer, and lets only so many be under way that memory stays flat.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sized
from dataclasses import dataclass
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from llmcli.engines.llama import wire
from llmcli.errors import EngineCrashed, UnreadableInput
from llmcli.messages import Prompt

if TYPE_CHECKING:
    from llmcli.engines.llama.engine import LlamaEngine

UNDER_WAY = 128
UNDER_WAY_CHARACTERS = 4_000_000
DEATHS_BEFORE_ANY_ANSWER = 3
TRIALS = 3
"""How often a prompt is tried where another call, working beside it, may have killed the child."""


@dataclass(frozen=True)
class Died:
    """The child of this epoch is no more; `alone`: nobody else had asked it anything."""

    epoch: int
    alone: bool = False


@dataclass(eq=False)
class _Asked:
    """A prompt under way with the child of an epoch; `deaths` counts those it was tried alone with."""

    position: int
    prompt: Prompt
    epoch: int
    deaths: int = 0


@dataclass(frozen=True)
class _Exhausted:
    """There are no more prompts; `error` is what their source raised."""

    error: BaseException | None = None


MakeRequest = Callable[[int, Prompt, bool], wire.ToChild]


class Call:
    """
    One call of generate or score. `make_request(id, prompt, many)` says what is asked of the child.

    `expects_more`: behind the first of prompts whose number is not known.
    """

    def __init__(
        self,
        engine: LlamaEngine,
        prompts: Iterable[Prompt],
        make_request: MakeRequest,
        *,
        expects_more: bool = False,
    ) -> None:
        self._engine = engine
        self._prompts = prompts
        self._expects_more = expects_more
        self._make_request = make_request
        self.inbox: SimpleQueue[Any] = SimpleQueue()
        self._under_way: dict[int, _Asked] = {}
        self._again: deque[_Asked] = deque()
        self._alone: int | None = None
        self._room = threading.Condition()
        self._characters = 0
        self._closed = False
        self._paused = False
        self._answers = 0
        self._deaths: set[int] = set()

    def results(self) -> Iterator[tuple[int, Any]]:
        """(position, answer or LlmError), as they come."""
        self._engine.register(self)
        threading.Thread(target=self._feed, daemon=True).start()
        exhausted = False
        try:
            while not exhausted or self._under_way or self._again:
                item = self.inbox.get()
                if isinstance(item, _Exhausted):
                    if item.error is not None:
                        raise item.error
                    exhausted = True
                elif isinstance(item, Died):
                    yield from self._recover(item)
                else:
                    yield from self._take(item)
                self._ask_again()
        finally:
            self._close()

    # the thread that reads prompts

    def _feed(self) -> None:
        error: BaseException | None = None
        try:
            many = len(self._prompts) > 1 if isinstance(self._prompts, Sized) else self._expects_more
            for position, prompt in enumerate(self._prompts):
                if not self._wait_for_room(len(prompt.text)):
                    return
                self._send(_Asked(position, prompt, self._engine.epoch), many or position > 0)
        except BaseException as raised:
            error = raised
        self.inbox.put(_Exhausted(error))

    def _wait_for_room(self, characters: int) -> bool:
        with self._room:
            while not self._closed and (
                self._paused
                or len(self._under_way) >= UNDER_WAY
                or (self._under_way and self._characters + characters > UNDER_WAY_CHARACTERS)
            ):
                self._room.wait()
            self._characters += characters
            return not self._closed

    def _send(self, asked: _Asked, many: bool) -> int:
        request = self._engine.new_id(self)
        with self._room:
            self._under_way[request] = asked
        try:
            if not self._engine.send(self._make_request(request, asked.prompt, many), asked.epoch):
                self.inbox.put(Died(asked.epoch))
        except UnreadableInput as error:
            self.inbox.put(wire.failed(request, error))
        if self._closed:  # since: its cancel may have come before this request
            self._engine.forget(request)
            self._engine.cancel((request,))
        return request

    # the thread that takes answers

    def _take(self, message: Any) -> Iterator[tuple[int, Any]]:
        asked = self._settle(message.id)
        if asked is not None:
            self._answers += 1
            yield asked.position, self._engine.answer(message)

    def _settle(self, request: int) -> _Asked | None:
        """A request is done: room for another."""
        with self._room:
            asked = self._under_way.pop(request, None)
            if asked is None:
                return None
            self._characters -= len(asked.prompt.text)
            self._room.notify()
        self._engine.forget(request)
        return asked

    def _recover(self, died: Died) -> Iterator[tuple[int, Any]]:
        """
        What was under way when the child died is asked again, one at a time.

        What kills a child when it is alone with it is to blame, and its error; the others go on.
        Another call may have started the new child before this one hears of the death: what was lost
        is known by the epoch that it was sent to.
        """
        with self._room:
            lost = [request for request, asked in self._under_way.items() if asked.epoch <= died.epoch]
        if not lost:
            return  # told twice
        self._pause(True)
        again = [asked for request in lost if (asked := self._settle(request))]
        tried = lost == [self._alone]
        reason = self._engine.revive(died.epoch)
        self._count_death(died.epoch, reason)
        if tried:
            again[0].deaths += 1
            if died.alone or again[0].deaths == TRIALS:
                yield again[0].position, reason
                return
        self._again.extendleft(reversed(again))

    def _ask_again(self) -> None:
        """The next of those that a death has left over, when the one before is answered; then all go on."""
        if self._alone in self._under_way:
            return
        self._alone = None
        if self._again:
            asked = self._again.popleft()
            asked.epoch = self._engine.epoch
            with self._room:
                self._characters += len(asked.prompt.text)
            self._alone = self._send(asked, False)
        elif self._paused:
            self._pause(False)

    def _count_death(self, epoch: int, reason: EngineCrashed) -> None:
        self._deaths.add(epoch)
        if not self._answers and len(self._deaths) >= DEATHS_BEFORE_ANY_ANSWER:
            raise reason

    def _pause(self, paused: bool) -> None:
        with self._room:
            self._paused = paused
            self._room.notify()

    def _close(self) -> None:
        with self._room:
            self._closed = True
            pending = tuple(self._under_way)
            self._room.notify()
        self._engine.unregister(self)
        for request in pending:
            self._engine.forget(request)
        if pending:
            self._engine.cancel(pending)
