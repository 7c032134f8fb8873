"""
Several schedulers over one model, each with a context and threads of its own.

The threads of one decode wait for each other after every product. Where a model is so small that a product
takes no longer than that, two decodes with one thread each get more done than one with two; and while
one lane is in Python, the others decode.
"""

from __future__ import annotations

import os
import threading
import traceback
from collections.abc import Sequence

from llmcli.engines.llama.requests import Request
from llmcli.engines.llama.scheduler import Scheduler


class Lanes:
    """The schedulers of a model: one of many requests goes to whoever has fewest, others to the first."""

    def __init__(self, schedulers: Sequence[Scheduler]) -> None:
        self._all = tuple(schedulers)

    @property
    def first(self) -> Scheduler:
        """The one that answers whatever is not one of many."""
        return self._all[0]

    def submit(self, request: Request) -> None:
        """Queue a request."""
        lane = min(self._all, key=lambda lane: lane.requests) if request.many else self.first
        lane.submit(request)

    def cancel(self, ids: tuple[int, ...]) -> None:
        """Forget requests, whoever has them."""
        for lane in self._all:
            lane.cancel(ids)

    def run(self) -> None:
        """Answer requests for ever."""
        for lane in self._all[1:]:
            threading.Thread(target=_run, args=(lane,), daemon=True).start()
        self.first.run()

    def measured(self) -> tuple[float, float, int]:
        """Seconds in llama_decode and at work, the mean of all lanes; and the tokens decoded by all."""
        count = len(self._all)
        decoding = sum(lane.cache.decode_seconds for lane in self._all) / count
        busy = sum(lane.busy_seconds for lane in self._all) / count
        return decoding, busy, sum(lane.cache.decoded_tokens for lane in self._all)


def _run(lane: Scheduler) -> None:
    """As in the main thread, an error of ours ends the process: else its requests would wait for ever."""
    try:
        lane.run()
    except BaseException:
        traceback.print_exc()
        os._exit(1)
