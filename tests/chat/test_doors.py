"""`llm chat --once` and `llm history`, through their doors."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llmcli.chat.history import History


@pytest.fixture
def once(call, script):
    """Ask one question: `once("Why?", stdin="…")`."""

    def ask(*args, stdin=b"", **keys):
        return call("chat", "--once", "-m", script(**{"default": "{last}!", **keys}), *args, stdin=stdin)

    return ask


def test_once_answers_and_exits_with_the_text_as_it_is(once):
    ran = once("hello", default="**bold** \x1b[31m and\n\n- more")

    assert (ran.code, ran.stdout, ran.stderr) == (0, "**bold** \x1b[31m and\n\n- more\n", "")


def test_once_takes_the_pipe_and_files_with_the_question(once, asked, work, call):
    (work / "a.txt").write_text("alpha")
    ran = once("Which?", "-f", "a.txt", stdin="beta\n", log="asked.jsonl")

    assert ran.code == 0
    assert asked()[0]["messages"] == [
        {"role": "user", "content": "a.txt:\n```\nalpha\n```\n\nstandard input:\n```\nbeta\n```\n\nWhich?"}
    ]
    assert call("history", "list").stdout.endswith("\tWhich?\n")


def test_the_pipe_alone_can_be_the_question(once):
    assert once(stdin="What is this?").stdout == "standard input:\n```\nWhat is this?\n```!\n"


def test_the_system_message_goes_first_and_sampling_is_as_asked(once, asked):
    once("hello", "-s", "Be brief.", "--seed", "7", "--max-tokens", "9", log="asked.jsonl")

    (one,) = asked()
    assert one["messages"][0] == {"role": "system", "content": "Be brief."}
    assert (one["sampling"]["seed"], one["sampling"]["max_tokens"]) == (7, 9)
    assert one["sampling"]["temperature"] == 0.7


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        ([], 2, "chat needs a terminal"),
        (["hello"], 2, "--once"),
        (["--once"], 2, "nothing to ask"),
        (["--once", "  "], 2, "nothing to ask"),
        (["--once", "x", "--session", ""], 2, "--session is empty"),
        (["--once", "hello", "-f", "missing.txt"], 66, "missing.txt"),
        (["--once", "hello", "-m", "nosuchmodel"], 2, "nosuchmodel"),
        (["--once", "hello", "-c"], 66, "no conversation"),
        (["--once", "hello", "--session", "a b"], 2, "no session name"),
        (["--once", "hello", "-c", "--session", "x"], 2, "two conversations"),
    ],
)
def test_what_cannot_work_is_one_line_and_an_exit_code(call, script, args, code, words):
    model = [] if "-m" in args else ["-m", script(default="x")]
    ran = call("chat", *args, *model)

    assert ran.code == code
    assert words in ran.stderr
    assert ran.stderr.count("\n") == 1
    assert ran.stdout == ""


def test_a_question_that_does_not_fit_names_both_numbers(once):
    ran = once("one two three four five six seven eight", context=8)

    assert ran.code == 5
    assert "needs 10 tokens" in ran.stderr and "context is 8" in ran.stderr


def test_notes_about_an_answer_are_not_part_of_it(once):
    ran = once("hello", "--max-tokens", "2", default="one two three")

    assert (ran.code, ran.stdout) == (0, "one two\n")
    assert "cut at the longest answer" in ran.stderr


def test_an_engine_that_fails_gives_its_exit_code(once):
    ran = once("poison", fail={"poison": "UnusableAnswer: no idea"})

    assert (ran.code, ran.stdout) == (76, "")
    assert "no idea" in ran.stderr


def test_a_conversation_goes_on_over_several_calls(once, asked, call):
    for line in ("one", "two"):
        assert once(line, "--session", "trip", log="asked.jsonl").code == 0
    once("three", "-c", log="asked.jsonl")

    assert [m["content"] for m in asked()[-1]["messages"]] == ["one", "one!", "two", "two!", "three"]
    assert json.loads(call("history", "list", "--json").stdout)["messages"] == 6


def test_private_leaves_nothing_on_disk(once, home):
    assert once("Canary7731", "--private").code == 0

    assert not (home / "data").exists()


def test_the_history_is_listed_searched_shown_exported_renamed_and_deleted(once, call, work):
    once("Where is the train station?", "--session", "way")
    once("Something else")

    rows = [line.split("\t") for line in call("history", "list").stdout.splitlines()]
    assert rows[0] == ["ID", "USED", "NAME", "MESSAGES", "MODEL", "TITLE"]
    assert [(row[0], row[2], row[3], row[5]) for row in rows[1:]] == [
        ("2", "-", "2", "Something else"),
        ("1", "way", "2", "Where is the train station?"),
    ]
    assert "«train station»" in call("history", "search", "train station").stdout
    assert json.loads(call("history", "search", "else", "--json", "-n", "1").stdout)["id"] == 2
    assert "## You\n\nWhere is the train station?\n" in call("history", "show", "way").stdout
    assert call("history", "export", "1", "-o", "way.json").code == 0
    assert (
        json.loads((work / "way.json").read_text())["messages"][1]["content"]
        == "Where is the train station?!"
    )
    assert call("history", "export", "1", "-o", "-").stdout.count("## You") == 1
    assert call("history", "rename", "1", "path", "--title", "The way").code == 0
    assert "\tpath\t2\t" in call("history", "list").stdout
    assert "The way" in call("history", "list").stdout
    assert call("history", "delete", "path").code == 2
    deleted = call("history", "delete", "path", "--yes")
    assert (deleted.code, deleted.stderr) == (0, "llm: note: deleted 1 (The way)\n")
    assert call("history", "show", "path").code == 66
    assert call("history", "purge", "--yes").code == 0
    assert call("history", "list").stdout.count("\n") == 1


def test_the_model_writes_a_title_when_it_is_asked(call, script):
    model = script(replies={"title": '"Going to Rome"'}, default="ok")
    call("chat", "--once", "-m", model, "I want to go to Rome")

    assert call("history", "rename", "last", "-m", model).code == 0
    assert "Going to Rome" in call("history", "list").stdout


def test_the_history_says_where_it_is(call, home):
    assert call("history", "path").stdout == f"{home}/data/history.db\n"


def test_a_title_with_escape_sequences_is_harmless_in_a_pipe_and_kept_in_json(once, call):
    once("\x1b[2Jred\nline")

    assert "\x1b" not in call("history", "list").stdout
    assert json.loads(call("history", "list", "--json").stdout)["first"] == "\x1b[2Jred line"


def test_a_text_command_is_kept_only_when_that_is_asked_for(call, script, monkeypatch):
    model = script(default="A title")
    call("title", "-m", model, "--text", "one")
    assert call("history", "list").stdout.count("\n") == 1
    call("title", "-m", model, "--text", "two", "--log", "--stream")
    monkeypatch.setenv("LLMCLI_LOG_COMMANDS", "on")
    call("title", "-m", model, "--text", "three")

    kept = [json.loads(line) for line in call("history", "list", "--json").stdout.splitlines()]
    assert [(one["kind"], one["first"], one["messages"]) for one in kept] == [
        ("title", "three", 2),
        ("title", "two", 2),
    ]
    assert call("history", "show", "1").stdout.endswith("## Model\n\nA title\n")
    assert "there is no chat yet" in call("chat", "--once", "-m", model, "-c", "x").stderr


def test_a_chat_is_drawn_as_the_maker_recommends_unless_the_command_line_says_otherwise(call, script, asked):
    model = script(default="x", recommended={"temperature": 0.2, "min_p": 0.1}, log="asked.jsonl")
    call("chat", "--once", "-m", model, "hello")
    call("chat", "--once", "-m", model, "hello", "--temperature", "0.9")

    drawn = [(one["sampling"]["temperature"], one["sampling"]["min_p"]) for one in asked()]
    assert drawn == [(0.2, 0.1), (0.9, 0.1)]


def test_a_conversation_goes_on_with_the_model_it_had_unless_another_is_named(call, script):
    one, other = script("one.json", default="I am one"), script("other.json", default="I am the other")
    call("chat", "--once", "-m", one, "hello")

    assert call("chat", "--once", "-c", "who?").stdout == "I am one\n"
    assert call("chat", "--once", "-c", "-m", other, "who?").stdout == "I am the other\n"
    assert call("chat", "--once", "-c", "who?").stdout == "I am the other\n"


def test_a_history_that_cannot_be_made_says_how_to_do_without(call, script, home):
    home.mkdir()
    (home / "data").write_text("")

    said = call("chat", "--once", "-m", script(default="x"), "--session", "a", "hello")
    assert said.code in (73, 74, 77) and "--private keeps nothing" in said.stderr


def test_an_answer_that_is_none_is_an_error_of_once(call, script):
    said = call("chat", "--once", "-m", script(default={"text": "", "finish_reason": "degenerate"}), "hello")

    assert (said.code, said.stdout.strip()) == (76, "")
    assert "the answer is degenerate" in said.stderr


def test_a_file_that_is_not_there_is_named_and_a_dash_is_standard_input(call, script, asked):
    model = script(default="x", log="asked.jsonl")
    missing = call("chat", "--once", "-m", model, "-f", "nofile", "hello")
    piped = call("chat", "--once", "-m", model, "-f", "-", "hello", stdin="from the pipe")

    assert missing.code == 66 and "no file 'nofile'" in missing.stderr and "--text" not in missing.stderr
    assert piped.code == 0 and asked()[-1]["messages"][-1]["content"].count("from the pipe") == 1


def test_a_conversation_whose_model_is_gone_says_so(call, script):
    assert call("chat", "--once", "-m", script(default="x"), "--session", "my", "hello").code == 0
    history = History(Path(call("history", "path").stdout.strip()))
    history.describe(1, model="gone")
    history.close()

    said = call("chat", "--once", "--session", "my", "hello")
    assert said.code == 2 and "this conversation was with it; -m names another" in said.stderr
    assert call("chat", "--once", "--session", "my", "-m", script(default="x"), "hello").code == 0
