"""kill -9 at any moment: nothing committed is lost, nothing is asked again, the output is the same."""

from __future__ import annotations

import csv
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest
from conftest import LLM

DRIVER = Path(__file__).parents[1] / "kill_driver.py"


def kill(folder, kills, rows, delay):
    """Run the driver; see there for what it gives."""
    done = subprocess.run(
        [sys.executable, DRIVER, folder, str(kills), str(rows), str(delay), "1"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def check(found, kills):
    assert kills == found["kills"]
    assert found["inside"] >= 0.9 * kills  # between the first commit and the last
    assert found["lost"] == 0
    assert found["asked_again"] == 0
    assert found["equal"]
    assert found["left"] == []


def test_50_kills_lose_nothing_and_ask_nothing_again(tmp_path):
    check(kill(tmp_path, kills=50, rows=1500, delay=0.003), kills=50)


@pytest.mark.slow
def test_1000_kills_in_10000_rows(tmp_path):
    found = kill(tmp_path, kills=1000, rows=10_000, delay=0.01)
    print(found)

    check(found, kills=1000)
    assert found["whole_resume_seconds"] < 2  # all rows known: read twice, looked up, written


def test_a_kill_while_the_output_is_written_leaves_the_old_file_or_the_new_one(batches, work, script):
    batch = batches()
    batch.write("rows.csv", "id,text\n" + "".join(f"{n},Review {n}\n" for n in range(3000)))
    batch.run("rows.csv", "out.csv", keep_journal=True)
    expected = batch.read("out.csv")
    moments = random.Random(1)

    for _ in range(12):
        batch.write("out.csv", "old")
        child = os.fork()
        if child == 0:
            try:
                batch.run("rows.csv", "out.csv", keep_journal=True)
            finally:
                os._exit(0)
        while not (work / "out.csv.journal.output").exists() and os.waitpid(child, os.WNOHANG) == (0, 0):
            time.sleep(0.0005)
        time.sleep(moments.uniform(0, 0.02))
        try:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        except (ProcessLookupError, ChildProcessError):
            pass
        assert batch.read("out.csv") in ("old", expected)

    assert batch.run("rows.csv", "out.csv").code == 0
    assert expected == batch.read("out.csv")
    assert batch.names() == ["out.csv", "rows.csv"]


@pytest.mark.slow
@pytest.mark.parametrize("options", [[], ["--sequential"]])
def test_with_the_built_in_model_a_killed_job_ends_as_if_it_had_not_been(llm, llm_env, work, options):
    """In batches the sums depend on what is decoded together, with --sequential on the row alone."""
    words = ["wonderful", "broken", "late", "fine", "too loud", "blue", "cheap", "a present"]
    rows = [f'{n},"My order {n} was {words[n % 8]} and {words[n // 8 % 8]}."\n' for n in range(300)]
    (work / "rows.csv").write_text("id,text\n" + "".join(rows))
    llm("sentiment", "rows.csv", "-o", "whole.csv", *options)

    process = subprocess.Popen(
        [LLM, "sentiment", "rows.csv", "-o", "killed.csv", *options], cwd=work, env=llm_env
    )
    while known(work / "killed.csv.journal") < 60:
        assert process.poll() is None
        time.sleep(0.05)
    process.kill()
    process.wait()
    done = llm("sentiment", "rows.csv", "-o", "killed.csv", *options)

    assert done.code == 0
    assert "resuming" in done.stderr
    whole, killed = (list(csv.DictReader((work / name).open())) for name in ("whole.csv", "killed.csv"))
    if options:
        assert killed == whole
    assert [row["id"] for row in killed] == [row["id"] for row in whole]
    assert sum(a["sentiment"] == b["sentiment"] for a, b in zip(whole, killed)) >= 0.999 * len(whole)
    gaps = [abs(float(a["sentiment_p"]) - float(b["sentiment_p"])) for a, b in zip(whole, killed)]
    assert max(gaps) < 1e-2


def known(journal):
    """How many answers are committed."""
    if not journal.exists():
        return 0
    with closing(sqlite3.connect(journal, timeout=5)) as database:
        try:
            return database.execute("SELECT count(*) FROM rows").fetchone()[0]
        except sqlite3.OperationalError:  # not made yet
            return 0
