"""
Wait for slow work without losing a signal: the work runs on another thread.

Python runs signal handlers on the main thread, and a KeyboardInterrupt out of the
middle of an engine's conversation with its child would leave half a message behind.
So the main thread waits here, on a queue that the handlers write to as well, and
the worker is told to stop by closing its iterator.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Any, Final, TypeVar

from llmcli.chat.signals import Interrupted, Leaving, Signals

T = TypeVar("T")


class Tick:
    """Nothing came for a while: time to show that we wait, and to save."""


TICK: Final = Tick()
TICK_SECONDS = 0.1


class _End:
    def __init__(self, error: BaseException | None = None) -> None:
        self.error = error


def follow(make: Callable[[], Iterator[T]], signals: Signals) -> Iterator[T | Tick]:
    """
    The items of an iterator that runs on another thread, and a TICK every 0.1 s at least.

    Raises Interrupted on Ctrl-C and Leaving on TERM and HUP, at once, whatever the
    worker is doing; it is closed and left to end by itself. The worker's own
    exception is raised here.
    """
    events: SimpleQueue[Any] = SimpleQueue()
    stop = threading.Event()
    made: list[Iterator[T]] = []

    def work() -> None:
        try:
            made.append(make())
            for item in made[0]:
                if stop.is_set():
                    break
                events.put(item)
            events.put(_End())
        except BaseException as error:
            events.put(_End(error))
        finally:
            if made:
                _close(made[0])

    with signals.sent_to(events):
        threading.Thread(target=work, name="llm-answer", daemon=True).start()
        ended = False
        ticked = time.monotonic()
        try:
            while True:
                try:
                    item = events.get(timeout=TICK_SECONDS)
                except Empty:
                    item = TICK
                if isinstance(item, _End):
                    ended = True
                    if item.error is not None:
                        raise item.error
                    return
                if isinstance(item, Interrupted | Leaving):
                    signals.interrupted = False
                    raise item
                if item is not TICK:
                    yield item
                if item is TICK or time.monotonic() - ticked >= TICK_SECONDS:
                    ticked = time.monotonic()
                    yield TICK
        finally:
            stop.set()
            if made and not ended:
                _close(made[0])


def run(call: Callable[[], T], signals: Signals, waiting: Callable[[float], None] | None = None) -> T:
    """The result of one call, made on another thread; `waiting` hears the seconds passed."""
    began = time.monotonic()
    result: list[T] = []
    for item in follow(lambda: iter([call()]), signals):
        if isinstance(item, Tick):
            if waiting is not None:
                waiting(time.monotonic() - began)
        else:
            result.append(item)
    return result[0]


def _close(iterator: Iterator[Any]) -> None:
    close = getattr(iterator, "close", None)
    if close is not None:
        # A generator that is running on the other thread refuses; it ends at its next item.
        with suppress(ValueError):
            close()
