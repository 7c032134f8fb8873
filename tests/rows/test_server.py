"""Rows answered by a server: what may pass is asked again, what is wrong with a row is that row's error."""

from __future__ import annotations

import csv
import json
import re
import threading
from collections import Counter
from contextlib import closing

import pytest
from batches import TITLE
from fake_server import Reply, chat, error, serving

from llmcli.engines.base import EngineOptions
from llmcli.engines.server.client import Patience
from llmcli.engines.server.engine import ServerEngine
from llmcli.engines.server.reference import parse

PARALLEL = 4


class Answers:
    """
    Titles for rows, with first the replies that `before` holds for a row; counts what was asked.

    The first requests wait for each other, so that `most` is how many were under way together.
    """

    def __init__(self, **before):
        self._before = {row: list(replies) for row, replies in before.items()}
        self.asked: Counter[str] = Counter()
        self._changed = threading.Condition()
        self._running = self.most = 0

    def __call__(self, request):
        row = re.findall(r"row\d+", request.body["messages"][-1]["content"])[-1]
        with self._changed:
            self.asked[row] += 1
            self._running += 1
            self.most = max(self.most, self._running)
            self._changed.notify_all()
            self._changed.wait_for(lambda: self.most >= PARALLEL, timeout=30)
            left = self._before.get(row)
            reply = left.pop(0) if left else chat(f"About {row}")
            self._running -= 1
        return reply() if callable(reply) else reply


@pytest.fixture
def ask(llm, work):
    """Titles for the rows of rows.csv, by this server; gives the command's end and the table."""

    def run(server):
        model = f"server:{server.url}#tiny"
        ran = llm("title", "rows.csv", "-o", "out.csv", "-m", model, "--parallel", str(PARALLEL))
        with (work / "out.csv").open() as table:
            return ran, list(csv.DictReader(table))

    (work / "rows.csv").write_text("id,text\n" + "".join(f"{n},row{n}\n" for n in range(40)))
    return run


def test_what_may_pass_is_asked_again_and_every_row_has_its_answer(ask):
    answers = Answers(
        row3=[error(429, "slow down", {"retry-after": "0"})],
        row5=[error(500, "oops"), error(503, "loading")],
        row11=[error(502), Reply({}, drop=0)],
        row17=[error(429, "slow down", {"retry-after": "1"})],
        row23=[error(504)],
    )

    with serving(answers) as server:
        ran, rows = ask(server)

    assert (ran.code, ran.stderr) == (0, "")
    assert [(row["id"], row["title"], row["error"]) for row in rows] == [
        (str(n), f"About row{n}", "") for n in range(40)
    ]
    again = {row: times for row, times in answers.asked.items() if times > 1}
    assert again == {"row3": 2, "row5": 3, "row11": 3, "row17": 2, "row23": 2}
    assert answers.most == PARALLEL


def test_another_4xx_is_that_rows_error_and_never_asked_again(ask):
    """Not in the same words, that is: a server that refuses extras of ours is asked once without them."""
    statuses = {"row3": 400, "row5": 402, "row7": 413, "row9": 422}
    answers = Answers(**{row: [error(status, "no such thing")] * 9 for row, status in statuses.items()})

    with serving(answers) as server:
        ran, rows = ask(server)
        sent = Counter(json.dumps(body, sort_keys=True) for body in server.posted())

    assert ran.code == 3
    assert [row["id"] for row in rows if row["error"]] == ["3", "5", "7", "9"]
    assert all("no such thing" in rows[n]["error"] for n in (3, 5, 7, 9))
    assert all(row["title"] == f"About row{row['id']}" for row in rows if not row["error"])
    assert set(sent.values()) == {1}


def test_a_row_that_was_told_to_come_back_tomorrow_is_asked_when_the_job_resumes(ask):
    """It is not waited for and not asked again in this run; in the next one nothing else is asked."""
    answers = Answers(row3=[error(429, "quota", {"retry-after": "86400"})])
    with serving(answers) as server:
        first, rows = ask(server)
        again, mended = ask(server)

    assert first.code == 3
    assert [row["id"] for row in rows if row["error"]] == ["3"]
    assert "quota" in rows[3]["error"]
    assert again.code == 0
    assert [row["title"] for row in mended] == [f"About row{n}" for n in range(40)]
    assert {row: times for row, times in answers.asked.items() if times > 1} == {"row3": 2}


def test_a_request_that_takes_too_long_is_asked_again(batches):
    batch = batches()
    batch.write("rows.csv", "id,text\n" + "".join(f"{n},row{n}\n" for n in range(8)))
    late = threading.Event()

    def too_late():
        late.wait(30)
        return chat("late")

    answers = Answers(row2=[too_late])
    patience = Patience(tries=3, first_pause=0.01, read=1.0)
    options = EngineOptions(parallel=PARALLEL)
    with (
        serving(answers) as server,
        closing(ServerEngine(parse(f"{server.url}#tiny"), options, "", patience)) as engine,
    ):
        done = batch.run("rows.csv", "out.jsonl", template=TITLE, engine=engine)
        late.set()

    assert done.error is None
    titles = [json.loads(line)["title"] for line in batch.read("out.jsonl").splitlines()]
    assert titles == [f"About row{n}" for n in range(8)]
    assert answers.asked["row2"] == 2
