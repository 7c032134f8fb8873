"""
Rows answered together and rows answered alone: written, they are the same to the last digit.

Where many share one cache (labels, and very long rows) what else is in it changes the last digits of a
sum, and no answer that anybody could call sure.
"""

from __future__ import annotations

import datetime
import queue
import threading

import numpy as np
import pytest
from engines.conftest import ask

from llmcli.engines.base import EngineOptions
from llmcli.engines.llama import amx
from llmcli.engines.llama.chat_template import ChatTemplate
from llmcli.engines.llama.engine import LlamaEngine
from llmcli.engines.llama.library import Log, Model
from llmcli.engines.llama.requests import EXACT_PIECE, Limits, Request
from llmcli.engines.llama.scheduler import Scheduler
from llmcli.engines.llama.tokens import Tokenizer
from llmcli.messages import Completion, Usage
from llmcli.models.resolve import resolve

# In a process of their own (-n 0, this file alone): the small signal stack that keeps AMX off is too small
# for Python's own signal handlers, and after another test has loaded llama.cpp it comes too late.
pytestmark = pytest.mark.slow

SENTIMENT = "Is the sentiment of this text positive, neutral or negative?\n\n"
TRANSLATE = "Translate this text to German:\n\n"
LABELS = ("positive", "neutral", "negative")
THINGS = ("kettle", "lamp", "chair", "blanket", "clock", "carpet", "mirror", "toaster", "shelf", "pillow")
DAYS = ("on Monday", "two days late", "within a week", "after ten days", "in time")
OPINIONS = ("and I love it", "but it was broken", "and it is as described", "so I sent it back", "I think",
            "and my neighbours ask about it", "but one screw was missing", "it is fine", "what a waste",
            "and the colour is lovely")  # fmt: skip


def reviews(count):
    """Distinct texts of different lengths."""
    return [
        f"The {THINGS[n % 10]} came {DAYS[n // 10 % 5]}{' really' * (n % 7)}, {OPINIONS[n // 50 % 10]}."
        for n in range(count)
    ]


class Recorder:
    """In the place of a Writer: what it would have chosen, and by how much; it takes what it is told to."""

    def __init__(self, length, ends, script=None):
        self.length = length
        self.ends = ends  # whether a token means the end
        self.script = script
        self.tokens = []
        self.seen = []
        self.finish_reason = None

    def choose(self, logits):
        best = int(np.argmax(logits))
        second, first = np.partition(logits, -2)[-2:]
        self.seen.append((best, float(first - second), float(first)))
        return best if self.script is None else self.script[len(self.tokens)]

    def accept(self, token):
        self.tokens.append(token)
        if len(self.tokens) == self.length or self.ends(token):
            self.finish_reason = "stop"
        return ()

    def finish(self):
        return ()

    def free(self):
        pass

    def completion(self, prompt_tokens, cached):
        return Completion("", "length", Usage(prompt_tokens, len(self.tokens), cached))


class Loaded:
    """The built-in model in this process."""

    def __init__(self):
        amx.keep_off()
        self.log = Log()
        self.model = Model(str(resolve("starter").path), self.log)
        template = ChatTemplate(
            self.model.chat_template(), bos="", eos="", started=datetime.datetime(2026, 1, 1)
        )
        self.tokenizer = Tokenizer(self.model, template, space_prefix=False)

    def write(self, prompts, recorders, **settings):
        """Have every recorder write its prompt's answer; `settings` are those of the scheduler's Limits."""
        done = queue.SimpleQueue()
        usual = {"context": 384, "cells": 20_000, "parallel": 32, "threads": 2}
        limits = Limits(**{**usual, "longest_apart": 512, "heads": 4, **settings})
        scheduler = Scheduler(self.model, limits, self.log, lambda *said: done.put(said), lambda text: None)
        for number, (prompt, recorder) in enumerate(zip(prompts, recorders, strict=True)):
            scheduler.submit(
                Request(
                    number,
                    self.tokenizer.encode(prompt),
                    recorder.length,
                    make_writer=lambda limit, recorder=recorder: recorder,
                    many=True,
                    piece=EXACT_PIECE,
                    apart=not limits.sequential and limits.longest_apart > 0,
                    alone=limits.sequential or limits.longest_apart > 0,
                )
            )
        threading.Thread(target=scheduler.run, daemon=True).start()
        answers = [done.get() for _ in recorders]
        assert all(isinstance(answer, Completion) for _, answer in answers), answers
        return recorders


@pytest.fixture(scope="module")
def loaded():
    return Loaded()


def translations(count):
    return [
        ask(f"{TRANSLATE}{one} {two}") for one, two in zip(reviews(count), reviews(count)[::-1], strict=True)
    ]


def test_a_row_alone_is_the_same_to_the_last_digit_whatever_came_before_it(loaded):
    ends, prompts = loaded.model.ends_generation, translations(16)

    first = loaded.write(prompts, [Recorder(16, ends) for _ in prompts], sequential=True)
    backwards = loaded.write(prompts[::-1], [Recorder(16, ends) for _ in prompts], sequential=True)
    shared = loaded.write(prompts, [Recorder(16, ends) for _ in prompts], parallel=1)

    assert [one.seen for one in first] == [one.seen for one in backwards[::-1]]
    assert [one.tokens for one in first] == [one.tokens for one in shared]


@pytest.mark.parametrize("rows", [24, 500])
def test_rows_answered_together_are_those_answered_alone_to_the_last_digit(loaded, rows):
    """At every position the same token, and its logit and its distance to the next the same float32."""
    ends, prompts = loaded.model.ends_generation, translations(rows)

    alone = loaded.write(prompts, [Recorder(64, ends) for _ in prompts], sequential=True)
    together = loaded.write(prompts, [Recorder(64, ends) for _ in prompts])

    assert sum(len(one.seen) for one in alone) > 8 * rows
    assert [one.seen for one in together] == [one.seen for one in alone]


def test_rows_that_share_one_cache_differ_in_the_last_digits_only(loaded):
    """
    What rows too long for a cache of their own get, and what all got before.

    Activations are rounded to 8 bits, so the last digit of a sum can move a logit of the built-in model by up
    to 0.25, and where nothing is sure the choice with it.
    """
    ends, prompts = loaded.model.ends_generation, translations(100)
    alone = loaded.write(prompts, [Recorder(64, ends) for _ in prompts], sequential=True)
    together = loaded.write(prompts, [Recorder(64, ends, one.tokens) for one in alone], longest_apart=0)
    places = [
        (here, there)
        for one, other in zip(alone, together, strict=True)
        for here, there in zip(one.seen, other.seen, strict=True)
    ]
    gaps = [here[1] for here, there in places if here[0] != there[0]]

    assert len(gaps) <= len(places) // 50
    assert max(gaps, default=0) < 0.15


@pytest.mark.slow
def test_500_rows_scored_together_are_as_sure_as_those_scored_alone():
    prompts = [ask(SENTIMENT + text) for text in reviews(500)]

    def scores(prompts, **options):
        engine = LlamaEngine(resolve("starter"), EngineOptions(**options))
        try:
            found = dict(engine.score(prompts, LABELS))
            return [found[number].probabilities for number in range(len(prompts))]
        finally:
            engine.close()

    together, alone = scores(prompts), scores(prompts, sequential=True)
    again = scores(prompts[99::-1], sequential=True)

    assert alone[:100] == again[::-1]
    furthest = max(abs(a - b) for pair in zip(together, alone, strict=True) for a, b in zip(*pair))
    print(f"probabilities differ by at most {furthest:.1e}")
    assert furthest < 1e-2
