"""kill -9 at any moment: nothing committed is lost, nothing is asked again, the output is the same."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

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
    check(kill(tmp_path, kills=50, rows=1500, delay=0.001), kills=50)


@pytest.mark.slow
def test_1000_kills_in_10000_rows(tmp_path):
    found = kill(tmp_path, kills=1000, rows=10_000, delay=0.005)
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
