"""The memory: what is kept, who may read it, and that eight writers lose nothing."""

from __future__ import annotations

import os
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from contextlib import closing

import pytest

from llmcli.chat.conversation import Conversation
from llmcli.chat.history import History, record_exchange
from llmcli.chat.store import MIGRATIONS
from llmcli.errors import BadConfig, MissingInput, Stopped, UnreadableInput, UsageError
from llmcli.messages import Usage

WRITER = """
import sys
from pathlib import Path
from llmcli.chat.history import History

path, name, turns = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
history = History(path)
number = history.start("model", name=f"writer-{name}")
for turn in range(turns):
    history.add(number, "user", f"question {turn} of {name}")
    answer = history.add(number, "assistant", "", state="streaming")
    history.grow(answer, f"answer {turn}")
    history.finish(answer, f"answer {turn} to {name}")
history.close()
"""


@pytest.fixture
def path(tmp_path):
    return tmp_path / "data" / "history.db"


@pytest.fixture
def history(path):
    with closing(History(path)) as opened:
        yield opened


def said(history, *texts, name=""):
    number = history.start("model", name=name)
    for at, text in enumerate(texts):
        history.add(number, ("user", "assistant")[at % 2], text)
    return number


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def test_a_conversation_comes_back_as_it_was_saved(history):
    number = history.start("model", system="Be brief.", name="trip")
    history.add(number, "user", "Where to?")
    answer = history.add(number, "assistant", "", state="streaming", model="m", seed=7)
    history.grow(answer, "Ro", "hm")
    history.finish(answer, "Rome.", "hm, Rome", "done", Usage(12, 3, 4), 0.5)

    record = history.find("trip")
    question, reply = history.entries(number)

    assert (record.id, record.system, record.messages, record.heading) == (
        number,
        "Be brief.",
        2,
        "Where to?",
    )
    assert (question.role, question.content, question.place) == ("user", "Where to?", "context")
    assert (reply.content, reply.thinking, reply.state, reply.seed) == ("Rome.", "hm, Rome", "done", 7)
    assert (reply.usage, reply.seconds) == (Usage(12, 3, 4), 0.5)


def test_conversations_are_listed_the_latest_used_first(history):
    first, second = said(history, "one"), said(history, "two")
    history.add(first, "user", "again")

    assert [record.id for record in history.conversations()] == [first, second]
    assert [record.id for record in history.conversations(limit=1)] == [first]
    assert history.find("last").id == first


def test_what_is_asked_for_and_not_there_is_told(history):
    for reference in ("last", "12", "nobody"):
        with pytest.raises(MissingInput):
            history.find(reference)


@pytest.mark.parametrize("name", ["", "a b", "../x", "12", "x" * 65, "a\nb", "last"])
def test_a_bad_session_name_is_refused(history, name):
    number = said(history, "hello")
    with pytest.raises(UsageError):
        history.rename(number, name=name)


def test_a_name_belongs_to_one_conversation(history):
    first, second = said(history, "a", name="trip"), said(history, "b")
    with pytest.raises(UsageError, match=f"taken by conversation {first}"):
        history.rename(second, name="trip")
    history.rename(first, name="trip")


def test_search_finds_words_phrases_beginnings_and_scripts_without_spaces(history):
    said(history, "Where is the train station?", "Left of the park. C'est l'été.", name="way")
    said(history, "駅はどこですか", "公園の左です")

    def found(words):
        return [(hit.name, hit.role) for hit in history.search(words)]

    assert found("train station") == [("way", "user")]
    assert found('"the train"') == [("way", "user")]
    assert found('"train the"') == []
    assert found("stat") == [("way", "user")]
    assert found("ete") == [("way", "assistant")]
    assert found("どこ") == [("", "user")]
    assert found('" OR NEAR( * ^ - :') == []
    said(history, "使用Python编程", "好", name="mixed")
    assert found("python") == [("mixed", "user")]
    assert history.search("park")[0].snippet == "Left of the «park». C'est l'été."
    with pytest.raises(UsageError):
        history.search('  " ')


def test_a_growing_answer_is_found_by_its_words_and_the_old_words_are_gone(history):
    number = history.start("model")
    answer = history.add(number, "assistant", "alpha", state="streaming")
    history.grow(answer, "beta")

    assert history.search("alpha") == []
    assert len(history.search("beta")) == 1


def test_a_summary_stands_where_the_messages_stood_that_it_replaces(history):
    number = said(history, "one", "1", "two", "2")
    entries = history.entries(number)
    history.put_summary(number, [entry.id for entry in entries[:2]], "one is 1")

    assert [(e.role, e.content, e.place) for e in history.entries(number)] == [
        ("user", "one", "summed"),
        ("assistant", "1", "summed"),
        ("summary", "one is 1", "context"),
        ("user", "two", "context"),
        ("assistant", "2", "context"),
    ]


def test_files_are_for_their_owner_alone_whatever_the_umask_says(tmp_path):
    before = os.umask(0)
    try:
        path = tmp_path / "deep" / "data" / "history.db"
        history = History(path)
        said(history, "hello")
        files = sorted(path.parent.iterdir())
        assert [file.name for file in files] == ["history.db", "history.db-shm", "history.db-wal"]
        assert [mode(file) for file in files] == [0o600, 0o600, 0o600]
        assert mode(path.parent) == 0o700
        history.close()
    finally:
        os.umask(before)


def test_a_file_that_others_could_read_is_closed_to_them(path):
    path.parent.mkdir()
    path.touch(mode=0o644)
    with closing(History(path)) as history:
        said(history, "hello")

        assert {mode(file) for file in path.parent.iterdir()} == {0o600}


def test_a_private_history_leaves_nothing(tmp_path):
    with closing(History(None)) as history:
        said(history, "hello")
        assert history.private
        assert len(list(history.conversations())) == 1

    assert list(tmp_path.iterdir()) == []


def test_what_is_deleted_is_gone_from_every_byte(history, path):
    kept, gone = said(history, "kept words"), said(history, "Canary7731 sings", "yes")
    history.add_line("Canary7731 sings")
    history.delete([gone])

    assert [record.id for record in history.conversations()] == [kept]
    assert history.search("canary7731") == []
    history.purge()
    for file in path.parent.iterdir():
        assert b"anary7731" not in file.read_bytes()
    assert list(history.conversations()) == []
    assert history.lines() == []


def test_deleting_one_conversation_scrubs_its_words(history, path):
    said(history, "kept words")
    history.delete([said(history, "Canary7731 sings")])

    assert all(b"anary7731" not in file.read_bytes() for file in path.parent.iterdir())


def test_typed_lines_come_back_latest_first(history):
    for line in ("one", "two\nlines", "three"):
        history.add_line(line)

    assert history.lines(2) == ["three", "two\nlines"]


def test_a_one_shot_exchange_is_a_conversation_of_its_kind(history):
    record_exchange(history, "title", "model", "A long text", "A title")

    (record,) = history.conversations()
    assert (record.kind, record.messages, record.first) == ("title", 2, "A long text")
    assert history.find("last").kind == "title"
    with pytest.raises(MissingInput):
        history.find("last", kind="chat")


def test_a_conversation_that_is_not_begun_takes_no_name_that_is_none(history):
    with pytest.raises(UsageError, match="no session name"):
        Conversation(history, "model").rename(name="my trip!")


def test_two_chats_that_begin_one_session_are_one_conversation(history):
    one, other = (Conversation(history, "model", name="duo") for _ in range(2))
    one.say("first")
    other.say("second")

    assert one.number == other.number
    assert [entry.content for entry in history.entries(one.number)] == ["first", "second"]


def test_a_damaged_file_and_a_newer_one_are_told_apart(path):
    path.parent.mkdir()
    path.write_bytes(b"not a database at all, " * 100)
    with pytest.raises(UnreadableInput, match="move it away"):
        History(path)

    path.unlink()
    History(path).close()
    with closing(sqlite3.connect(path)) as db:
        db.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    with pytest.raises(BadConfig, match="newer llm"):
        History(path)


def test_a_writer_waits_for_another_and_then_says_who_it_waited_for(history, path):
    other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    threading.Timer(0.3, lambda: other.execute("COMMIT")).start()
    began = time.monotonic()

    said(history, "after a while")

    assert time.monotonic() - began >= 0.25
    other.execute("BEGIN IMMEDIATE")
    with (
        closing(History(path, patience=0.05)) as hasty,
        pytest.raises(Stopped, match="locked by another process"),
    ):
        said(hasty, "never")
    other.close()


def test_a_transaction_is_all_or_nothing(history):
    number = said(history, "one")
    with pytest.raises(RuntimeError), history.store.writing() as db:
        db.execute("DELETE FROM message")
        raise RuntimeError

    assert len(history.entries(number)) == 1


def write_from_many(path, writers, turns):
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path), str(one), str(turns)], stderr=subprocess.PIPE
        )
        for one in range(writers)
    ]
    errors = [process.communicate()[1] for process in processes]
    assert [process.returncode for process in processes] == [0] * writers, errors
    with closing(History(path)) as history:
        records = list(history.conversations())
        assert len(records) == writers
        for record in records:
            name = record.name.removeprefix("writer-")
            entries = history.entries(record.id)
            assert [e.content for e in entries] == [
                text
                for turn in range(turns)
                for text in (f"question {turn} of {name}", f"answer {turn} to {name}")
            ]
            assert {entry.state for entry in entries} == {"done"}
        assert history.store.db.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
        assert len(history.search(f'"answer {turns - 1}"', limit=1000)) == writers


def test_eight_writers_on_a_new_file_lose_nothing(path):
    write_from_many(path, writers=8, turns=5)


@pytest.mark.slow
def test_eight_writers_of_a_thousand_turns_lose_nothing(path):
    write_from_many(path, writers=8, turns=1000)


def test_a_killed_writer_loses_nothing_that_was_acknowledged(path):
    code = WRITER.replace('history.add(number, "user"', 'print(turn, flush=True); history.add(number, "user"')
    writer = subprocess.Popen([sys.executable, "-c", code, str(path), "0", "100000"], stdout=subprocess.PIPE)
    for _ in range(20):
        line = writer.stdout.readline()
    writer.kill()
    rest = writer.stdout.read()
    writer.wait()
    last = int((rest.strip() or line).split()[-1])

    with closing(History(path)) as history:
        entries = history.entries(1)
        assert len(entries) >= 2 * last
        assert history.store.db.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
