"""`--on ray`: the same rows and the same bytes, whatever happens to the copies."""

from __future__ import annotations

import csv
import os
import signal
import threading
import time
from pathlib import Path

import pytest

ray = pytest.importorskip("ray", reason="Ray is not installed (the extra llmcli[ray])")

ROWS = "id,text\n" + "".join(f"{number},Review {number} of the shop.\n" for number in range(300))


@pytest.fixture(scope="module", autouse=True)
def cluster():
    """One local cluster for all tests of this file: starting one takes seconds."""
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


def copies():
    """The process ids of the actors."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if path.read_bytes().startswith(b"ray::Copy"):
                found.append(int(path.parent.name))
        except OSError:
            pass
    return found


def test_two_copies_give_the_same_bytes_as_none(batches):
    batch = batches()
    batch.write("rows.csv", ROWS)
    batch.run("rows.csv", "here.csv")

    done = batch.run("rows.csv", "there.csv", on="ray", copies=2)

    assert done.error is None
    assert batch.read("here.csv") == batch.read("there.csv")
    assert batch.names() == ["here.csv", "rows.csv", "there.csv"]


@pytest.mark.slow
@pytest.mark.parametrize("options", [[], ["--sequential"]])
def test_with_the_built_in_model_copies_answer_as_one_does(llm, work, options):
    """With --sequential to the byte. In batches the sums differ in their last digits: only a tie can turn."""
    words = ["wonderful", "broken", "late", "fine", "too loud", "blue", "cheap", "a present"]
    rows = [f'{n},"My order {n} was {words[n % 8]} and {words[n // 8 % 8]}."\n' for n in range(300)]
    (work / "rows.csv").write_text("id,text\n" + "".join(rows))

    llm("sentiment", "rows.csv", "-o", "here.csv", "--probabilities", *options, timeout=600)
    ran = llm(
        *("sentiment", "rows.csv", "-o", "there.csv", "--probabilities", *options),
        *("--on", "ray", "--copies", "2"),
        timeout=600,
    )

    assert (ran.code, ran.stderr) == (0, "")
    here, there = (list(csv.DictReader((work / name).open())) for name in ("here.csv", "there.csv"))
    if options:
        assert there == here
    assert [row["id"] for row in there] == [row["id"] for row in here]
    for one, other in zip(here, there):
        shares = [
            [float(row[f"sentiment_{label}"]) for label in ("positive", "neutral", "negative")]
            for row in (one, other)
        ]
        assert max(abs(a - b) for a, b in zip(*shares)) < 1e-2
        if one["sentiment"] != other["sentiment"]:
            best, second, _ = sorted(shares[0], reverse=True)
            assert best - second < 1e-2


def test_a_copy_that_is_killed_is_replaced_and_its_rows_are_asked_again(batches, asked):
    batch = batches(delay=0.02)
    batch.write("rows.csv", ROWS)
    killed = []

    def kill_one():
        while len(asked()) < 50:
            time.sleep(0.01)
        killed.append(copies()[0])
        os.kill(killed[0], signal.SIGKILL)

    killer = threading.Thread(target=kill_one)
    killer.start()
    done = batch.run("rows.csv", "there.csv", on="ray", copies=2)
    killer.join()
    batch.run("rows.csv", "here.csv")

    assert done.error is None
    assert killed
    assert batch.read("here.csv") == batch.read("there.csv")


def test_a_machine_without_the_model_is_named_as_the_cause(batches):
    batch = batches()
    batch.write("rows.csv", ROWS)
    batch.reference = "scripted:/nowhere/script.json"

    done = batch.run("rows.csv", "out.csv", on="ray", copies=1)

    assert done.code == 4
    assert "/nowhere/script.json" in str(done.error)
    assert "every machine" in done.error.hint


def test_more_copies_than_there_is_room_for_are_refused(batches):
    batch = batches()
    batch.write("rows.csv", ROWS)

    done = batch.run("rows.csv", "out.csv", on="ray", copies=2, cpus=8)

    assert done.code == 2
    assert "2 copies with 8 CPUs each" in str(done.error)
