"""
Many prompts under way at once: drawn lazily, answered in any order, none lost when the child dies.

A call has a thread that reads its prompts, so that a slow source (`tail -f`) never delays
an answer, and lets only so many be under way that memory stays flat.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from llmcli.engines.llama import wire
from llmcli.errors import EngineCrashed, LlmError, UnreadableInput
from llmcli.messages import Prompt

if TYPE_CHECKING:
    from llmcli.engines.llama.engine import LlamaEngine

UNDER_WAY = 128
UNDER_WAY_CHARACTERS = 4_000_000
DEATHS_BEFORE_ANY_ANSWER = 3


@dataclass(frozen=True)
class Died:
    """The child of this epoch is no more."""

    epoch: int


@dataclass(frozen=True)
class _Exhausted:
    """There are no more prompts; `error` is what their source raised."""

    error: BaseException | None = None


MakeRequest = Callable[[int, Prompt, bool], wire.ToChild]


class Call:
    """One call of generate or score. `make_request(id, prompt, many)` says what is asked of the child."""

    def __init__(self, engine: LlamaEngine, prompts: Iterable[Prompt], make_request: MakeRequest) -> None:
        self._engine = engine
        self._prompts = prompts
        self._make_request = make_request
        self.inbox: SimpleQueue[Any] = SimpleQueue()
        self._under_way: dict[int, tuple[int, Prompt]] = {}
        self._room = threading.Condition()
        self._characters = 0
        self._closed = False
        self._paused = False
        self._answers = 0
        self._deaths = 0

    def results(self) -> Iterator[tuple[int, Any]]:
        """(position, answer or LlmError), as they come."""
        self._engine.register(self)
        threading.Thread(target=self._feed, daemon=True).start()
        exhausted = False
        try:
            while not exhausted or self._under_way:
                item = self.inbox.get()
                if isinstance(item, _Exhausted):
                    if item.error is not None:
                        raise item.error
                    exhausted = True
                elif isinstance(item, Died):
                    yield from self._recover(item)
                else:
                    yield from self._take(item)
        finally:
            self._close()

    # the thread that reads prompts

    def _feed(self) -> None:
        error: BaseException | None = None
        many = getattr(self._prompts, "__len__", lambda: 0)() > 1
        try:
            for position, prompt in enumerate(self._prompts):
                if not self._wait_for_room(len(prompt.text)):
                    return
                self._send(position, prompt, many or position > 0)
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

    def _send(self, position: int, prompt: Prompt, many: bool) -> int:
        request = self._engine.new_id(self)
        with self._room:
            self._under_way[request] = (position, prompt)
        epoch = self._engine.epoch
        try:
            if not self._engine.send(self._make_request(request, prompt, many)):
                self.inbox.put(Died(epoch))
        except UnicodeEncodeError as error:
            self.inbox.put(wire.failed(request, _surrogate(error)))
        return request

    # the thread that takes answers

    def _take(self, message: Any) -> Iterator[tuple[int, Any]]:
        position = self._settle(message.id)
        if position is not None:
            self._answers += 1
            yield position, self._engine.answer(message)

    def _settle(self, request: int) -> int | None:
        """A request is done: room for another."""
        with self._room:
            found = self._under_way.pop(request, None)
            if found is None:
                return None
            self._characters -= len(found[1].text)
            self._room.notify()
        self._engine.forget(request)
        return found[0]

    def _recover(self, died: Died) -> Iterator[tuple[int, Any]]:
        """
        Ask again, one at a time, what was under way when the child died.

        What kills a child when it is alone with it is to blame, and its error; the others go on.
        """
        if died.epoch != self._engine.epoch:
            return  # told twice
        self._pause(True)
        again = list(self._under_way.values())
        for request in list(self._under_way):
            self._settle(request)
        reason = self._engine.revive(died.epoch)
        self._count_death(reason)
        for position, prompt in again:
            yield position, self._alone(position, prompt)
        self._pause(False)

    def _alone(self, position: int, prompt: Prompt) -> Any:
        with self._room:
            self._characters += len(prompt.text)
        request = self._send(position, prompt, False)
        while True:
            item = self.inbox.get()
            if isinstance(item, Died):
                if item.epoch != self._engine.epoch:
                    continue
                self._settle(request)
                reason = self._engine.revive(item.epoch)
                self._count_death(reason)
                return reason
            if isinstance(item, _Exhausted):
                self.inbox.put(item)  # for `results`, when this is over
                continue
            if item.id == request:
                self._settle(request)
                self._answers += 1
                return self._engine.answer(item)

    def _count_death(self, reason: EngineCrashed) -> None:
        self._deaths += 1
        if not self._answers and self._deaths >= DEATHS_BEFORE_ANY_ANSWER:
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
        if pending:
            for request in pending:
                self._engine.forget(request)
            self._engine.send(wire.Cancel(pending))


def _surrogate(error: UnicodeEncodeError) -> LlmError:
    return UnreadableInput(
        f"the text holds half a surrogate pair (\\u{ord(error.object[error.start]):04x}) and is not Unicode",
        "repair the text where it comes from",
    )
