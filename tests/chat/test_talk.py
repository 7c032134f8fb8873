"""A talk in detail: what is saved when, seeds, a full disk, what Tab and the bottom line show."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import signal
import threading
import time
from dataclasses import replace

import pytest
from chat.typist import Typist
from hypothesis import given, settings
from hypothesis import strategies as st
from prompt_toolkit.completion import CompleteEvent
from prompt_toolkit.document import Document

from llmcli.chat.clipboard import LONGEST_OSC, copy
from llmcli.chat.completion import SlashCompleter
from llmcli.chat.conversation import Conversation
from llmcli.chat.editor import bottom_line
from llmcli.chat.history import History
from llmcli.chat.screen import AnswerView, Screen
from llmcli.errors import InputOutputError, ModelError
from llmcli.messages import Piece, Sampling, Usage


@pytest.fixture
def typist(tmp_path):
    return Typist(tmp_path)


def asked(typist):
    return [json.loads(line) for line in (typist.folder / "asked.jsonl").read_text().splitlines()]


def test_regenerating_draws_a_new_seed_and_the_given_seed_draws_the_same_talk_again(typist):
    for _ in range(2):
        typist.chat("a", "/regen", "b", "/regen", seed=7, default="ok", log="asked.jsonl")

    seeds = [one["sampling"]["seed"] for one in asked(typist)]
    assert seeds == [7, 8, 7, 8] * 2


def test_without_a_seed_every_answer_is_drawn_anew(typist):
    typist.chat("a", "/regen", "/regen", seed=None, default="ok", log="asked.jsonl")

    assert len({one["sampling"]["seed"] for one in asked(typist)}) == 3


def test_answers_are_drawn_as_the_maker_recommends_until_somebody_says_otherwise(typist):
    """Each model by its own maker; what was set stays set."""
    typist.chat(
        "a", "/set temperature 0.4", "b", "/model other", "c",
        default="ok", log="asked.jsonl", recommended={"temperature": 0.2, "top_k": 5},
        others={"other": {"default": "ok", "log": "asked.jsonl", "recommended": {"temperature": 1.0}}},
    )  # fmt: skip

    drawn = [(one["sampling"]["temperature"], one["sampling"]["top_k"]) for one in asked(typist)]
    assert drawn == [(0.2, 5), (0.4, 5), (0.4, 40)]


def test_going_on_asks_for_the_rest_of_the_last_message(typist):
    typist.chat("a", "/continue", default="one two", log="asked.jsonl", sampling=Sampling(max_tokens=1))

    second = asked(typist)[1]
    assert [m["role"] for m in second["messages"]] == ["user", "assistant"]
    assert second["messages"][1]["content"] == "one"


def test_going_on_that_fails_keeps_what_there_was(typist):
    chat = typist.chat(
        "a", "/continue", "/show", default={"text": "one two", "thinking": "hm"},
        fail={"one": "UnusableAnswer: no"}, sampling=Sampling(max_tokens=1),
    )  # fmt: skip

    assert "error: no" in chat.all
    assert [m.content for m in chat.talk.conversation.messages()] == ["a", "one"]
    assert chat.talk.conversation.answers()[0].thinking == "hm"


def test_the_message_is_in_the_history_before_the_model_is_asked(typist):
    typist.history = typist.folder / "history.db"
    typist.chat("precious words", "<C-c>", default="x", fail={"precious": "EngineCrashed: dead"})

    history = History(typist.history)
    assert [(e.content, e.place) for e in history.entries(1)] == [
        ("precious words", "undone"),
        ("", "undone"),
    ]
    history.close()


def test_a_full_disk_is_told_once_and_the_talk_goes_on(typist):
    typist.history = typist.folder / "history.db"
    history = History(typist.history)
    history.store.db.execute(
        "CREATE TRIGGER full BEFORE INSERT ON message BEGIN SELECT RAISE(FAIL, 'disk is full'); END"
    )
    history.close()
    chat = typist.chat("one", "two", "/undo", "three", default="{last}!", log="asked.jsonl")

    assert chat.all.count("not saved") == 1 and "the disk is full" in chat.all
    assert "three!" in chat.all
    assert [m["content"] for m in asked(typist)[-1]["messages"]] == ["one", "one!", "three"]


def exchange(conversation, asked, answer):
    conversation.say(asked)
    conversation.begin_answer(seed=1)
    conversation.grow(answer[:3])
    conversation.finish(answer, "", "done", Usage(prompt=5, answer=2), 1.5)


@pytest.mark.parametrize("refused", ["INSERT", "UPDATE"])
def test_what_a_full_disk_did_not_take_is_written_when_there_is_room_again(tmp_path, refused):
    history = History(tmp_path / "history.db")
    conversation = Conversation(history, "model")
    exchange(conversation, "one", "first answer")
    history.store.db.execute(
        f"CREATE TRIGGER full BEFORE {refused} ON message BEGIN SELECT RAISE(FAIL, 'disk is full'); END"
    )
    exchange(conversation, "two", "second answer")
    conversation.undo()
    exchange(conversation, "three", "third answer")
    assert "the disk is full" in conversation.trouble
    history.store.db.execute("DROP TRIGGER full")
    conversation.say("four")

    assert conversation.trouble == ""
    saved = history.entries(conversation.number)
    assert [(e.content, e.state, e.place, e.usage, e.seconds) for e in saved] == [
        (e.content, e.state, e.place, e.usage, e.seconds) for e in conversation.entries
    ]
    assert [e.content for e in saved if e.place == "undone"] == ["two", "second answer"]
    history.close()


def test_a_summary_that_a_full_disk_did_not_take_is_written_later(tmp_path):
    history = History(tmp_path / "history.db")
    conversation = Conversation(history, "model")
    exchange(conversation, "one", "first answer")
    exchange(conversation, "two", "second answer")
    history.store.db.execute(
        "CREATE TRIGGER full BEFORE INSERT ON message BEGIN SELECT RAISE(FAIL, 'disk is full'); END"
    )
    conversation.compress(conversation.turns()[:1], "They spoke of one.")
    history.store.db.execute("DROP TRIGGER full")
    exchange(conversation, "three", "third answer")

    loaded = Conversation.load(history, history.find("last"))
    assert loaded.messages() == conversation.messages()
    assert loaded.summary == "They spoke of one."
    history.close()


def test_a_conversation_deleted_elsewhere_goes_on_as_another(tmp_path):
    """What was deleted stays deleted; what is said from then on is kept."""
    history, other = History(tmp_path / "history.db"), History(tmp_path / "history.db")
    conversation = Conversation(history, "model", name="work")
    exchange(conversation, "one", "first answer")
    other.delete([conversation.number])
    exchange(conversation, "two", "second answer")

    assert conversation.trouble == ""
    [record] = other.conversations()
    assert record.name == "work"
    assert [e.content for e in other.entries(record.id)] == ["two", "second answer"]
    assert [m.content for m in conversation.messages()] == ["one", "first answer", "two", "second answer"]
    history.close()
    other.close()


def test_a_conversation_that_a_crash_cut_is_taken_up_with_the_part_that_was_saved(tmp_path):
    history = History(tmp_path / "history.db")
    number = history.start("model")
    history.add(number, "user", "question")
    history.grow(history.add(number, "assistant", "", state="streaming"), "half an ans")

    conversation = Conversation.load(history, history.find("last"))

    assert [m.content for m in conversation.messages()] == ["question", "half an ans"]
    assert conversation.entries[-1].state == "stopped"
    history.close()


def completions(typist, line):
    talk = typist.chat(default="x", others={"other": {}}).talk
    talk.conversation.history = History(None)
    found = SlashCompleter(talk).get_completions(Document(line), CompleteEvent(completion_requested=True))
    return [(one.text, one.display_text) for one in found]


def test_tab_offers_what_the_command_takes(typist):
    (typist.folder / "with space.txt").touch()
    (typist.folder / "evil\x1b[2J").touch()

    assert [text for text, _ in completions(typist, "/co")] == ["/continue", "/context", "/compress", "/copy"]
    assert [text for text, _ in completions(typist, "/model ")] == ["model", "other"]
    assert ("translate", "translate") in completions(typist, "/template tr")
    assert [text for text, _ in completions(typist, "/set te")] == ["temperature"]
    assert [text for text, _ in completions(typist, "/export ")] == ["md", "json"]
    assert [text for text, _ in completions(typist, "/help /un")] == ["/undo"]
    assert completions(typist, "/read wi") == [('"with space.txt"', "with space.txt")]
    assert [shown for _, shown in completions(typist, "/read ev")] == ["evil␛[2J"]
    assert (
        completions(typist, "hello /re")
        == completions(typist, "//re")
        == completions(typist, "/nothing ")
        == []
    )


def test_the_bottom_line_keeps_what_matters_most_when_it_is_narrow(typist):
    talk = typist.chat("a b", default="one two three").talk
    talk.engine.info  # noqa: B018

    assert bottom_line(talk, 80).startswith(" model · 5/8,192 tokens · ")
    assert bottom_line(talk, 80).endswith(" tokens/s · private")
    assert bottom_line(talk, 25) == " model · 5/8,192 tokens"
    assert bottom_line(talk, 10) == " model"


def test_the_clipboard_is_asked_for_by_the_terminal_where_no_program_takes_it():
    sent = []
    name = copy("Grüße", sent.append, {"TERM": "xterm", "SSH_TTY": "/dev/pts/1"})

    assert name == "the terminal"
    assert sent == [f"\x1b]52;c;{base64.b64encode('Grüße'.encode()).decode()}\x07"]
    with pytest.raises(InputOutputError):
        copy("x" * (LONGEST_OSC + 1), sent.append, {"TERM": "xterm", "SSH_TTY": "/dev/pts/1"})
    with pytest.raises(InputOutputError):
        copy("x", sent.append, {"TERM": "dumb", "SSH_TTY": "/dev/pts/1"})


def test_after_a_second_of_silence_the_screen_says_what_it_waits_for(typist):
    chat = typist.chat("hello there", default="word", delay=2.0)

    assert "reading 2 tokens … 1 s" in chat.talk.screen.stream.getvalue()
    assert "reading" not in chat.all


def interrupt_when_asked(folder, times):
    """Ctrl-C as soon as the scripted engine was asked so many times."""

    def interrupt():
        log = folder / "asked.jsonl"
        while not log.exists() or len(log.read_text().splitlines()) < times:
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()


def test_an_answer_that_was_stopped_before_its_first_word_can_be_asked_for_again(typist):
    interrupt_when_asked(typist.folder, times=1)
    chat = typist.chat("go", "/continue", default="one two", delay=5.0, log="asked.jsonl")

    assert "stopped before the first word (/regen asks again)" in chat.all
    assert "there is no answer to go on with" in chat.all
    assert [m.content for m in chat.talk.conversation.messages()] == ["go"]


def test_an_answer_stays_where_the_one_in_its_place_was_stopped_before_its_first_word(typist):
    interrupt_when_asked(typist.folder, times=2)
    chat = typist.chat("go", "/regen", "on", default="one two", delay=0.6, log="asked.jsonl")

    assert "the answer before stays" in chat.all
    assert [m.content for m in chat.talk.conversation.messages()] == ["go", "one two", "on", "one two"]


def test_continue_goes_on_with_the_answer_that_is_seen_and_leaves_those_taken_back(typist):
    chat = typist.chat("one", "two", "/undo", "/continue", default="{last}")

    assert [m.content for m in chat.talk.conversation.messages()] == ["one", "oneone"]
    assert [(e.content, e.place) for e in chat.talk.conversation.entries][-1] == ("two", "undone")


def test_an_answer_that_nothing_is_added_to_is_what_it_was(typist):
    """Going on was stopped before its first word."""
    interrupt_when_asked(typist.folder, times=2)
    chat = typist.chat("go", "/continue", default="one two", delay=0.6, log="asked.jsonl")

    [answer] = chat.talk.conversation.answers()
    assert (answer.content, answer.state) == ("one two", "done")
    assert answer.usage.answer == 2 and answer.seconds >= 0.6


def test_tokens_of_an_answer_that_was_gone_on_with_are_added_up(typist):
    chat = typist.chat("a", "/continue", default="one two", sampling=Sampling(max_tokens=1))

    [answer] = chat.talk.conversation.answers()
    assert answer.usage.answer == 2


def test_a_message_worded_by_a_template_is_edited_as_it_was_typed(typist):
    chat = typist.chat(
        "/template title", "some text", "/edit", " more", "/template off", "/edit", "", default="ok"
    )
    messages = [e.content for e in chat.talk.conversation.entries if e.role == "user"]

    assert messages[1] == messages[0].replace("some text", "some text more")
    assert messages[2] == messages[1]


def test_an_answer_stays_where_the_model_cannot_be_opened_to_replace_it(typist):
    chat = typist.chat("one", default="{last}")

    def broken(*_):
        raise ModelError("it is gone")

    chat.talk.close()
    chat.talk.doors = replace(chat.talk.doors, open_engine=broken)
    with pytest.raises(ModelError):
        chat.talk.regenerate()
    assert [m.content for m in chat.talk.conversation.messages()] == ["one", "one"]


def test_a_summary_is_written_without_the_limits_of_answers(typist):
    chat = typist.chat(
        "aaa", "bbb", "/set max_tokens 3", "/set stop four", "/compress", default="one two three four five"
    )
    assert chat.talk.conversation.summary == "one two three four five"


@pytest.mark.parametrize(
    ("typed", "sent"),
    [
        ('"""\x1b\r// add\x1b\rx = 1"""', "// add\nx = 1"),
        ('"""/etc/hosts"""', "/etc/hosts"),
        ("\x1b[200~/* C\n*/\x1b[201~", "/* C\n*/"),
        ("\x1b[200~// C++\nint x;\x1b[201~", "// C++\nint x;"),
        ('\x1b[200~"""Doc."""\nx = """abc"""\x1b[201~', '"""Doc."""\nx = """abc"""'),
        ("//one line", "/one line"),
    ],
)
def test_a_block_and_pasted_lines_are_sent_as_they_stand(typist, typed, sent):
    chat = typist.chat(typed, default="ok")
    assert [m.content for m in chat.talk.conversation.messages()] == [sent, "ok"]


@pytest.mark.parametrize(
    ("typed", "sent"),
    [
        ("//etc/hosts", "/etc/hosts"),
        ("//etc<C-j>and more", "//etc\nand more"),
        ('"""/help<C-j>me"""', "/help\nme"),
        ("two<C-j>lines", "two\nlines"),
    ],
)
def test_a_message_taken_back_is_sent_again_as_it_was(typist, typed, sent):
    chat = typist.chat(typed, "/edit", "", default="{last}")

    assert [m.content for m in chat.talk.conversation.messages()] == [sent, sent]
    assert chat.all.count(sent) == 2


def test_a_command_may_have_several_lines(typist):
    chat = typist.chat("\x1b[200~/system Be brief.\nBe kind.\x1b[201~", default="ok")
    assert chat.talk.conversation.system == "Be brief.\nBe kind."


FAMILY, FLAG = "👨\u200d👩\u200d👧", "🇩🇪"


@pytest.mark.parametrize("keys", ["emacs", "vi"])
@pytest.mark.parametrize(
    ("line", "typed"),
    [
        (f"go {FAMILY}<BS>", "go "),
        (f"{FAMILY}{FLAG}<Left><BS>", FLAG),
        (f"{FLAG}👍🏽<Left><Left><Del>", "👍🏽"),
        (f"{FLAG}x<Left><Left>a<Right>b", f"a{FLAG}bx"),
        ("cafe\u0301<BS>e", "cafe"),
        ("漢字<BS>", "漢"),
        ("\u0928\u093f<BS>", "\u0928"),
        ("\u0e19\u0e33<BS>", "\u0e19"),
        ("\u0915\u094d\u0937<BS>", "\u0915\u094d"),
        ("e" + "\u0301" * 100 + "x<Left><Left><Right>y", "e" + "\u0301" * 100 + "yx"),
        ("\u05e9\u05dc\u05d5\u05dd<BS>", "\u05e9\u05dc\u05d5"),
        ("<BS><Del><Left><Right>end", "end"),
        ("one<C-j>two<Left><Left><Left><Left>x", "one\nxtwo"),
    ],
)
def test_keys_take_what_a_person_sees_as_one_character(typist, keys, line, typed):
    assert typist.chat(line, keys=keys, default="ok").typed == [typed]


@pytest.mark.parametrize(
    ("line", "typed"),
    [
        (f"a{FAMILY}b<C-a><C-f><C-D>", "ab"),
        ("e\u0301x<C-a><C-D>", "x"),
        (f"{FAMILY}<C-j>ab<Up>Z", f"Z{FAMILY}\nab"),
        (f"{FAMILY}<Left><S-Right><C-w>z", "z"),
        (f"{FLAG}<C-a>🇫🇷", f"🇫🇷{FLAG}"),
        (f"a{FAMILY}<C-t>z", f"{FAMILY}az"),
        (f"{FAMILY}{FLAG}x<Left><C-t>z", f"{FAMILY}x{FLAG}z"),
        (f"{FAMILY}<C-t>z", f"{FAMILY}z"),
        (f"{FAMILY}x<C-a><C-t>z", f"z{FAMILY}x"),
    ],
)
def test_emacs_keys_take_whole_characters(typist, line, typed):
    assert typist.chat(line, default="ok").typed == [typed]


@pytest.mark.parametrize(
    ("line", "typed"),
    [
        (f"a{FAMILY}b<Esc>0lx", "ab"),
        (f"a{FAMILY}b<Esc>0lrz", "azb"),
        (f"a{FAMILY}b<Esc>hD", "a"),
        (f"x{FAMILY}<Esc>X", FAMILY),
        (f"x{FAMILY}y<Esc>hiq", f"xq{FAMILY}y"),
        (f"x{FAMILY}y<Esc>0lsq", "xqy"),
        (f"{FAMILY}{FLAG}y<Esc>02xP", f"{FAMILY}{FLAG}y"),
        ("e\u0301x<Esc>0x", "x"),
        ("abc<Esc>02rz", "zzc"),
        (f"{FAMILY}xy<Esc>0dl", "xy"),
        (f"{FAMILY}{FLAG}y<Esc>0c2lz", "zy"),
        (f"a{FAMILY}y<Esc>dh", "ay"),
        (f"a{FAMILY}<Esc>0x2p", f"{FAMILY}aa"),
        ("👍🏽z<Esc>0ylpx", "👍🏽z"),
        (f"{FAMILY}x<Esc>0ylp", f"{FAMILY}{FAMILY}x"),
        (f"{FAMILY}xy<Esc>0Rz<Esc>0", "zxy"),
        (f"{FAMILY}xy<Esc>0R👍🏽q<Esc>0", "👍🏽qy"),
    ],
)
def test_vi_keys_take_whole_characters(typist, line, typed):
    assert typist.chat(line, keys="vi", default="ok").typed == [typed]


def test_vi_keys_edit_as_vi_does(typist):
    chat = typist.chat("abc\x1b0x", keys="vi", default="{last}")

    assert chat.typed == ["bc"]


def test_the_screen_is_append_only_but_for_one_preview_line():
    out = io.StringIO()
    screen = Screen(out, terminal=True, width=lambda: 40)
    view = AnswerView(screen)
    text = "# One\n\nTwo **three** four " * 20 + "\n\n- a\n- b\n\n```\ncode\n```\n"
    for at in range(0, len(text), 3):
        view.feed(Piece(text[at : at + 3]))
    view.end()

    rest = out.getvalue()
    assert "\x1b[" in rest
    assert "\x1b" not in rest.replace("\r\x1b[J", "")
    for line in rest.split("\n"):
        wiped = line.split("\r\x1b[J")
        assert all(len(preview) < 40 for preview in wiped)
        assert wiped[0] == "" or len(wiped) == 1


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.text(
            alphabet="a \n*#|-`\x00\x07\x08\r\x1b[]2J;0m\x7f\x80\x9b\x9d\u202e\u2066\ud83d漢", max_size=12
        ),
        max_size=12,
    ),
    st.booleans(),
)
def test_whatever_a_model_says_in_whatever_pieces_nothing_unsafe_reaches_a_terminal(pieces, plain):
    out = io.StringIO()
    view = AnswerView(Screen(out, terminal=True, width=lambda: 40, plain=plain))
    for at, piece in enumerate(pieces):
        view.feed(Piece(piece, thinking=at == 0))
    view.end()

    previews = re.compile(r"\r\x1b\[J([^\r\n\x1b]*)\r(?=\r\x1b\[J)")
    rest = previews.sub(r"\1", out.getvalue()).replace("\r\x1b[J", "")
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]", rest)


def test_an_answer_in_a_pipe_is_the_text_itself():
    out = io.StringIO()
    view = AnswerView(Screen(out, terminal=False, width=lambda: 80))
    for piece in ("**a**\x1b[", "2J\n", "\n- b"):
        view.feed(Piece(piece))
    view.end()

    assert out.getvalue() == "**a**\x1b[2J\n\n- b\n"


def test_a_system_message_and_a_model_that_a_full_disk_did_not_take_are_written_later(tmp_path):
    history = History(tmp_path / "history.db")
    conversation = Conversation(history, "model")
    exchange(conversation, "one", "first answer")
    history.store.db.execute(
        "CREATE TRIGGER full BEFORE UPDATE ON conversation BEGIN SELECT RAISE(FAIL, 'disk is full'); END"
    )
    conversation.set_system("Be brief.")
    conversation.set_model("other")
    history.store.db.execute("DROP TRIGGER full")
    exchange(conversation, "two", "second answer")

    record = history.find("last")
    assert (record.system, record.model, conversation.trouble) == ("Be brief.", "other", "")
    history.close()


def test_an_answer_that_the_model_adds_nothing_to_stays_done(typist):
    nothing = {"text": "", "finish_reason": "degenerate"}
    chat = typist.chat("go", "/continue", replies={"one two": nothing}, default="one two", log="asked.jsonl")

    [answer] = chat.talk.conversation.answers()
    assert (answer.content, answer.state) == ("one two", "done")
    assert "■ the model adds nothing" in chat.all and "repeated itself" not in chat.all
