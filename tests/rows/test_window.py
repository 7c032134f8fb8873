"""Answers in the order of their rows, in bounded memory, whoever reads the rows and in whatever order."""

from __future__ import annotations

import queue
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmcli.errors import EngineCrashed, UnusableAnswer
from llmcli.rows.window import in_order
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


def test_on_a_live_pipe_a_known_text_is_answered_without_waiting_for_the_next_one():
    """Each item is given only after everything before it was seen, as by a person who types."""
    seen: list[tuple[str, str]] = []

    def typed():
        for number, text in enumerate(["a", "a", "b", "a"]):
            while len(seen) < number:
                time.sleep(0.001)
            yield text

    for ready in in_order(typed(), lambda item: item, threaded, live=True):
        seen += [(item, outcome.text) for item, outcome in ready]

    assert seen == [("a", "A"), ("a", "A"), ("b", "B"), ("a", "A")]
