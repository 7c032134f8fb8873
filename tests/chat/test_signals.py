"""Signals at random moments: the terminal is restored and the history is whole."""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from pathlib import Path

import pytest

WORDS = [f"word{number}" for number in range(60)]
REPLY = " ".join(WORDS)
ENDINGS = {signal.SIGTERM: 143, signal.SIGHUP: 129}


@pytest.fixture
def chat(terminal, script):
    """Open a chat whose answers take three seconds."""

    def open_(*args):
        return terminal("chat", "-m", script(default=REPLY, delay=3.0), *args)

    return open_


def state_of(pid):
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def at_some_moment(chat, chooser, number):
    """Start it, ask something, and send the signal wherever that finds it."""
    chat.rest(chooser.uniform(0, 0.3))
    chat.ready()
    chat.type(f"question {number}\r")
    chat.rest(chooser.uniform(0, 1.2))


def check_history(kept, number):
    """What was asked is there; an answer that was cut is a beginning of the whole."""
    for messages in kept():
        assert messages[0].content == f"question {number}"
        for message in messages[1:2]:
            assert REPLY.startswith(message.content.strip())


@pytest.mark.parametrize(("signum", "number"), [(signal.SIGTERM, 1), (signal.SIGHUP, 2)])
def test_asked_to_end_it_restores_the_terminal_and_keeps_the_history(chat, kept, signum, number):
    ends_at_some_moment(chat(), kept, signum, number)


def ends_at_some_moment(one, kept, signum, number):
    at_some_moment(one, random.Random(number), number)
    os.kill(one.child.pid, signum)

    assert one.ended() == ENDINGS[signum]
    assert one.is_restored()
    check_history(kept, number)


def test_asked_to_end_while_it_asks_what_to_drop_it_ends(terminal, script):
    chat = terminal("chat", "-m", script(default="ok", context=50), "--max-tokens", "20")
    chat.ready()
    chat.type("1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20\r")
    chat.until("(?m)^ok$")
    chat.type("1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20\r")
    chat.until("or Enter to go back:")
    os.kill(chat.child.pid, signal.SIGTERM)

    assert chat.ended() == 143
    assert chat.is_restored()


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("number", [3])
def test_stopped_and_continued_it_goes_on(shell, kept, number):
    stops_at_some_moment(shell(), kept, number)


@pytest.fixture
def shell(terminal, script):
    """
    Open a chat from an interactive shell.

    Without a shell nobody could continue a stopped process, so the kernel does not stop it.
    """

    def open_(delay=3.0):
        # Wide enough that no line of the shell is folded, however long the path of the interpreter.
        one = terminal(command=["/bin/bash", "--norc", "-i"], env={"PS1": "shell$ "}, columns=400)
        one.until(r"shell\$")
        one.type(f"{sys.executable} -m llmcli chat -m {script(default=REPLY, delay=delay)}\r")
        return one

    return open_


def llm_in(one):
    """The process that the shell runs."""
    children = Path(f"/proc/{one.child.pid}/task/{one.child.pid}/children").read_text().split()
    return int(children[-1])


def stops_at_some_moment(one, kept, number):
    chooser = random.Random(number)
    at_some_moment(one, chooser, number)
    process = llm_in(one)
    for times in (1, 2):
        os.kill(process, signal.SIGTSTP)
        one.until("Stopped", times=times)
        assert state_of(process) == "T"
        assert one.is_cooked()
        one.type("fg\r")
        one.until("llmcli chat -m", times=2 * times)
        one.rest(chooser.uniform(0, 0.3))
    one.type("\x03")
    one.until(r"(?s)(■ stopped|/exit leaves).*\n>")
    one.type("\x15/history\r")
    one.until(f"question {number}", times=2)
    one.type("\x04")
    one.until(r"llm chat -c goes on with it\nshell\$")
    one.type("echo left=$?\r")
    one.until("(?m)^left=0")
    check_history(kept, number)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_neither_the_preview_nor_what_was_typed_ahead_is_left_to_the_shell(shell):
    one = shell(delay=15.0)
    one.ready()
    one.type("a question\r")
    one.until(r"word\d+ word\d+")
    os.kill(llm_in(one), signal.SIGTSTP)
    assert "word" not in one.until("Stopped")
    one.type("fg\r")
    one.until(r"word\d+ word\d+")
    one.type("echo typed $((20 + 3)) ahead\r")
    one.rest(0.2)
    assert WORDS[-1] not in one.text()  # it still streams
    os.kill(llm_in(one), signal.SIGTERM)
    one.until(r"(?m)^shell\$$")
    one.type("echo left=$?\r")

    assert "typed 23 ahead" not in one.until("(?m)^left=143")


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(("question", "shown"), [("", "(?m)^>$"), ("a question\r", r"word\d")])
def test_asked_to_end_in_the_background_it_ends(shell, question, shown):
    one = shell(delay=15.0)
    one.ready()
    one.type(question)
    one.until(shown)
    os.kill(llm_in(one), signal.SIGTSTP)
    one.until("Stopped")
    one.type("kill %1\r")
    one.rest(0.5)
    one.type("wait %1; echo left=$?\r")

    one.until("(?m)^left=(143|127)")  # 127: it ended before


@pytest.mark.parametrize("number", [4])
def test_interrupted_it_keeps_the_part_and_asks_on(chat, kept, number):
    is_interrupted_at_some_moment(chat(), kept, number)


def is_interrupted_at_some_moment(one, kept, number):
    at_some_moment(one, random.Random(number), number)
    os.kill(one.child.pid, signal.SIGINT)
    # Before the first word the message comes back into the prompt: it is deleted, then Ctrl-D leaves.
    one.until(r"(?s)(■ stopped|/exit leaves).*\n>")
    one.type("\x15\x04")

    assert one.ended() == 0
    assert one.is_restored()
    check_history(kept, number)


def test_interrupted_between_an_answer_and_the_prompt_it_says_something_each_time(terminal, script):
    one = terminal("chat", "-m", script(default="the end"))
    one.ready()
    for number in range(1, 21):
        shown = one.raw.count(b"the end")
        one.type(f"question {number}\r")
        while one.raw.count(b"the end") == shown:  # `until` draws a screen, and would come too late
            assert one.pump()
        time.sleep(number / 5000)
        os.kill(one.child.pid, signal.SIGINT)
        one.until("■ stopped|/exit leaves", times=number)


@pytest.mark.parametrize("number", [6])
def test_killed_it_loses_no_message_and_at_most_200_ms_of_an_answer(chat, kept, number):
    is_killed_at_some_moment(chat(), kept, number)


def is_killed_at_some_moment(one, kept, number):
    at_some_moment(one, random.Random(number), number)
    one.until("word1 |word1$")
    last = max(at for at, word in enumerate(WORDS) if word in one.text().split())
    time.sleep(0.2)
    os.kill(one.child.pid, signal.SIGKILL)
    one.ended()

    ((question, answer),) = kept()
    assert question.content == f"question {number}"
    assert answer.content.split()[:last] == WORDS[:last]
    assert answer.state in ("streaming", "done")


@pytest.mark.slow
@pytest.mark.parametrize("number", range(100, 300))
def test_any_signal_at_any_moment(chat, shell, kept, number):
    tries = [
        lambda one: ends_at_some_moment(one, kept, signal.SIGTERM, number),
        lambda one: ends_at_some_moment(one, kept, signal.SIGHUP, number),
        lambda one: stops_at_some_moment(one, kept, number),
        lambda one: is_interrupted_at_some_moment(one, kept, number),
        lambda one: is_killed_at_some_moment(one, kept, number),
    ]
    at = number % len(tries)
    tries[at](shell() if at == 2 else chat())
