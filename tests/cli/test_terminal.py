"""What a person at a terminal sees, in a pseudo-terminal."""

from __future__ import annotations

import sys
from pathlib import Path

import pexpect
import pytest

LLM = str(Path(sys.executable).parent / "llm")
ERASED = "\x1b[K"


@pytest.fixture
def terminal(llm_env, work):
    """Run a command line in a terminal of 80 columns; gives everything it printed, and its exit code."""
    return lambda *args: ended(started(llm_env, work, *args))


def started(llm_env, work, *args):
    """The command line in its terminal."""
    settings = {"env": {**llm_env, "TERM": "xterm"}, "cwd": str(work), "dimensions": (24, 80)}
    return pexpect.spawn(LLM, list(args), encoding="utf-8", timeout=60, **settings)


def ended(child):
    """What it printed until its end, and its exit code."""
    printed = child.read()
    child.close()
    return printed.replace("\r\n", "\n"), child.exitstatus


def test_a_label_has_bars(terminal, script):
    model = script(default={"positive": 0.5, "neutral": 0.3, "negative": 0.2})
    printed, code = terminal("sentiment", "-m", model, "--text", "x")

    assert code == 0
    assert printed.splitlines() == [
        "positive",
        "  positive   50%  " + 15 * "█",
        "  neutral    30%  " + 9 * "█",
        "  negative   20%  " + 6 * "█",
    ]


def test_escape_sequences_of_a_model_are_shown_not_obeyed(terminal, script):
    printed, _ = terminal("title", "-m", script(default="\x1b]52;c;aGk=\x07 \x9b31m"), "--text", "x")

    assert printed == "␛]52;c;aGk=␇ \\x9b31m\n"


def test_a_silent_second_shows_what_is_done_and_leaves_no_trace(llm_env, work, script):
    words = ["sentiment", "-m", script(scores="hash", delay=1.4), "--text", "x"]
    both = [started(llm_env, work, *words, *more) for more in (["-q"], [])]
    (quiet, _), (printed, _) = map(ended, both)

    assert ERASED not in quiet
    assert "asking scripted (1 s)" in printed
    assert ERASED not in printed.rpartition(ERASED)[2]


def test_the_built_in_model_says_once_what_it_is(terminal):
    first, _ = terminal("sentiment", "--text", "I love it")
    second, _ = terminal("sentiment", "--text", "I love it")

    assert "llm: note: answering with the built-in model" in first
    assert "built-in" not in second
