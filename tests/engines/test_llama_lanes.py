"""Several decodes side by side: many labels of a small model, the same as from one."""

from __future__ import annotations

import os
import signal

import pytest
from engines.conftest import ask
from ggufs import tiny

from llmcli.engines.base import EngineOptions
from llmcli.engines.llama.engine import LlamaEngine
from llmcli.engines.llama.loading import MOST_LANES, SMALL, load_message
from llmcli.models import gguf
from llmcli.models.resolve import ModelFile

MANY = EngineOptions(threads=3, texts="many", only_labels=True)
TEXTS = [" ".join("abcdefghijklmnop"[number % 7 :][: 3 + number % 9]) for number in range(150)]
LABELS = ["a", "b c", "the d"]


@pytest.fixture
def model(tmp_path) -> ModelFile:
    return ModelFile("small", tiny("qwen2", layers=2).write(tmp_path / "small.gguf"))


def scored(engine: LlamaEngine) -> list[tuple[float, ...]]:
    found = dict(engine.score([ask(text) for text in TEXTS], LABELS))
    return [found[number].probabilities for number in range(len(TEXTS))]


@pytest.mark.parametrize(
    ("options", "lanes"),
    [
        (MANY, 3),
        (EngineOptions(threads=64, texts="many", only_labels=True), MOST_LANES),
        (EngineOptions(threads=3, texts="many", only_labels=True, parallel=1), 1),
        (EngineOptions(threads=3, texts="many", only_labels=True, sequential=True), 1),
        (EngineOptions(threads=3, texts="many"), 1),
        (EngineOptions(threads=3, texts="some", only_labels=True), 1),
    ],
)
def test_many_labels_of_a_small_model_are_read_side_by_side(model, options, lanes):
    header = gguf.check(model.path)

    assert load_message(model, header, options, started=0.0).lanes == lanes
    os.truncate(model.path, SMALL + 1)
    assert load_message(model, header, options, started=0.0).lanes == 1


def test_every_text_gets_its_own_labels_whoever_reads_it(model):
    answers = []
    for options in (MANY, EngineOptions(threads=1, sequential=True, only_labels=True)):
        engine = LlamaEngine(model, options)
        answers.append(scored(engine))
        engine.close()

    assert len(set(answers[1])) > 20
    for together, alone in zip(*answers, strict=True):
        assert together == pytest.approx(alone, abs=2e-3)


def test_after_a_cancel_every_lane_answers_what_is_asked_next(model):
    engine = LlamaEngine(model, MANY)
    expected = scored(engine)
    for stop_after in (1, 7, 40):
        started = engine.score((ask(TEXTS[number % len(TEXTS)]) for number in range(10_000)), LABELS)
        for _ in range(stop_after):
            next(started)
        started.close()
        assert scored(engine) == [pytest.approx(probabilities, abs=2e-3) for probabilities in expected]
    engine.close()


def test_texts_that_a_dying_child_had_in_all_lanes_are_asked_again(model):
    engine = LlamaEngine(model, MANY)
    expected = scored(engine)
    prompts = iter([ask(text) for text in TEXTS])
    found = engine.score(prompts, LABELS)
    answers = dict(next(found) for _ in range(10))
    os.kill(engine.pid, signal.SIGKILL)
    answers.update(found)

    assert [answers[number].probabilities for number in range(len(TEXTS))] == [
        pytest.approx(probabilities, abs=2e-3) for probabilities in expected
    ]
    engine.close()
