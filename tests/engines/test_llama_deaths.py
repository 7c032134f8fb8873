"""The local engine's child may die at any time: no row but the one to blame is lost."""

from __future__ import annotations

import os
import signal
import threading
import time

import pytest
from engines.conftest import LONG, ask, ask_unchecked

from llmcli.engines.llama.calls import UNDER_WAY
from llmcli.errors import EngineCrashed, ModelError
from llmcli.messages import Completion, LabelScores, Sampling

LABELS = ("positive", "neutral", "negative")
# A signal is a signal: one that cannot be caught, a crash and an abort stand for the others.
SIGNALS = ["KILL", "SEGV", "ABRT"]
SIGNALS += [pytest.param(name, marks=pytest.mark.slow) for name in ("BUS", "ILL", "FPE", "TERM")]


@pytest.fixture
def engine(shared_tiny):
    """One engine for all deaths: after each it lives again, or a test here fails."""
    return shared_tiny("llama", context=256)


@pytest.fixture
def talker(shared_tiny):
    """An engine with room for a long answer."""
    return shared_tiny("llama", trained=4096)


@pytest.mark.parametrize("name", SIGNALS)
def test_rows_survive_the_death_of_the_child_between_answers(name, engine):
    rows = UNDER_WAY + 20  # so that some are not even sent when the tenth is answered
    seen = []
    for position, scores in engine.score((ask(f"Text {n}") for n in range(rows)), LABELS):
        seen.append((position, scores))
        if 10 == len(seen):
            os.kill(engine.pid, getattr(signal, f"SIG{name}"))

    assert list(range(rows)) == sorted(position for position, _ in seen)
    assert [] == [scores for _, scores in seen if not isinstance(scores, LabelScores)]


@pytest.mark.parametrize("name", SIGNALS)
def test_rows_survive_the_death_of_the_child_before_the_first_answer(name, engine):
    def prompts():
        yield ask("Text 0")
        os.kill(engine.pid, getattr(signal, f"SIG{name}"))
        yield from (ask(f"Text {n}") for n in range(1, 10))

    answers = dict(engine.generate(prompts(), Sampling(max_tokens=2)))

    assert 10 == len(answers)
    assert [] == [answer for answer in answers.values() if not isinstance(answer, Completion)]


@pytest.mark.parametrize("name", SIGNALS)
def test_rows_survive_the_death_of_the_next_child_too_while_it_loads(name, engine):
    number = getattr(signal, f"SIG{name}")
    rows = UNDER_WAY + 20  # more than one child can have answered
    seen = []

    def kill_again(died):
        while engine.pid == died:
            time.sleep(0.001)
        time.sleep(0.05)  # it is importing, or loads: either is before it has said so
        os.kill(engine.pid, number)

    for position, scores in engine.score((ask(f"Text {n}") for n in range(rows)), LABELS):
        seen.append((position, scores))
        if 10 == len(seen):
            killer = threading.Thread(target=kill_again, args=(engine.pid,), daemon=True)
            killer.start()
            os.kill(engine.pid, number)

    killer.join(20)
    assert not killer.is_alive()
    assert list(range(rows)) == sorted(position for position, _ in seen)
    assert [] == [scores for _, scores in seen if not isinstance(scores, LabelScores)]


def test_two_calls_at_once_both_survive_the_death_of_the_child(shared_tiny):
    engine = shared_tiny("llama", context=256, parallel=4)
    both_began = threading.Event()

    def prompts(name):
        yield ask(name)
        both_began.wait(60)
        yield from (ask(f"{name} {n}") for n in range(8))

    first, second = (engine.generate(prompts(name), Sampling(max_tokens=60)) for name in ("One", "Other"))
    seen = [next(first), next(second)]
    both_began.set()
    time.sleep(0.05)
    os.kill(engine.pid, signal.SIGKILL)

    seen += list(first)  # starts the new child; only then does the second call hear of the death
    seen += _within(60, second)

    assert 18 == len(seen)
    assert all(isinstance(answer, Completion) for _, answer in seen)


def test_a_call_that_kills_the_child_is_not_the_end_of_another(engine):
    innocent = engine.generate([ask(f"Text {n}") for n in range(12)], Sampling(max_tokens=100))
    nested = "root ::= " + "(" * 200_000 + '"a"' + ")" * 200_000  # llama.cpp's parser recurses
    deadly = ask_unchecked(engine, [ask("Text")], Sampling(grammar=nested))
    blamed = []

    def kill():
        try:
            blamed.extend(answer for _, answer in deadly)
        except EngineCrashed as error:  # three deaths before any answer
            blamed.append(error)

    killing = threading.Thread(target=kill, daemon=True)
    answers = [next(innocent)]
    killing.start()
    answers += _within(60, innocent)
    killing.join(60)

    assert [Completion] * 12 == [type(answer) for _, answer in answers]
    assert [EngineCrashed] == [type(error) for error in blamed]


def _within(seconds, items):
    """The items that an iterator gives in so many seconds: one that hangs must not hang the tests."""
    found = []
    thread = threading.Thread(target=lambda: found.extend(items), daemon=True)
    thread.start()
    thread.join(seconds)
    return found


@pytest.mark.parametrize("name", SIGNALS)
def test_a_count_survives_a_death_that_is_none_of_its_business(name, engine):
    engine.count_tokens(["a"])
    os.kill(engine.pid, getattr(signal, f"SIG{name}"))

    assert [1] <= engine.count_tokens(["a"])


def test_a_closed_engine_ends_its_child_and_says_so_to_a_call_at_work(open_tiny):
    engine = open_tiny("llama", context=256)
    answers = engine.score((ask(f"Text {n}") for n in range(100_000)), LABELS)
    next(answers)
    child = engine.pid
    engine.close()

    with pytest.raises(EngineCrashed, match="closed"):
        list(answers)
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)


def test_ctrl_c_while_the_child_starts_is_the_parents(open_tiny):
    engine = open_tiny("llama", context=256)
    for _ in range(10):  # before its first line, in the middle of its imports, or later
        os.kill(engine.pid, signal.SIGINT)
        time.sleep(0.02)

    assert engine.count_tokens(["a"])


@pytest.mark.parametrize("name", SIGNALS)
def test_a_death_while_loading_names_the_signal(name, open_tiny):
    engine = open_tiny("llama")
    os.kill(engine.pid, getattr(signal, f"SIG{name}"))

    with pytest.raises(EngineCrashed, match=f"SIG{name}"):
        engine.count_tokens(["a"])


@pytest.mark.parametrize("name", SIGNALS)
def test_a_death_while_streaming_names_the_signal_and_the_next_question_is_answered(name, talker):
    stream = talker.stream(ask("Go on."), LONG)
    next(stream)
    os.kill(talker.pid, getattr(signal, f"SIG{name}"))

    with pytest.raises(EngineCrashed, match=f"SIG{name}"):
        list(stream)
    assert list(talker.stream(ask("Hi"), Sampling(max_tokens=1)))


def test_a_model_file_cut_during_a_run_is_noticed(open_tiny, tmp_path):
    engine = open_tiny("llama", context=256)
    answers = engine.score((ask(f"Text {n}") for n in range(100_000)), LABELS)
    next(answers)
    os.truncate(tmp_path / "llama.gguf", 1000)

    with pytest.raises(ModelError, match="changed while it was in use"):
        list(answers)


def test_an_answer_right_after_the_model_was_overwritten_is_none(open_tiny, tmp_path):
    engine = open_tiny("llama", context=256)
    engine.count_tokens(["a"])
    with (tmp_path / "llama.gguf").open("r+b") as file:
        file.seek(-1000, os.SEEK_END)
        file.write(bytes(900))

    with pytest.raises(ModelError, match="changed while it was in use"):
        list(engine.score([ask("Text")], LABELS))


def test_a_model_file_deleted_during_a_run_is_whole_as_long_as_it_is_mapped(open_tiny, tmp_path):
    engine = open_tiny("llama", context=256)
    engine.count_tokens(["a"])
    (tmp_path / "llama.gguf").unlink()
    [(_, scores)] = engine.score([ask("Text")], LABELS)

    assert isinstance(scores, LabelScores)


def test_the_last_words_are_not_those_of_a_cancel(talker):
    for _ in range(5):
        stream = talker.stream(ask("Go on."), LONG)
        next(stream)
        stream.close()
        talker.count_tokens(["a"])
    stream = talker.stream(ask("Go on."), LONG)
    next(stream)
    os.kill(talker.pid, signal.SIGKILL)

    with pytest.raises(EngineCrashed, match="SIGKILL") as caught:
        list(stream)
    assert "failed" not in caught.value.message
