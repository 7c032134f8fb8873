"""
What shares a decode changes the last digits of a sum, and no answer that anybody could call sure.

A teacher's tokens, written one row at a time, are forced on the same rows answered together: at
every position the likeliest token must be the teacher's, but where the first two are all but equal.
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
from llmcli.engines.llama.requests import Limits, Request
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
        limits = Limits(**{"context": 384, "cells": 20_000, "parallel": 32, "threads": 2, **settings})
        scheduler = Scheduler(self.model, limits, self.log, lambda *said: done.put(said), lambda text: None)
        for number, (prompt, recorder) in enumerate(zip(prompts, recorders, strict=True)):
            scheduler.submit(
                Request(
                    number,
                    self.tokenizer.encode(prompt),
                    recorder.length,
                    make_writer=lambda limit, recorder=recorder: recorder,
                    many=True,
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


def compare(loaded, rows, length, **settings):
    """Where rows answered together choose otherwise than alone: the first two's distances; places in all."""
    ends, prompts = loaded.model.ends_generation, translations(rows)
    alone = loaded.write(prompts, [Recorder(length, ends) for _ in prompts], sequential=True, **settings)
    together = loaded.write(prompts, [Recorder(length, ends, one.tokens) for one in alone], **settings)
    places = [
        (here, there)
        for one, other in zip(alone, together, strict=True)
        for here, there in zip(one.seen, other.seen, strict=True)
    ]
    gaps = [here[1] for here, there in places if here[0] != there[0]]
    print(f"{len(gaps)} of {len(places)} differ, by at most {max(gaps, default=0):.3f}; {settings}")
    assert len(places) > 8 * rows
    return gaps, len(places)


def test_a_row_alone_is_the_same_to_the_last_digit_whatever_came_before_it(loaded):
    ends, prompts = loaded.model.ends_generation, translations(16)

    first = loaded.write(prompts, [Recorder(16, ends) for _ in prompts], sequential=True)
    backwards = loaded.write(prompts[::-1], [Recorder(16, ends) for _ in prompts], sequential=True)
    shared = loaded.write(prompts, [Recorder(16, ends) for _ in prompts], parallel=1)

    assert [one.seen for one in first] == [one.seen for one in backwards[::-1]]
    assert [one.tokens for one in first] == [one.tokens for one in shared]


def test_rows_answered_together_choose_as_those_answered_alone(loaded):
    gaps, places = compare(loaded, 24, 24, flash_attention=False, kv_type="f32")

    assert len(gaps) <= places // 50
    assert max(gaps, default=0) < 0.1


@pytest.mark.slow
def test_500_rows_answered_together_choose_as_those_answered_alone(loaded):
    """
    Activations are rounded to 8 bits, so the last digit of a sum can move a logit of the built-in model by up
    to 0.25, and where nothing is sure the choice with it. Measured with AVX-512, 20,000 places: 0.3 % without
    flash attention and 1.5 % with it (its kernel for prompts below 64 tokens sums in half precision). The aim
    was 0.1 % and 0.05: a model that is surer of its words may meet it, this one in a translation does not.
    """
    gaps, places = compare(loaded, 500, 64, flash_attention=False, kv_type="f32")
    assert len(gaps) <= places // 200
    assert max(gaps, default=0) < 0.1

    gaps, places = compare(loaded, 500, 64)
    assert len(gaps) <= places // 50
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
