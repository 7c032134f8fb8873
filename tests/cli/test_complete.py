"""`llm complete`: a text's continuation."""

from __future__ import annotations

import json

import pytest


@pytest.fixture
def model(script):
    """A script that goes on with a story."""
    return ("-m", script(replies={"Once": "there was a fox"}, log="asked.jsonl"))


def test_the_continuation_is_printed(call, model):
    said = call("complete", *model, "Once upon a time")

    assert (said.code, said.out, said.err) == (0, "there was a fox\n", "")


def test_the_beginning_may_come_by_a_pipe(call, model, asked):
    call("complete", *model, stdin="Once upon\na time\n")

    assert asked()[0]["prompt"] == "Once upon\na time"


def test_several_samples_have_headings_and_numbers_of_their_own(call, model, asked):
    said = call("complete", *model, "Once", "-n", "2", "--seed", "7")

    assert said.out == "==> 1 <==\nthere was a fox\n\n==> 2 <==\nthere was a fox\n"
    drawn = [one["sampling"] for one in asked()]
    assert [(one["seed"], one["sample"], one["temperature"]) for one in drawn] == [(7, 0, 0.7), (7, 1, 0.7)]


def test_without_a_seed_each_call_draws_its_own(call, model, asked):
    call("complete", *model, "Once")
    call("complete", *model, "Once")

    assert asked()[0]["sampling"]["seed"] != asked()[1]["sampling"]["seed"]


def test_json_gives_what_repeats_it(call, model):
    made = json.loads(call("complete", *model, "Once", "--json", "--seed", "7").out)

    assert (made["complete"], made["seed"], made["sample"]) == ("there was a fox", 7, 0)
    assert made["finish_reason"] == "stop"


def test_a_cut_is_noted_and_a_stop_is_not(call, model):
    cut = call("complete", *model, "Once", "--max-tokens", "2")
    stopped = call("complete", *model, "Once", "--stop", " a fox")

    assert (cut.out, cut.err) == (
        "there was\n",
        "llm: note: the continuation is cut at 2 tokens (see --max-tokens)\n",
    )
    assert (stopped.out, stopped.err) == ("there was\n", "")


def test_on_a_terminal_without_a_text_it_says_how(call, model):
    said = call("complete", *model, terminal=True)

    assert said.code == 2
    assert 'llm complete "Once upon a time"' in said.err
