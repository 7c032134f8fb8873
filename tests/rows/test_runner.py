"""A run of rows: what is asked, what is written where, when it stops, how it goes on."""

from __future__ import annotations

import csv
import io
import json
import os
import sqlite3
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from batches import TITLE

from llmcli.messages import Sampling
from llmcli.rows.journal import start_of

GOOD = {"positive": 0.9, "neutral": 0.06, "negative": 0.04}


def table(rows, text="Review {}"):
    return "id,text\n" + "".join(f"{number},{text.format(number)}\n" for number in rows)


def texts(asked):
    return [one["prompt"].split("\n\n", 1)[1] for one in asked()]


# ---------------------------------------------------------------- resuming


def test_a_job_that_crashed_goes_on_where_it_was_and_asks_only_what_is_missing(batches, asked):
    batch = batches(crash=["Review 6"])
    batch.write("rows.csv", table(range(10)))

    crashed = batch.run("rows.csv", "out.csv")
    assert crashed.code == 70
    assert "resume with the same command" in crashed.stderr
    first = texts(asked)

    batch.write("rows.csv", table(range(6)) + "6,Instead\n")
    done = batch.run("rows.csv", "out.csv")

    assert done.code == 0
    assert "resuming: 6 answers" in done.stderr
    assert texts(asked)[len(first) :] == ["Instead"]
    assert batch.names() == ["out.csv", "rows.csv"]


def test_equal_rows_are_asked_once_and_each_gets_the_answer(batches, asked):
    batch = batches(TITLE, default="T {last}")
    batch.write("rows.csv", "id,text\n1,same\n2,other\n3,same\n4,same\n")

    batch.run("rows.csv", "out.csv")

    assert len(asked()) == 2
    assert batch.read("out.csv").splitlines()[1:] == [
        "1,same,T same,",
        "2,other,T other,",
        "3,same,T same,",
        "4,same,T same,",
    ]


def test_empty_rows_never_reach_the_model(batches, asked):
    batch = batches(replies={"": GOOD})
    batch.write("rows.csv", 'id,text\n1,\n2,"  "\n3,x\n')

    assert batch.run("rows.csv", "out.csv").code == 0

    assert texts(asked) == ["x"]
    assert batch.read("out.csv").splitlines()[1:] == ["1,,,,", '2,"  ",,,', "3,x,positive,0.9000,"]


def test_an_input_that_grew_asks_only_the_new_rows(batches, asked):
    batch = batches()
    batch.write("rows.csv", table(range(5)))
    batch.run("rows.csv", "out.csv", keep_journal=True)
    batch.write("rows.csv", table([7, 3, 1, 8]))

    assert batch.run("rows.csv", "out.csv").code == 0

    assert texts(asked)[5:] == ["Review 7", "Review 8"]
    assert len(batch.read("out.csv").splitlines()) == 5


def test_a_look_at_the_first_rows_keeps_the_answers_of_the_others(batches, asked, work):
    batch = batches()
    batch.write("rows.csv", table(range(5)))
    batch.run("rows.csv", "out.csv", keep_journal=True)

    looked = batch.run("rows.csv", "out.csv", limit=2)
    whole = batch.run("rows.csv", "out.csv")

    assert "out.csv.journal is kept: it has 3 answers of other rows" in looked.stderr
    assert (whole.code, len(asked())) == (0, 5)
    assert not (work / "out.csv.journal").exists()


def test_answers_that_a_pipe_does_not_need_are_kept_too(batches, work):
    batch = batches()
    batch.write("rows.csv", "text\none\none\none\ntwo\nthree\n")
    batch.run("rows.csv", "out.csv", keep_journal=True)

    piped = batch.run(None, "out.csv", b"text\none\none\none\n", input_format="csv")

    assert "it has 2 answers of other rows" in piped.stderr
    assert (work / "out.csv.journal").exists()


@pytest.mark.parametrize(
    ("format", "rows"),
    [("csv", b"text\na\nb\nc\n"), ("jsonl", b'{"text":"a"}\n{"text":"b"}\n{"text":"c"}\n')],
)
def test_the_first_rows_of_a_pipe_are_written_whole(batches, work, format, rows):
    batch = batches()

    done = batch.run(None, "out.tsv", rows, input_format=format, limit=2)

    assert done.code == 0
    assert [line.split("\t")[0] for line in batch.read("out.tsv").splitlines()] == ["text", "a", "b"]
    assert [path.name for path in work.glob("out.tsv*")] == ["out.tsv"]


def test_an_output_that_is_a_link_to_itself_is_one_line(batches, work):
    batch = batches()
    batch.write("rows.csv", table([1]))
    (work / "loop.csv").symlink_to("loop.csv")

    assert batch.run("rows.csv", "loop.csv").code == 73


@pytest.mark.parametrize("place", ["/dev/stdout", ">(cat > made.csv)", "link.csv"])
def test_the_output_goes_where_the_shell_says(llm_env, work, script, place):
    from conftest import LLM

    (work / "rows.csv").write_text(table([1]))
    (work / "link.csv").symlink_to("made.csv")
    run = f"'{LLM}' sentiment rows.csv --format csv -o {place} -m {script(scores='hash')}"
    wait = "until [ -s made.csv ]; do sleep 0.02; done" if "made" in place else ":"
    command = f"(echo before; {run}; echo after) > out.txt; {wait}; cat out.txt made.csv"

    done = subprocess.run(["bash", "-c", command], cwd=work, env=llm_env, capture_output=True, text=True)

    header = "id,text,sentiment,sentiment_p,error"
    lines = done.stdout.splitlines()
    if place == "/dev/stdout":
        assert [lines[0], lines[1], lines[3]] == ["before", header, "after"]
    else:
        assert lines[:3] == ["before", "after", header]
    assert place != "link.csv" or (work / "link.csv").is_symlink()


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"template": TITLE}, "template"),
        ({"field": "id"}, "field"),
        ({"sampling": Sampling(temperature=1.0)}, "sampling"),
        ({"truncate": "head"}, "truncate"),
    ],
)
def test_a_journal_of_another_job_is_refused_and_says_what_differs(batches, change, named):
    batch = batches()
    batch.write("rows.csv", table(range(3)))
    batch.run("rows.csv", "out.csv", keep_journal=True)

    done = batch.run("rows.csv", "out.csv", **change)

    assert done.code == 2
    assert "out.csv.journal belongs to another job: its " + named in str(done.error)
    assert "remove the journal" in done.error.hint


def test_another_model_is_another_job(batches):
    batch = batches()
    batch.write("rows.csv", table(range(3)))
    batch.run("rows.csv", "out.csv", keep_journal=True)

    done = batches(default="another").run("rows.csv", "out.csv")

    assert done.code == 2
    assert "its model is" in str(done.error)


@pytest.mark.parametrize(
    "content", [b"", b"not a database at all, just text", b"SQLite format 3\0" + b"x" * 200]
)
def test_a_file_that_is_no_journal_is_not_overwritten(batches, work, content):
    batch = batches()
    batch.write("rows.csv", table(range(3)))
    batch.write("out.csv.journal", content)

    done = batch.run("rows.csv", "out.csv")

    assert done.code == (65 if content else 0)
    if content:
        assert (work / "out.csv.journal").read_bytes() == content


def test_another_program_s_database_is_not_touched(batches, work):
    batch = batches()
    batch.write("rows.csv", table(range(3)))
    with sqlite3.connect(work / "out.csv.journal") as database:
        database.execute("CREATE TABLE theirs (x)")

    done = batch.run("rows.csv", "out.csv")

    assert done.code == 73
    assert "is not a journal of llm" in str(done.error)


def test_the_journal_carries_how_its_answers_came_about(batches, work):
    batch = batches()
    batch.write("rows.csv", table(range(3)))
    batch.run("rows.csv", "out.csv", keep_journal=True, sidecar=True)

    with sqlite3.connect(work / "out.csv.journal") as database:
        meta = dict(database.execute("SELECT name, value FROM meta"))
    kept = json.loads(meta["provenance"])

    assert len(kept["model"]["sha256"]) == 64
    assert kept["template"]["name"] == "sentiment"
    assert kept["llmcli"]
    assert "seed" in kept["seed_rule"]
    assert json.loads(batch.read("out.csv.provenance.json")) == kept


def test_private_text_beside_the_output_is_for_its_owner_alone(batches, work):
    batch = batches(crash=["Review 3"])
    before = os.umask(0)
    try:
        batch.run(None, "out.csv", stdin=table(range(9)).encode(), input_format="csv")
    finally:
        os.umask(before)

    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in work.iterdir()}

    assert modes
    assert set(modes.values()) == {0o600}


def test_a_resumed_job_keeps_the_day_on_which_it_began(batches, work):
    batch = batches()
    batch.write("rows.csv", table(range(3)))

    assert abs(start_of(work / "out.csv") - time.time()) < 60
    batch.run("rows.csv", "out.csv", keep_journal=True, started=1000.5)

    assert start_of(work / "out.csv") == 1000.5
    assert batch.run("rows.csv", "out.csv", started=start_of(work / "out.csv")).code == 0


# ---------------------------------------------------------------- failures


def test_a_row_that_fails_is_its_error_and_the_end_is_3(batches):
    batch = batches(replies={"": GOOD}, fail={"Review 1": 'UnusableAnswer: no idea, "really"'})
    batch.write("rows.csv", table(range(3)))

    done = batch.run("rows.csv", "out.csv")

    assert done.code == 3
    assert str(done.error).startswith("1 of 3 rows failed: 1 without a usable answer")
    rows = list(csv.DictReader(io.StringIO(batch.read("out.csv"))))
    assert [row["error"] for row in rows] == ["", 'no idea, "really"', ""]
    assert "out.csv.journal" in batch.names()


def test_failed_rows_are_not_asked_again_unless_that_is_asked_for(batches, asked, script):
    batch = batches(fail={"Review 1": "UnusableAnswer: no", "Review 2": "UnusableAnswer: no"})
    batch.write("rows.csv", table(range(4)))
    batch.run("rows.csv", "out.csv")
    assert len(asked()) == 4

    assert batch.run("rows.csv", "out.csv").code == 3
    assert len(asked()) == 4

    assert batch.run("rows.csv", "out.csv", retry_errors=True).code == 3
    assert texts(asked)[4:] == ["Review 1", "Review 2"]


def test_what_a_server_did_not_answer_is_asked_again_when_the_job_resumes(batches, asked):
    batch = batches(fail={"Review 1": "BackendUnreachable: 503"})
    batch.write("rows.csv", table(range(3)))
    batch.run("rows.csv", "out.csv")

    batch.run("rows.csv", "out.csv")

    assert texts(asked)[3:] == ["Review 1"]


def test_a_job_whose_first_20_rows_all_fail_stops(batches, asked):
    batch = batches(fail={"Review": "UnusableAnswer: no"})
    batch.write("rows.csv", table(range(500)))

    done = batch.run("rows.csv", "out.csv")

    assert done.code == 75
    assert "the first 20 rows all failed: no" in str(done.error)
    assert "--max-errors" in done.error.hint
    assert len(asked()) < 30
    assert "out.csv" not in batch.names()


def test_19_failures_and_then_an_answer_do_not_stop_a_job(batches):
    batch = batches(fail={"bad": "UnusableAnswer: no"})
    batch.write("rows.csv", table(range(19), "bad {}") + table(range(200), "fine {}").split("\n", 1)[1])

    assert batch.run("rows.csv", "out.csv").code == 3


def test_more_than_a_tenth_of_a_thousand_stops_a_job(batches):
    batch = batches(fail={"bad": "UnusableAnswer: no"})
    rows = [f"{n},{'bad' if n % 8 == 1 else 'fine'} {n}\n" for n in range(3000)]
    batch.write("rows.csv", "id,text\n" + "".join(rows))

    done = batch.run("rows.csv", "out.csv")

    assert done.code == 75
    assert "more than 10 %" in str(done.error)


def test_unreadable_rows_count_as_failures(batches, asked):
    batch = batches()
    batch.write("rows.csv", "id,text\n" + "1,a,b\n" * 50)

    done = batch.run("rows.csv", "out.csv")

    assert done.code == 75
    assert asked() == []


def test_max_errors_is_absolute(batches):
    batch = batches(fail={"bad": "UnusableAnswer: no"})
    batch.write("rows.csv", table(range(30), "bad {}"))

    assert batch.run("rows.csv", "out.csv", max_errors=30).code == 3
    batch.write("rows.csv", table(range(30), "bad one {}"))
    stopped = batch.run("rows.csv", "other.csv", max_errors=2)

    assert stopped.code == 75
    assert "3 rows failed" in str(stopped.error)


def test_a_limit_is_a_number_of_rows(batches, asked):
    batch = batches()
    batch.write("rows.csv", table(range(100)))

    batch.run("rows.csv", "out.csv", limit=7)

    assert len(asked()) == 7
    assert len(batch.read("out.csv").splitlines()) == 8


# ---------------------------------------------------------------- files


def test_the_old_output_stays_until_the_new_one_is_complete(batches):
    batch = batches(crash=["Review 6"])
    batch.write("rows.csv", table(range(10)))
    batch.write("out.csv", "precious")

    batch.run("rows.csv", "out.csv")

    assert batch.read("out.csv") == "precious"


def test_the_input_is_never_the_output(batches, work):
    batch = batches()
    batch.write("rows.csv", table(range(3)))
    (work / "link.csv").symlink_to("rows.csv")

    for output in ("rows.csv", "link.csv"):
        done = batch.run("rows.csv", output)
        assert done.code == 2
        assert "is the input" in str(done.error)


def test_a_link_stays_a_link(batches, work):
    batch = batches()
    batch.write("rows.csv", table(range(3)))
    batch.write("target.csv", "old")
    (work / "out.csv").symlink_to("target.csv")

    assert batch.run("rows.csv", "out.csv").code == 0

    assert (work / "out.csv").is_symlink()
    assert batch.read("target.csv").startswith("id,text,sentiment")


def test_an_output_that_is_a_device_is_written_to_as_it_is(batches):
    batch = batches()
    batch.write("rows.csv", table(range(3)))

    assert batch.run("rows.csv", "/dev/null").code == 0
    assert batch.run("rows.csv", "/dev/full").code == 74
    assert batch.run("rows.csv", "/dev/null").code == 0


@pytest.mark.parametrize(("output", "code"), [("nosuch/out.csv", 73), (".", 73)])
def test_an_output_that_cannot_be_made_is_told_at_once(batches, asked, output, code):
    batch = batches()
    batch.write("rows.csv", table(range(3)))

    assert batch.run("rows.csv", output).code == code
    assert asked() == []


def test_an_input_that_is_not_there_is_missing(batches):
    assert batches().run("nosuch.csv", "out.csv").code == 66


def test_a_file_without_a_known_ending_needs_a_format(batches):
    batch = batches()
    batch.write("rows.dat", table(range(3)))

    assert batch.run("rows.dat").code == 2
    assert batch.run("rows.dat", input_format="csv").code == 0


def test_an_input_that_changes_while_it_is_read_stops_the_job(batches, work):
    batch = batches(delay=0.02)
    batch.write("rows.csv", table(range(20)))
    one_is_asked = "while ! [ -s ../asked.jsonl ]; do sleep 0.01; done"
    with subprocess.Popen(["sh", "-c", f"{one_is_asked}; echo x,y >> rows.csv"], cwd=work):
        changed = batch.run("rows.csv", "out.csv")

    assert changed.code == 75
    assert "changed during the run" in str(changed.error)
    assert batch.run("rows.csv", "out.csv").code == 0


def test_a_second_process_on_the_same_output_is_told_who_has_it(batches, work):
    batch = batches()
    batch.write("rows.csv", table(range(3)))
    holder = (
        "import fcntl, os, sys, time; f = open(sys.argv[1], 'w'); fcntl.flock(f, fcntl.LOCK_EX);"
        "f.write(str(os.getpid())); f.flush(); print('held', flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", holder, str(work / "out.csv.journal.lock")]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        done = batch.run("rows.csv", "out.csv")
        process.kill()

    assert done.code == 75
    assert f"process {process.pid}" in str(done.error)
    assert batch.run("rows.csv", "out.csv").code == 0


def test_what_needs_an_output_file_says_so(batches):
    batch = batches()
    batch.write("rows.csv", table(range(3)))

    for option in ("retry_errors", "keep_journal", "sidecar"):
        done = batch.run("rows.csv", **{option: True})
        assert done.code == 2
        assert "needs an output file" in str(done.error)


# ---------------------------------------------------------------- pipes and standard output


def test_a_pipe_is_spooled_for_the_second_pass(batches, asked):
    batch = batches(replies={"": GOOD})

    done = batch.run(None, "out.csv", stdin=b"one\ntwo\n\none\n", input_format="lines")

    assert done.code == 0
    assert len(asked()) == 2
    assert batch.read("out.csv") == (
        "text,sentiment,sentiment_p,error\n"
        "one,positive,0.9000,\ntwo,positive,0.9000,\n,,,\none,positive,0.9000,\n"
    )
    assert batch.names() == ["out.csv"]


def test_a_job_fed_by_a_pipe_resumes_when_it_is_fed_again(batches, asked):
    batch = batches(crash=["Review 6"])
    rows = table(range(6)).encode()
    crashed = batch.run(None, "out.csv", stdin=rows + b"6,Review 6\n", input_format="csv")
    done = batch.run(None, "out.csv", stdin=rows + b"7,Review 7\n", input_format="csv")

    assert (crashed.code, done.code) == (70, 0)
    assert len(asked()) == 8


def test_without_an_output_labels_are_lines_and_nothing_is_left_behind(batches):
    batch = batches(replies={"": GOOD})
    batch.write("rows.csv", 'id,text\n1,"a\tb\nc"\n2,\n3,d\n')

    done = batch.run("rows.csv")

    assert done.stdout == "positive\t0.9000\ta b c\n\t\t\npositive\t0.9000\td\n"
    assert done.stderr == ""
    assert batch.names() == ["rows.csv"]


def test_without_an_output_a_generated_answer_is_one_line(batches):
    batch = batches(TITLE, replies={"Review 0": "two\nlines", "Review": "one"}, fail={})
    batch.write("rows.csv", table(range(2)))

    assert batch.run("rows.csv").stdout == "two lines\none\n"


def test_failures_are_named_on_standard_error_when_there_is_no_error_column(batches):
    batch = batches(TITLE, fail={"Review 1": "UnusableAnswer: no idea"})
    batch.write("rows.csv", table(range(3)))

    done = batch.run("rows.csv")

    assert done.code == 3
    assert done.stdout.splitlines()[1] == ""
    assert "row 2: no idea" in done.stderr


def test_a_json_object_says_where_it_comes_from(batches):
    batch = batches(replies={"": GOOD})
    batch.write("rows.csv", table(range(1)))

    (record,) = map(json.loads, batch.run("rows.csv", output_format="json").stdout.splitlines())

    assert record["source"].endswith("rows.csv")
    assert record["row"] == 1
    assert record["sentiment"] == "positive"
    assert record["sentiment_p"] == 0.9
    assert record["finish_reason"] == "stop"
    assert record["tokens"]["prompt"] == 3
    assert record["template"] == "sentiment"
    assert record["model"] == "script.json"
    assert record["chunks"] == 1
    assert len(record["provenance"]["model"]["sha256"]) == 64


def test_json_names_a_long_path_in_full(batches, work):
    batch = batches()
    name = "reviews-" + "x" * 120 + ".csv"
    batch.write(name, "text\nfine\n")

    record = json.loads(batch.run(name, output_format="json").stdout)

    assert record["source"] == record["provenance"]["source"] == str(work / name)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no device that is always full")
def test_a_full_device_promises_no_resumption(batches):
    batch = batches()
    batch.write("rows.csv", "text\nfine\n")

    done = batch.run("rows.csv", "/dev/full")

    assert done.code == 74
    assert str(done.error).startswith("cannot write /dev/full: No space left on device")
    assert "resume" not in str(done.error) + done.stderr


def test_an_answer_that_was_cut_is_noted(batches):
    batch = batches(TITLE, replies={"": {"text": "one two three", "finish_reason": "length"}})
    batch.write("rows.csv", table(range(3)))

    assert "3 answers were cut at --max-tokens" in batch.run("rows.csv", "out.csv").stderr


def test_a_degenerate_answer_is_kept_and_counted_as_a_failure(batches):
    batch = batches(TITLE, replies={"Review 1": {"text": "na na na", "finish_reason": "degenerate"}})
    batch.write("rows.csv", table(range(3)))

    done = batch.run("rows.csv", "out.csv")

    assert done.code == 3
    assert batch.read("out.csv").splitlines()[2].startswith('1,Review 1,na na na,"the answer is degenerate')


def test_a_quiet_success_says_nothing(batches):
    batch = batches()
    batch.write("rows.csv", table(range(3)))

    assert batch.run("rows.csv", "out.csv").stderr == ""


def test_verbose_tells_what_is_ahead_and_what_became_of_it(batches):
    batch = batches(replies={"Review 1": GOOD}, scores="hash")
    batch.write("rows.csv", table(range(3)) + "4,\n5,Review 1\n")

    done = batch.run("rows.csv", "out.csv", verbose=True)

    assert "5 rows, 1 empty, 1 repeated, the longest has 3 tokens (row 1)" in done.stderr
    assert "5 rows, 3 distinct texts, 3 asked in" in done.stderr


def test_of_a_pipe_it_is_told_what_can_be_told(batches):
    done = batches().run(None, "out.csv", stdin=b"one\ntwo\n", input_format="lines", verbose=True)

    assert "the prompt takes 1 token of 8,192 beside the text" in done.stderr
    assert "is not known before the end of the pipe" in done.stderr
    assert "2 rows, 2 asked in" in done.stderr


def test_a_dry_run_asks_nothing_and_shows_the_plan(batches, asked):
    batch = batches(context=12)
    batch.write("rows.csv", table(range(3)) + "4," + "word " * 20 + "\n")

    done = batch.run("rows.csv", "out.csv", dry_run=True)

    assert done.code == 0
    assert asked() == []
    assert "4 rows, the longest has 21 tokens (row 4)" in done.stdout
    assert "1 row exceeds the context of 12 tokens and will fail (--truncate cuts them to fit)" in done.stdout
    assert "Review 0" in done.stdout
    assert batch.names() == ["rows.csv"]


def test_a_dry_run_is_json_where_that_is_asked_for(batches, work):
    batch = batches(context=12)
    batch.write("rows.csv", table(range(3)) + "4,\n")

    plan = json.loads(batch.run("rows.csv", dry_run=True, output_format="json").stdout)

    assert (plan["source"], plan["rows"], plan["empty"]) == (str(work / "rows.csv"), 4, 1)
    assert plan["messages"] == [{"role": "user", "content": "Sentiment?\n\nReview 0"}]


def test_rows_over_the_context_are_told_before_the_first_row(batches):
    batch = batches(context=12)
    batch.write("rows.csv", table(range(3)) + "4," + "word " * 20 + "\n")

    done = batch.run("rows.csv", "out.csv")

    assert "1 row exceeds the context" in done.stderr
    assert done.code == 3
    assert "1 too long for the context" in str(done.error)


# ---------------------------------------------------------------- the command itself


def test_the_command_stops_on_a_signal_and_resumes(llm_env, work, script, asked):
    from conftest import LLM

    model = script(scores="hash", delay=0.02, log="asked.jsonl")
    (work / "rows.csv").write_text(table(range(40)))
    command = [LLM, "sentiment", "rows.csv", "-m", model, "-o", "out.csv"]

    for number, code in ((2, 130), (15, 143)):
        before = len(asked())
        process = subprocess.Popen(command, cwd=work, env=llm_env, stderr=subprocess.PIPE, text=True)
        while len(asked()) < before + 10 and process.poll() is None:
            time.sleep(0.01)
        process.send_signal(number)
        _, stderr = process.communicate(timeout=60)
        assert process.returncode == code
        assert "resume with the same command" in stderr

    done = subprocess.run(command, cwd=work, env=llm_env, capture_output=True, text=True)

    assert done.returncode == 0
    assert "resuming" in done.stderr
    assert len(asked()) - 40 <= 4  # what was on its way at each signal
    assert len((work / "out.csv").read_text().splitlines()) == 41


def test_a_reader_that_goes_away_ends_the_command_silently(llm_env, work, script):
    from conftest import LLM

    (work / "rows.csv").write_text(table(range(5000)))
    command = f"'{LLM}' sentiment rows.csv -m {script(scores='hash')} | head -1; echo ${{PIPESTATUS[0]}}"

    done = subprocess.run(["bash", "-c", command], cwd=work, env=llm_env, capture_output=True, text=True)

    assert done.stdout.splitlines()[-1] == "141"
    assert done.stderr == ""


@pytest.mark.parametrize("options", [[], ["-o", "out.csv"]])
def test_ctrl_c_ends_a_command_that_waits_for_its_pipe(llm_env, work, options):
    """With the built-in model: its engine reads the pipe in a thread of its own."""
    from conftest import LLM

    command = [LLM, "sentiment", "--lines", *options]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=work, env=llm_env, stdin=pipe, stdout=pipe, stderr=pipe) as process:
        process.stdin.write(b"I love it.\n")
        process.stdin.flush()
        if options:
            while not (work / "out.csv.journal.input").exists():
                time.sleep(0.01)
            time.sleep(0.3)
        else:
            process.stdout.readline()
        process.send_signal(2)

        assert process.wait(timeout=60) == 130


def test_answers_of_an_endless_pipe_come_as_they_are_ready(llm_env, work, script):
    from conftest import LLM

    command = [LLM, "sentiment", "--lines", "-m", script(replies={"": GOOD})]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=work, env=llm_env, stdin=pipe, stdout=pipe, text=True) as process:
        process.stdin.write("one\n")
        process.stdin.flush()
        assert process.stdout.readline() == "positive\t0.9000\tone\n"
        process.stdin.write("two\n")
        process.stdin.flush()
        assert process.stdout.readline() == "positive\t0.9000\ttwo\n"
        process.stdin.write("\n")
        process.stdin.flush()
        assert process.stdout.readline() == "\t\t\n"
        process.stdin.close()
        assert process.wait(timeout=60) == 0


def test_a_header_that_comes_in_pieces_is_read_as_one(llm_env, work, script):
    """The columns of a pipe are told from its first line, not from what its first read happens to give."""
    from conftest import LLM

    command = [LLM, "sentiment", "--field", "note", "--input-format", "csv", "-m", script(replies={"": GOOD})]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=work, env=llm_env, stdin=pipe, stdout=pipe, text=True) as process:
        for part in ("id", ";price, n", "et;note\n", "1;2;good\n"):
            process.stdin.write(part)
            process.stdin.flush()
            time.sleep(0.3)
        process.stdin.close()
        shown = process.stdout.read()
        assert process.wait(timeout=60) == 0
    assert shown == "positive\t0.9000\tgood\n"


def test_rows_that_cannot_be_read_do_not_stop_a_job_whose_first_rows_are_well(batches):
    """They are read ahead of the answers, and count where they stand."""
    rows = [f"{n},Review {n}" if n <= 44 else f"{n}" for n in range(1, 65)]
    batch = batches(replies={"": GOOD})
    batch.write("rows.csv", "\n".join(["id,text", *rows]) + "\n")

    done = batch.run("rows.csv", "out.csv")

    assert done.code == 3
    assert "20 of 64 rows failed: 20 unreadable" in str(done.error)


def test_an_answer_without_a_word_is_a_failure_and_is_asked_again(batches, asked):
    from batches import TITLE

    empty = {"text": "", "thinking": "hm", "finish_reason": "length"}
    batch = batches(TITLE, replies={"Review 1": empty}, default="Fine")
    batch.write("rows.csv", table(range(3)))

    first = batch.run("rows.csv", "out.csv")
    batch.run("rows.csv", "out.csv", retry_errors=True)

    assert first.code == 3 and "1 without a usable answer" in str(first.error)
    assert "has no word" in batch.read("out.csv")
    assert texts(asked)[3:] == ["Review 1"]


def test_a_row_that_was_refused_access_is_asked_again(batches, asked):
    batch = batches(fail={"Review 1": "PermissionRefused: 401 bad key"})
    batch.write("rows.csv", table(range(3)))

    assert "1 refused by the server" in str(batch.run("rows.csv", "out.csv").error)
    batch.run("rows.csv", "out.csv")

    assert texts(asked)[3:] == ["Review 1"]


def test_a_job_stops_where_a_server_is_gone_and_says_why(batches):
    gone = {f"Review 9{n}": "BackendUnreachable: it is gone" for n in range(10)}
    batch = batches(replies={"": GOOD}, fail=gone)
    batch.write("rows.csv", table([*range(30, 80), *range(90, 100), *range(900, 999)]))

    done = batch.run("rows.csv", "out.csv")

    assert done.code == 75
    assert "20 rows in a row without an answer: it is gone" in str(done.error)


def test_the_output_follows_no_link_and_keeps_its_mode(batches, work):
    (work / "victim").write_text("precious")
    (work / "out.csv").write_text("old")
    (work / "out.csv").chmod(0o600)
    (work / "out.csv.journal.output").symlink_to(work / "victim")
    batch = batches(replies={"": GOOD})
    batch.write("rows.csv", table(range(3)))

    assert batch.run("rows.csv", "out.csv").code == 0

    assert (work / "victim").read_text() == "precious"
    assert not (work / "out.csv").is_symlink() and (work / "out.csv").stat().st_mode & 0o777 == 0o600


def test_standard_input_is_not_written_over(llm_env, work, script):
    from conftest import LLM

    (work / "notes.txt").write_text("one\ntwo\n")
    command = [LLM, "title", "--lines", "-o", "notes.txt", "-m", script(default="x")]
    with (work / "notes.txt").open() as notes:
        ran = subprocess.run(command, stdin=notes, cwd=work, env=llm_env, capture_output=True, text=True)

    assert ran.returncode == 2 and "is the input itself" in ran.stderr
    assert (work / "notes.txt").read_text() == "one\ntwo\n"
