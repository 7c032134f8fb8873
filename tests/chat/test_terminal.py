"""`llm chat` in a real pseudo-terminal, with the built-in model and with replies of our own."""

from __future__ import annotations

import os
import re
import signal
import sys

import pytest

from llmcli.chat.history import History

LONG = "one two three four five six seven eight nine ten eleven twelve"
HOSTILE = "\x1b[2J\x1b[H\x1b]52;c;ZXZpbA==\x07 \x9b31m \u202eabc \x1b]0;owned\x07 \x1bP1$r\x1b\\ done"


def says_hello(chat):
    chat.type("Hello\r")
    chat.until(r"> Hello\n+\S+")
    chat.ready()
    chat.type("/stats\r")
    chat.until(r"model +starter")


def answers_anew(chat):
    says_hello(chat)
    chat.type("/regen\r")
    chat.until(r"> /regen\n+\S+")
    chat.ready()
    chat.type("/undo\r")
    chat.until("taken back: Hello")


def is_stopped(chat):
    chat.type("Tell me a very long story about the sea.\r")
    chat.until(r"about the\s+sea\.\n+\S+")
    chat.type("\x03")
    chat.ready()


SCENES = [
    pytest.param(scene, columns, marks=[] if (scene, columns) == (says_hello, 20) else pytest.mark.slow)
    for scene in (says_hello, answers_anew, is_stopped)
    for columns in (20, 80, 200)
]


@pytest.mark.parametrize(("scene", "columns"), SCENES)
def test_the_built_in_model_talks_at_any_width(terminal, kept, scene, columns):
    chat = terminal("chat", "--seed", "1", "--max-tokens", "30", columns=columns)
    chat.ready()
    scene(chat)
    chat.type("\x04")

    assert chat.ended() == 0
    assert chat.is_restored()
    (messages,) = kept()
    assert [message.role for message in messages][:2] == ["user", "assistant"]


@pytest.mark.slow
def test_the_built_in_model_reads_a_pipe_and_talks_on(terminal, work):
    (work / "note.txt").write_text("The train leaves at nine.\n")
    line = f"cat note.txt | {sys.executable} -m llmcli chat --max-tokens 10 -i 'When does it leave?'"
    chat = terminal(command=["/bin/sh", "-c", line])
    chat.ready()
    says_hello(chat)
    chat.type("\x04")

    assert chat.ended() == 0


def test_a_pasted_text_is_not_sent_and_keys_edit_it(terminal, script, asked):
    chat = terminal("chat", "-m", script(default="ok", log="asked.jsonl"))
    chat.ready()
    chat.type("\x1b[200~first line\r\nsecond 漢字 🙂 שלום\x1b[201~")
    chat.until("second")
    assert asked() == []
    chat.type("\x7f\x7f\x7f\x7f\x1b[A\x05 end\r")
    chat.until("(?m)^ok$")

    assert asked()[0]["messages"] == [{"role": "user", "content": "first line end\nsecond 漢字 🙂 "}]


def test_what_is_pasted_while_the_model_answers_is_one_message(terminal, script, asked):
    chat = terminal("chat", "-m", script(default="slow answer", delay=2.0, log="asked.jsonl"))
    chat.ready()
    chat.type("first\r")
    chat.until("slow")
    assert chat.raw.rfind(b"\x1b[?2004h") > chat.raw.rfind(b"\x1b[?2004l")
    chat.type("\x1b[200~one\rtwo\rthree\x1b[201~")
    chat.until("three")
    chat.type("\r")
    chat.until("slow answer", times=2)

    assert [m["content"] for m in asked()[-1]["messages"]][-1] == "one\ntwo\nthree"


def test_the_meter_shows_the_system_message_from_the_start(terminal, script):
    chat = terminal("chat", "-m", script(default="ok"), "-s", "Answer like a pirate, and briefly.")

    chat.until(r"· [1-9]\d*/8,192 tokens")


def test_lines_are_recalled_searched_completed_and_written_in_an_editor(
    terminal, script, work, home, tmp_path
):
    editor = tmp_path / "editor"
    editor.write_text(f"#!{sys.executable}\nimport sys\nopen(sys.argv[1], 'a').write(' and more')\n")
    editor.chmod(0o755)
    (work / "a file.txt").write_text("alpha")
    earlier = History(home / "data" / "history.db")
    for line in ("beta two", "alpha one"):
        earlier.add_line(line)
    earlier.close()

    chat = terminal(
        "chat", "-m", script(default="{last}!"), env={"EDITOR": str(editor), "VISUAL": str(editor)}
    )
    chat.ready()
    chat.type("be\x1b[A")
    chat.until("> beta two")
    chat.type("\x03")
    chat.ready()
    chat.type("\x12two")
    chat.until("beta two")
    chat.type("\r\x01\x0b")
    chat.ready()
    chat.type("some\x07")
    chat.until("> some and more")
    chat.type("\r")
    chat.until("some and more!")
    chat.ready()
    chat.type("/rea")
    chat.until("Attach files")
    chat.type("\t")
    chat.until("> /read")
    chat.type(" a\t")
    chat.until('"a file.txt"')
    chat.type("\r")
    chat.until("a file.txt  1 tokens")


def test_control_c_keeps_the_part_hints_at_an_empty_prompt_and_control_d_leaves(terminal, script, kept):
    chat = terminal("chat", "-m", script(replies={"count": LONG}, default="slow answer", delay=2.0))
    chat.ready()
    chat.type("first\r")
    chat.until("slow")
    chat.type("count\r")  # typed ahead: it waits for the next prompt
    screen = chat.until("> count")
    assert "coun" not in screen[: screen.index("slow answer")]
    chat.until("one two")
    chat.type("\x03")
    chat.until("■ stopped")
    chat.until(r"script.json · \d+/8,192 tokens")
    chat.type("\x03")
    chat.until("Ctrl-D or /exit leaves")
    chat.type("\x04")

    assert chat.ended() == 0
    assert chat.is_restored()
    (messages,) = kept()
    assert messages[3].state == "stopped" and messages[3].usage.answer > 0
    assert LONG.startswith(messages[3].content.strip()) and messages[3].content
    assert "twelve" not in messages[3].content  # it did not wait for the end


def test_a_dumb_terminal_gets_no_escape_sequence(terminal, script):
    chat = terminal("chat", "-m", script(default="some **bold** words"), term="dumb")
    chat.ready()
    chat.type("hello\r")
    chat.until(r"some \*\*bold\*\* words")
    chat.type("/help\r")
    chat.until("/exit")
    chat.type("\x04")

    assert chat.ended() == 0
    assert b"\x1b" not in chat.raw


def test_a_dumb_terminal_sends_what_it_shows(terminal, script, asked, kept):
    chat = terminal("chat", "-m", script(default="You said {last}", log="asked.jsonl"), term="dumb")
    chat.ready()
    chat.type("helo\x7flo there\r")
    chat.until("You said hello there")
    chat.ready()
    chat.type('"""\r')
    chat.until(r"(?m)^\.$")
    chat.type("one\r")
    chat.until(r"(?m)^\. one\n\.$")
    chat.type('two"""\r')
    chat.until("You said one\ntwo")
    chat.ready()
    chat.type("thrown away\x15kept\r")
    chat.until("You said kept")
    chat.ready()
    chat.type("/set keys vi\r")
    chat.until("the terminal's own")
    chat.ready()
    chat.type("x" * 5000 + "\r")
    chat.until("nothing is sent")
    chat.ready()
    chat.type("not this\x03")
    chat.until("Ctrl-D or /exit leaves")
    chat.type("\x04")

    assert chat.ended() == 0
    assert chat.is_restored()
    said = [message["content"] for message in asked()[-1]["messages"][::2]]
    assert said == ["hello there", "one\ntwo", "kept"]
    (messages,) = kept()
    assert [message.content for message in messages[::2]] == said


def test_a_block_at_a_dumb_terminal_is_sent_whole_or_not_at_all(terminal, script, asked):
    chat = terminal("chat", "-m", script(default="You said {last}", log="asked.jsonl"), term="dumb")
    chat.ready()
    for line in ('"""', "x" * 5000, 'end"""'):
        chat.type(line + "\r")
        chat.rest(0.1)
    chat.until("nothing is sent")
    chat.ready()
    for line in ('"""', "/etc/hosts"):
        chat.type(line + "\r")
        chat.rest(0.1)
    chat.type("\x04")
    chat.until("You said /etc/hosts")

    assert [message["content"] for message in asked()[-1]["messages"]] == ["/etc/hosts"]


def test_a_message_that_waits_at_a_dumb_terminal_is_sent_by_enter(terminal, script, asked):
    chat = terminal("chat", "-m", script(default="You said {last}", log="asked.jsonl"), term="dumb")
    chat.ready()
    chat.type("//first\r")
    chat.until("You said /first")
    chat.type("/edit\r")
    chat.until("Enter sends this")
    chat.type("/stats\r")
    chat.until("Enter sends this", times=2)
    chat.type("no\x03")
    chat.until("Enter sends this", times=3)
    chat.type("\r")
    chat.until("You said /first", times=2)

    assert [message["content"] for message in asked()[-1]["messages"]] == ["/first"]


def test_a_dumb_terminal_is_left_by_a_signal_and_stops_and_goes_on(terminal, script):
    chat = terminal("chat", "-m", script(default="You said {last}"), term="dumb")
    chat.ready()
    chat.type("thrown away, ")
    chat.until("thrown away")
    os.kill(chat.child.pid, signal.SIGSTOP)
    os.kill(chat.child.pid, signal.SIGCONT)
    chat.ready()
    chat.type("still here\r")
    chat.until(r"(?m)^You said still here$")
    chat.ready()
    os.kill(chat.child.pid, signal.SIGTERM)

    assert chat.ended() == 143


@pytest.mark.parametrize("option", [(), pytest.param(("--plain",), marks=pytest.mark.slow)])
def test_no_escape_sequence_of_a_model_or_a_file_reaches_the_terminal(terminal, script, work, option):
    (work / "evil\x1b[2J.txt").write_text(HOSTILE)
    chat = terminal("chat", "-m", script(default=HOSTILE), *option, "-f", "evil\x1b[2J.txt")
    chat.ready()
    chat.type("\x1b[200~what \u202e is \x9b31m this\x1b[201~\r")
    chat.until("done")
    chat.type("/show\r")
    chat.until("done", times=3)
    chat.type("/search owned\r/history\r\x04")
    chat.ended()

    ours = re.compile(
        rb"\x1b\[[0-9;?]*[A-Za-ln-z]|\x1b\[[0-9;]*m|\x1b\[\?[0-9;]+[hl]|\x1b\[>[0-9;]*[a-z]|\x1b[=>]"
    )
    left = ours.sub(b"", chat.raw)
    assert b"\x1b" not in left and b"\x07" not in left
    text = chat.raw.decode()
    assert not re.search("[\x80-\x9f\u202a-\u202e\u2066-\u2069]", text)
    assert "\x1b[2J\x1b[H" not in text and "owned\x07" not in text


def test_a_pipe_is_read_first_and_then_the_terminal(terminal, script, asked, work):
    (work / "error.log").write_text("disk on fire\n")
    model = script(default="It is {last}", log="asked.jsonl")
    command = [
        "/bin/sh",
        "-c",
        f'cat error.log | {sys.executable} -m llmcli chat -m {model} -i "What is wrong?"',
    ]
    chat = terminal(command=command)
    chat.until(r"It is What is wrong\?")
    chat.type("and now?\r")
    chat.until(r"It is and now\?")
    chat.type("\x04")

    assert chat.ended() == 0
    assert asked()[0]["messages"][0]["content"] == "standard input:\n```\ndisk on fire\n```\n\nWhat is wrong?"


def test_the_last_conversation_is_taken_up_again(terminal, call, script, asked):
    model = script(default="You said {last}", log="asked.jsonl")
    call("chat", "--once", "-m", model, "--session", "trip", "one")

    chat = terminal("chat", "-c")
    chat.until("conversation 1 trip: 1 turn")
    chat.until("You said one")
    chat.type("two\r")
    chat.until("You said two")
    chat.type("\x04")
    chat.until("kept as conversation 1; llm chat -c goes on")
    assert [m["content"] for m in asked()[-1]["messages"]] == ["one", "You said one", "two"]


def test_a_byte_that_is_no_character_and_a_pasted_colour_end_nothing(terminal, script):
    chat = terminal("chat", "-m", script(default="You said: {last}"))
    chat.ready()
    chat.type("\x1b[31m")
    chat.type("\x1b[200~caf\udce9 au lait\x1b[201~\r")
    chat.until("You said: caf\ufffd au lait")
    chat.ready()
    chat.type("more\r")
    chat.until("You said: more")


@pytest.mark.parametrize(
    ("program", "shown"),
    [
        ("open(sys.argv[1], 'wb').write(b'caf\\xe9')", "> caf\ufffd"),
        ("os.unlink(sys.argv[1])", "the editor's text cannot be had"),
        ("os.kill(os.getppid(), 2); time.sleep(0.5); open(sys.argv[1], 'w').write('kept')", "> kept"),
    ],
)
def test_whatever_an_editor_does_the_chat_goes_on(terminal, script, tmp_path, program, shown):
    editor = tmp_path / "editor"
    editor.write_text(f"#!{sys.executable}\nimport os, sys, time\n{program}\n")
    editor.chmod(0o755)
    chat = terminal("chat", "-m", script(default="ok"), env={"EDITOR": str(editor), "VISUAL": ""})
    chat.ready()
    chat.type("text\x07")
    chat.until(re.escape(shown))
    chat.type(" and on\r")
    chat.until("ok")


def test_a_pipe_that_nobody_writes_to_is_waited_for_until_ctrl_c(terminal, script, work):
    os.mkfifo(work / "fifo")
    chat = terminal("chat", "-m", script(default="ok"))
    chat.ready()
    chat.type("/read fifo\r")
    chat.until("reading fifo … 1 s")
    chat.type("\x03")
    chat.until("■ stopped")
    chat.ready()
    chat.type("/read fifo\r")
    chat.until("reading fifo … 1 s")
    (work / "fifo").write_text("one two three four five")
    chat.until("fifo  5 tokens")
    chat.type("hello\r")
    chat.until("ok")


def test_a_file_may_be_what_another_program_writes(terminal, script, asked):
    model = script(default="ok", log="asked.jsonl")
    line = f"{sys.executable} -m llmcli chat --once -m {model} -f <(echo alpha) Which?"
    terminal(command=["/bin/bash", "-c", line]).ended()

    (message,) = asked()[0]["messages"]
    assert message["content"].endswith(":\n```\nalpha\n```\n\nWhich?")


def test_the_goodbye_names_the_way_back_to_this_conversation(terminal, script):
    model = script(default="ok")
    for name in ("old", "new"):
        with terminal("chat", "-m", model, "--session", name) as chat:
            chat.ready()
            chat.type("hello\r")
            chat.until("ok")
            chat.ready()
            chat.type("/load old\r" if name == "new" else "/stats\r")
            chat.ready()
            chat.type("\x04")
            chat.until("llm chat --session old goes on" if name == "new" else "llm chat -c goes on")


def test_where_nothing_can_make_room_the_remedies_are_named(terminal, work):
    (work / "long.txt").write_text("apple " * 1100)
    chat = terminal("chat")
    chat.ready()
    chat.type("/read long.txt\r")
    chat.until("long.txt +1,1")
    chat.ready()
    chat.type("hi\r")
    chat.until(r"\(it\s+has\s+no\s+longer\s+one:")


def test_a_narrow_window_shows_the_help_of_a_command_whole(terminal):
    chat = terminal("chat", columns=20)
    chat.ready()
    chat.type("/help\r")
    chat.until(r"\n  Word every message\n  by a template\.\n/")
