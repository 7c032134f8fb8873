"""Waiting: a signal ends it at once, whatever the worker does, and the worker is told to stop."""

from __future__ import annotations

import os
import signal
import threading
import time

import pytest

from llmcli.chat.signals import Interrupted, Leaving, Signals
from llmcli.chat.work import Tick, follow, run


class Items:
    """An iterator that another thread closes, like an engine's stream."""

    def __init__(self, *items, then_wait=False):
        self.items = list(items)
        self.closed = threading.Event()
        self.then_wait = then_wait

    def __iter__(self):
        return self

    def __next__(self):
        if self.items:
            return self.items.pop(0)
        if self.then_wait:
            self.closed.wait(60)
        raise StopIteration

    def close(self):
        self.closed.set()


@pytest.fixture
def signals():
    with Signals(None) as installed:
        yield installed


def send(signum, after):
    threading.Timer(after, lambda: os.kill(os.getpid(), signum)).start()


def test_items_come_in_order_and_ticks_between_them(signals):
    def slowly():
        yield 1
        time.sleep(0.25)
        yield 2

    items = list(follow(slowly, signals))

    assert [item for item in items if not isinstance(item, Tick)] == [1, 2]
    assert sum(isinstance(item, Tick) for item in items[1:-1]) >= 1


def test_the_workers_error_is_raised_here(signals):
    def fails():
        yield 1
        raise KeyError("x")

    with pytest.raises(KeyError):
        list(follow(fails, signals))
    with pytest.raises(KeyError):
        run(lambda: {}["x"], signals)


@pytest.mark.parametrize(
    ("signum", "raised"), [(signal.SIGINT, Interrupted), (signal.SIGTERM, Leaving), (signal.SIGHUP, Leaving)]
)
def test_a_signal_ends_the_waiting_at_once_and_closes_the_iterator(signals, signum, raised):
    items = Items(1, then_wait=True)
    send(signum, 0.2)
    began = time.monotonic()
    with pytest.raises(raised):
        list(follow(lambda: items, signals))

    assert time.monotonic() - began < 30
    assert items.closed.is_set()


def test_a_signal_that_came_before_counts(signals):
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(0.01)
    with pytest.raises(Interrupted):
        run(lambda: time.sleep(60), signals)
    assert run(lambda: 7, signals) == 7


def test_handlers_are_put_back(signals):
    signals.__exit__()

    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    signals.__enter__()
