"""Speed: what a turn of a chat reads, with the built-in model in its process."""

from __future__ import annotations

import json
import re

import pytest


@pytest.fixture
def tokens(call):
    """The tokens of every answer in the history: read, of these kept from before, written."""

    def read():
        lines = call("history", "show", "last", "--json").stdout.splitlines()
        return [m["tokens"] for m in map(json.loads, lines) if m["role"] == "assistant"]

    return read


def test_a_turn_reads_at_most_the_last_answer_and_the_new_message(terminal, tokens):
    questions = ["What is tea?", "And what is coffee?", "Which is stronger?"]
    chat = terminal("chat", "--seed", "1", "--max-tokens", "30", columns=200)
    for question in questions:
        chat.ready()
        chat.type(question + "\r")
        chat.until(re.escape(question))
    chat.ready()
    chat.type("\x04")
    assert chat.ended() == 0

    turns = tokens()
    assert len(turns) == len(questions)
    around = 12  # what the chat template puts around a message
    for before, turn, question in zip(turns, turns[1:], questions[1:]):
        assert turn["prompt"] - turn["cached"] <= before["answer"] + len(question) + around
        assert turn["cached"] >= before["prompt"] - around
