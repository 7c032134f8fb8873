"""`llm complete`: a text's continuation."""

from __future__ import annotations

import json

import pytest
from ggufs import F32, tiny


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


def test_the_makers_sampling_holds_where_nobody_gives_another(call, script, asked):
    model = script(default="x", recommended={"temperature": 0.2, "top_k": 5}, log="asked.jsonl")
    call("complete", "-m", model, "Once")
    call("complete", "-m", model, "Once", "--temperature", "1.5")

    drawn = [(one["sampling"]["temperature"], one["sampling"]["top_k"]) for one in asked()]
    assert drawn == [(0.2, 5), (1.5, 5)]


def test_a_file_says_how_its_maker_would_draw(llm, work):
    """At temperature 0 the seed makes no difference; of what makes no sense (top_p 7) nothing is heard."""
    model = tiny("llama")
    model.metadata["general.sampling.temp"] = (F32, 0.0)
    model.metadata["general.sampling.top_p"] = (F32, 7.0)
    model.write(work / "tiny.gguf")

    def drawn(*words):
        ran = llm("complete", "-m", "./tiny.gguf", "the and", "--max-tokens", "12", *words)
        assert ran.code == 0
        return ran.stdout

    assert drawn("--seed", "1") == drawn("--seed", "2")
    assert drawn("--seed", "1", "--temperature", "5") != drawn("--seed", "2", "--temperature", "5")


def test_log_keeps_what_was_written_on(call, model):
    call("complete", *model, "Once upon a time")
    call("complete", *model, "Once upon another", "-n", "2", "--log")

    kept = [json.loads(line) for line in call("history", "list", "--json").out.splitlines()]
    assert [(one["kind"], one["first"]) for one in kept] == [("complete", "Once upon another")] * 2
    assert call("history", "show", "1").out.endswith("there was a fox\n")


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


def test_a_beginning_over_the_context_is_told_what_this_command_can_do(call, script):
    said = call("complete", "-m", script(default="x", context=3), "one two three four")

    assert said.code == 5
    assert "(give a shorter beginning, or a model with a longer context)" in said.err


def test_on_a_terminal_without_a_text_it_says_how(call, model):
    said = call("complete", *model, terminal=True)

    assert said.code == 2
    assert 'llm complete "Once upon a time"' in said.err


def test_a_continuation_that_is_none_is_an_error(call, script):
    model = script(default={"text": "", "finish_reason": "degenerate"})
    plain, as_json = call("complete", "-m", model, "Once"), call("complete", "-m", model, "Once", "--json")
    several = call("complete", "-m", model, "Once", "-n", "2")

    assert (plain.code, as_json.code, several.code) == (76, 76, 3)
    assert "the answer is degenerate" in plain.err
    assert json.loads(as_json.out)["error"].startswith("the answer is degenerate")
    assert "2 of 2 continuations are degenerate" in several.err


def test_an_empty_stop_is_refused(call, model):
    said = call("complete", *model, "Once", "--stop", "")

    assert (said.code, said.err) == (2, "llm: error: --stop is empty (give it the text to end before)\n")
