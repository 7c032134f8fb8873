"""Beam search: the likeliest answer, the same whatever is answered beside it."""

from __future__ import annotations

import itertools
import math
import time

import numpy as np
import pytest
from engines.conftest import ask

from llmcli.engines.base import EngineOptions
from llmcli.engines.llama.beams import BeamSearch
from llmcli.engines.llama.engine import LlamaEngine
from llmcli.errors import UsageError
from llmcli.messages import Completion, Sampling
from llmcli.models.resolve import resolve

VOCABULARY, LONGEST, END = 4, 3, 0
TRANSLATE = "Translate this text to German:\n\n"
TEXTS = [
    "He lost his keys in the park.",
    "The red book is on the table.",
    "We wait for the train.",
    "My sister lives in a small house near the sea, and she likes it very much.",
    "Snow!",
    "Where did you buy the bread?",
]


def logits_after(tokens):
    """Some numbers for each token after these."""
    return np.random.default_rng([7, *tokens]).normal(size=VOCABULARY).astype(np.float32) * 2


def mean_of(tokens):
    """The mean log-probability of an answer, computed token by token."""
    total = 0.0
    for at, token in enumerate(tokens):
        logits = [float(x) for x in logits_after(tokens[:at])]
        total += logits[token] - math.log(sum(map(math.exp, logits)))
    return total / len(tokens)


def searched(width):
    search = BeamSearch(width, LONGEST, lambda token: token == END)
    while True:
        before = search.live
        parents = search.advance(np.stack([logits_after(beam.tokens) for beam in search.live]))
        if not parents:
            return search.best()
        assert [before[parent].tokens for parent in parents] == [beam.tokens[:-1] for beam in search.live]
        assert len(parents) <= width


def test_with_beams_for_everything_the_best_answer_of_all_is_found():
    answers = [
        tokens
        for length in range(1, LONGEST + 1)
        for tokens in itertools.product(range(VOCABULARY), repeat=length)
        if tokens[-1] == END and END not in tokens[:-1]
    ]

    assert searched(VOCABULARY**LONGEST) == max(answers, key=mean_of)


def test_an_answer_that_comes_to_no_end_is_cut():
    search = BeamSearch(2, LONGEST, lambda token: False)
    while search.advance(np.stack([logits_after(beam.tokens) for beam in search.live])):
        pass

    assert len(search.best()) == LONGEST


def test_an_early_end_does_not_beat_a_likelier_answer_that_has_no_room():
    def logits(tokens):
        return np.array([-4.0 if not tokens else -9.0, 4.0, 0.0, 0.0], np.float32)

    search = BeamSearch(2, LONGEST, lambda token: token == END)
    while search.advance(np.stack([logits(beam.tokens) for beam in search.live])):
        pass

    assert search.best() == (1,) * LONGEST


def answers(engine, texts, **sampling):
    prompts = (ask(TRANSLATE + text) for text in texts)
    said = dict(engine.generate(prompts, Sampling(**{"beams": 4, **sampling})))
    return [said[position] for position in range(len(texts))]


@pytest.fixture(scope="module")
def alone():
    engine = LlamaEngine(resolve("starter"), EngineOptions(sequential=True, threads=1))
    yield answers(engine, TEXTS)
    engine.close()


def test_beams_find_likelier_answers_and_rows_beside_change_nothing(starter, alone):
    together = answers(starter, [*TEXTS, *(f"{text} {n}" for n, text in enumerate(TEXTS * 4))])
    greedy = answers(starter, TEXTS, beams=1)

    assert [answer.text for answer in together[: len(TEXTS)]] == [answer.text for answer in alone]
    assert [answer.text for answer in greedy] != [answer.text for answer in alone]
    assert {answer.finish_reason for answer in alone} == {"stop"}


def test_one_text_and_a_stream_are_answered_as_rows_are(starter, alone):
    for text, expected in zip(TEXTS[:2], alone, strict=False):
        [one] = answers(starter, [text])
        *pieces, whole = starter.stream(ask(TRANSLATE + text), Sampling(beams=4))

        assert one.text == whole.text == "".join(piece.text for piece in pieces) == expected.text


@pytest.mark.parametrize("kind", ["llama", "gemma3", "mamba", "lfm2"])
def test_every_kind_of_memory_can_be_searched(kind, shared_tiny):
    together, alone = (shared_tiny(kind, context=512, sequential=one) for one in (False, True))
    texts = [f"the and is {n}" for n in range(6)]

    first = answers(together, texts, max_tokens=6, beams=3)
    second = answers(alone, texts, max_tokens=6, beams=3)

    assert all(0 < answer.usage.answer <= 6 for answer in first)
    if kind == "llama":
        assert [answer.text for answer in first] == [answer.text for answer in second]


def test_a_cancelled_search_leaves_the_others_alone(starter, alone):
    stream = starter.stream(ask(TRANSLATE + TEXTS[3] * 3), Sampling(beams=8, max_tokens=400))
    rows = starter.generate((ask(TRANSLATE + text) for text in TEXTS), Sampling(beams=4))
    found = dict([next(rows)])
    stream.close()
    began = time.monotonic()
    found |= dict(rows)

    assert [found[position].text for position in range(len(TEXTS))] == [answer.text for answer in alone]
    assert time.monotonic() - began < 20
    assert isinstance(answers(starter, TEXTS[:1])[0], Completion)


@pytest.mark.parametrize("kind", ["llama", "gemma3"])
def test_rows_with_more_beams_than_those_before_are_answered(kind, open_tiny):
    engine = open_tiny(kind, context=512, parallel=1)
    texts = ["the and is", "of to this", "text good"]

    for beams in (1, 2, 8, 32, 1):
        said = answers(engine, texts, max_tokens=5, beams=beams)
        assert [answer.finish_reason for answer in said] == ["length"] * 3 or beams > 1
        assert all(isinstance(answer, Completion) for answer in said)


def test_more_beams_than_a_recurrent_model_has_states_for_are_refused(open_tiny):
    engine = open_tiny("mamba", context=512, parallel=4)

    [(_, answer)] = engine.generate([ask("Hi")], Sampling(beams=8, max_tokens=9))

    assert isinstance(answer, UsageError) and "beams" in answer.message


@pytest.mark.parametrize("kind", ["mamba", "lfm2"])
def test_a_cancel_changes_no_other_answer_of_a_recurrent_model(kind, open_tiny):
    engine, texts = open_tiny(kind, context=512), [f"the and is {n}" for n in range(8)]
    expected = [answer.text for answer in answers(engine, texts, max_tokens=40, beams=3)]

    for _ in range(3):
        found = {}
        rows = engine.generate((ask(TRANSLATE + text) for text in texts), Sampling(beams=3, max_tokens=40))
        for position, answer in rows:
            found[position] = answer.text
            stream = engine.stream(ask("text good"), Sampling(max_tokens=100))
            next(stream)
            stream.close()
        assert [found[position] for position in range(len(texts))] == expected


def test_beams_and_a_grammar_do_not_go_together(starter):
    with pytest.raises(UsageError, match="beams"):
        list(starter.generate([ask("Hi")], Sampling(beams=2, grammar='root ::= "a"')))


def test_a_drawn_answer_is_not_searched_for(starter):
    drawn = Sampling(temperature=0.7, seed=5, max_tokens=12)
    prompts = [ask(TRANSLATE + TEXTS[0])]

    [(_, plain)] = starter.generate(prompts, drawn)
    [(_, with_beams)] = starter.generate(prompts, Sampling(temperature=0.7, seed=5, max_tokens=12, beams=4))

    assert plain.text == with_beams.text
