"""Answers in the order of their rows, in bounded memory, whoever reads the rows and in whatever order."""

from __future__ import annotations

import queue
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmcli.errors import EngineCrashed, UnusableAnswer
from llmcli.rows.window import deliver, in_order
from llmcli.tasks import Result


def last_first(texts):
    """Workers that draw everything they are given, and answer the last text first."""
    drawn = list(enumerate(texts))
    for position, text in reversed(drawn):
        yield position, Result(text.upper())


def threaded(texts):
    """Workers that read texts in a thread of their own, as the llama engine does."""
    answers: queue.SimpleQueue = queue.SimpleQueue()

    def read():
        for position, text in enumerate(texts):
            answers.put((position, Result(text.upper())))
        answers.put(None)

    threading.Thread(target=read, daemon=True).start()
    while (answer := answers.get()) is not None:
        yield answer


def run(items, answer, rows=8):
    return [
        (item, outcome.text)
        for ready in in_order(items, lambda item: item, answer, rows=rows)
        for item, outcome in ready
    ]


@given(st.lists(st.sampled_from(["a", "b", "c", "", " ", "d", "e", "f"]), max_size=60))
def test_every_item_comes_once_in_order_with_its_own_answer(items):
    expected = [(item, item.strip().upper()) for item in items]

    assert run(items, last_first) == expected
    assert run(items, threaded) == expected


def test_no_more_rows_are_taken_than_the_window_holds():
    taken = []

    def items():
        for number in range(100):
            taken.append(number)
            yield f"text {number}"

    ready = in_order(items(), lambda item: item, last_first, rows=8)
    next(ready)

    assert len(taken) <= 8


def test_an_error_that_a_row_has_already_stands_in_its_place():
    error = UnusableAnswer("bad row")
    items = ["a", error, "b"]

    outcomes = [outcome for ready in in_order(items, lambda item: item, last_first) for _, outcome in ready]

    assert outcomes[1] is error
    assert [outcomes[0].text, outcomes[2].text] == ["A", "B"]


def test_what_reading_raises_comes_after_the_rows_before_it():
    def items():
        yield "a"
        yield "b"
        raise OSError("the disk is gone")

    seen = []
    with pytest.raises(OSError, match="gone"):
        for ready in in_order(items(), lambda item: item, last_first):
            seen += [item for item, _ in ready]

    assert seen == ["a", "b"]


def test_what_the_workers_raise_passes_through():
    def dying(texts):
        yield 0, Result(next(iter(texts)))
        raise EngineCrashed("dead")

    with pytest.raises(EngineCrashed):
        run(["a", "b"], dying)


@given(st.lists(st.sampled_from(["a", "b", "c", "", " ", "d", "e", "f"]), max_size=60))
def test_what_is_delivered_is_the_same_in_the_same_order(items):
    for answer in (last_first, threaded):
        seen = []
        deliver(items, lambda item: item, answer, seen.extend, rows=8)

        assert [(item, outcome.text) for item, outcome in seen] == [
            (item, item.strip().upper()) for item in items
        ]


def test_each_item_is_delivered_without_waiting_for_the_next_one():
    """Each is given only after everything before it was seen, as by a person who types."""
    error = UnusableAnswer("bad row")
    items = ["", error, "a", "a", " ", "b", error, "a", ""]
    seen = []

    def typed():
        for number, item in enumerate(items):
            while len(seen) < number:
                time.sleep(0.001)
            yield item

    deliver(typed(), lambda item: item, threaded, seen.extend)

    assert [item for item, _ in seen] == items
    assert ["", "A", "A", "", "B", "A", ""] == [outcome.text for _, outcome in seen if outcome is not error]


def test_what_the_taker_raises_ends_the_delivery_from_either_thread():
    def broken(ready):
        raise BrokenPipeError

    def endless(first):
        yield first
        while True:
            yield "a"

    for first in ("", "a"):
        with pytest.raises(BrokenPipeError):
            deliver(endless(first), lambda item: item, threaded, broken, rows=8)
