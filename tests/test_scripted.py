"""The scripted engine does what its file says, whatever the order in which it is asked."""

from __future__ import annotations

import json
import multiprocessing
import time

import pytest

from llmcli import engines
from llmcli.engines.base import EngineOptions
from llmcli.engines.scripted import Script, ScriptedEngine, open_engine
from llmcli.errors import BadConfig, EngineCrashed, InputTooLong, MissingInput, UnusableAnswer
from llmcli.messages import Completion, Message, Piece, Prompt, Sampling, Usage


def ask(text, system=""):
    turns = (Message("system", system),) if system else ()
    return Prompt((*turns, Message("user", text)))


def answers(engine, *texts, **sampling):
    return [answer for _, answer in engine.generate(map(ask, texts), Sampling(**sampling))]


def answer(script, text="hello", **sampling):
    return answers(ScriptedEngine(script), text, **sampling)[0]


def scores(script, text="hello", labels=("yes", "no")):
    return next(iter(ScriptedEngine(script).score([ask(text)], labels)))[1]


# ------------------------------------------------------------ replies


def test_a_reply_is_that_of_the_first_part_found_in_the_prompt():
    script = Script(replies={"cat": "meow", "dog": "woof"}, default="?")
    engine = ScriptedEngine(script)
    assert [a.text for a in answers(engine, "a dog", "a cat and a dog", "a cow")] == ["woof", "meow", "?"]
    assert [a.text for a in answers(engine, "a cow", "a dog")] == ["?", "woof"]


def test_a_whole_prompt_goes_before_a_part():
    assert answer(Script(replies={"hell": "part", "hello": "whole"})).text == "whole"


def test_the_default_can_quote_the_prompt():
    assert answer(Script(default="<{last}> <{prompt}>"), "a\n\nb").text == "<b> <a\n\nb>"


def test_a_prompt_without_a_reply_is_an_error_that_quotes_it():
    error = answer(Script())
    assert isinstance(error, UnusableAnswer)
    assert "'hello'" in error.message


def test_the_system_message_is_part_of_the_prompt():
    engine = ScriptedEngine(Script(replies={"Be rude": "No."}, default="Yes."))
    assert next(engine.generate([ask("hi", system="Be rude.")], Sampling()))[1].text == "No."


def test_thinking_is_beside_the_answer():
    script = Script(replies={"riddle": {"text": "42", "thinking": "Let me see."}})
    made = answer(script, "a riddle")
    assert (made.text, made.thinking) == ("42", "Let me see.")
    *pieces, last = ScriptedEngine(script).stream(ask("a riddle"), Sampling())
    assert "".join(piece.text for piece in pieces if piece.thinking) == "Let me see."
    assert last == made


@pytest.mark.parametrize("text", ["one two  three\n four ", "", " ", "x", " lead", "a\n"])
def test_the_joined_stream_is_the_answer(text):
    engine = ScriptedEngine(Script(default=text))
    *pieces, last = engine.stream(ask("q"), Sampling())
    assert all(isinstance(piece, Piece) for piece in pieces)
    assert isinstance(last, Completion)
    assert "".join(piece.text for piece in pieces) == last.text == text


# ------------------------------------------------------------ limits


def test_an_answer_is_cut_at_max_tokens_and_says_so():
    made = answer(Script(default="one two three"), max_tokens=2)
    assert (made.text, made.finish_reason, made.usage) == ("one two", "length", Usage(prompt=1, answer=2))
    assert answer(Script(default="one two three"), max_tokens=3).finish_reason == "stop"


def test_an_answer_ends_before_a_stop_text():
    made = answer(Script(default="one. two. three"), stop=("three", ". t"))
    assert (made.text, made.finish_reason) == ("one", "stop")


def test_an_answer_ends_where_the_context_ends():
    made = answer(Script(default="a b c d e f", context=6), "one two three")
    assert (made.text, made.finish_reason) == ("a b c", "length")


@pytest.mark.parametrize(("context", "fits"), [(4, True), (3, False)])
def test_a_prompt_that_leaves_no_room_for_an_answer_is_too_long(context, fits):
    made = answer(Script(default="x", context=context), "one two three")
    assert isinstance(made, Completion if fits else InputTooLong)
    if not fits:
        assert (made.tokens, made.context, made.exit_code) == (4, 3, 5)


def test_labels_need_their_room_too():
    assert isinstance(scores(Script(default="yes", context=2), "one two"), InputTooLong)


def test_the_contexts_size_can_be_asked_for(tmp_path):
    path = tmp_path / "s.json"
    path.write_text('{"default": "x", "context": 100}')
    assert open_engine(str(path), EngineOptions()).info.context == 100
    assert open_engine(str(path), EngineOptions(context=7)).info.context == 7


def test_a_token_is_a_word():
    engine = ScriptedEngine(Script())
    assert engine.count_tokens(["one  two\nthree", "", ask("a b", system="c")]) == [3, 0, 3]


# ------------------------------------------------------------ labels


def test_probabilities_are_those_of_the_script_made_to_sum_to_one():
    made = scores(Script(replies={"hello": {"yes": 3, "no": 1, "maybe": 9}}))
    assert made.probabilities == (0.75, 0.25)
    assert (made.label, made.p, made.method) == ("yes", 0.75, "sequence")


def test_a_reply_that_is_a_label_has_all_the_probability():
    assert scores(Script(default="no")).probabilities == (0.0, 1.0)


def test_a_reply_that_is_no_label_is_unusable():
    assert isinstance(scores(Script(default="perhaps")), UnusableAnswer)


def test_scores_by_hash_differ_by_prompt_and_not_by_order():
    engine = ScriptedEngine(Script(scores="hash"))
    prompts = [ask(f"row {number}") for number in range(50)]
    forth = [made.p for _, made in engine.score(prompts, ("a", "b"))]
    back = [made.p for _, made in engine.score(prompts[::-1], ("a", "b"))]
    assert forth == back[::-1]
    assert len(set(forth)) > 40


# ------------------------------------------------------------ failures


def test_a_failure_is_that_prompts_and_the_others_go_on():
    engine = ScriptedEngine(Script(default="ok", fail={"bad": "UnusableAnswer: no idea"}))
    first, failed, last = answers(engine, "a", "bad", "b")
    assert (first.text, last.text) == ("ok", "ok")
    assert isinstance(failed, UnusableAnswer)
    assert failed.message == "no idea"


def test_a_crash_ends_everything():
    engine = ScriptedEngine(Script(default="ok", crash=("bomb",)))
    under_way = engine.generate(map(ask, ["a", "bomb", "b"]), Sampling())
    assert next(under_way)[1].text == "ok"
    with pytest.raises(EngineCrashed):
        next(under_way)
    with pytest.raises(EngineCrashed):
        list(engine.score([ask("a")], ("yes", "no")))


# ------------------------------------------------------------ the file


def test_prompts_are_drawn_one_at_a_time():
    def endless():
        number = 0
        while True:
            number += 1
            yield ask(f"row {number}")

    under_way = ScriptedEngine(Script(default="{last}")).generate(endless(), Sampling())
    assert [next(under_way)[1].text for _ in range(3)] == ["row 1", "row 2", "row 3"]


def test_the_file_is_yaml_or_json_and_its_hash_is_the_models(tmp_path):
    (tmp_path / "a.yaml").write_text("replies: {hello: 'yes'}\n")
    (tmp_path / "a.json").write_text('{"replies": {"hello": "yes"}}')
    made = [open_engine(str(tmp_path / name), EngineOptions()) for name in ("a.yaml", "a.json")]
    assert [answers(engine, "hello")[0].text for engine in made] == ["yes", "yes"]
    assert made[0].info.sha256 != made[1].info.sha256
    assert (made[0].info.engine, made[0].info.model) == ("scripted", "a.yaml")


@pytest.mark.parametrize(
    ("name", "text"),
    [("a.yaml", "replies: [a"), ("a.json", "{"), ("a.json", '{"reply": {}}'), ("a.yaml", "- x")],
)
def test_a_wrong_file_is_bad_configuration(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    with pytest.raises(BadConfig, match=name):
        open_engine(str(tmp_path / name), EngineOptions())


def test_a_missing_file_is_missing_input():
    with pytest.raises(MissingInput):
        open_engine("/nonexistent/script.yaml", EngineOptions())


def test_every_prompt_asked_is_in_the_log(tmp_path):
    path = tmp_path / "s.json"
    path.write_text('{"default": "yes", "log": "asked.jsonl"}')
    engine = open_engine(str(path), EngineOptions())
    list(engine.score([ask("one")], ("yes", "no")))
    answers(engine, "two", max_tokens=5)
    list(engine.stream(ask("three"), Sampling()))
    engine.close()
    lines = [json.loads(line) for line in (tmp_path / "asked.jsonl").read_text().splitlines()]
    assert [(line["kind"], line["prompt"]) for line in lines] == [
        ("score", "one"),
        ("generate", "two"),
        ("generate", "three"),
    ]
    assert lines[0]["labels"] == ["yes", "no"]
    assert lines[1]["sampling"]["max_tokens"] == 5
    assert lines[1]["messages"] == [{"role": "user", "content": "two"}]


def _ask_many(path, name):
    engine = open_engine(path, EngineOptions())
    answers(engine, *(f"{name} {number} " + "x" * 3000 for number in range(100)))


def test_several_processes_share_a_log_without_mixing_its_lines(tmp_path):
    path = tmp_path / "s.json"
    path.write_text('{"default": "yes", "log": "asked.jsonl"}')
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_ask_many, args=(str(path), name)) for name in "abc"]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    lines = [json.loads(line)["prompt"].split()[:2] for line in (tmp_path / "asked.jsonl").open()]
    assert sorted(map(tuple, lines)) == sorted((name, str(n)) for name in "abc" for n in range(100))


def test_a_delay_is_waited_for_each_reply():
    engine = ScriptedEngine(Script(default="a b c", delay=0.02))
    begin = time.monotonic()
    answers(engine, "1", "2")
    list(engine.stream(ask("3"), Sampling()))
    assert time.monotonic() - begin >= 0.06


# ------------------------------------------------------------ found by name


def test_an_engine_is_found_by_its_files_name():
    assert engines.engine_of("scripted:x.yaml") == "scripted"
    assert [
        engines.engine_of(name) for name in ("starter", "hf:a/b:Q4", "C:\\x.gguf", "base:x", "llama:x")
    ] == [None] * 5


def test_a_reference_opens_its_engine(tmp_path):
    path = tmp_path / "s.json"
    path.write_text('{"default": "yes"}')
    assert answers(engines.open_engine(f"scripted:{path}", EngineOptions()), "q")[0].text == "yes"
