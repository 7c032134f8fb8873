"""
Kill a job again and again with SIGKILL, and look at what is left each time. Run by test_kills.py.

    python kill_driver.py FOLDER KILLS ROWS DELAY SEED

Each run is a fork of this process, so a kill costs milliseconds. Most moments are drawn by how many prompts
the run has asked, some by the clock alone. However slow the machine, the job is not done before the last
kill: the engine of each run stands still where that run's part of the rows ends (`stood` counts the kills
that found it there). After each kill a copy of the journal is read: what is committed there must never be
asked again. Prints one JSON object.
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import sqlite3
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from llmcli.cli.environment import from_system
from llmcli.engines.base import Engine, EngineOptions
from llmcli.engines.scripted import open_engine
from llmcli.messages import Prompt, Sampling
from llmcli.rows.job import identify
from llmcli.rows.runner import Job, RowOptions, run_rows
from llmcli.templates import Template

TEMPLATE = Template("sentiment", "", "{{ text }}", labels=("positive", "neutral", "negative"), mode="label")
PROMPT = re.compile('"prompt":"(.*?)"')  # a kill can tear a line of the log
JOB = Job(TEMPLATE, {}, Sampling(), model="scripted")


def texts(rows: int) -> list[str]:
    """Every tenth text stands there twice."""
    return [f"Review {number - number % 10 // 9} of the shop." for number in range(rows)]


def prepare(folder: Path, rows: int, delay: float) -> None:
    folder.mkdir()
    lines = [f'{number},"{text}"\n' for number, text in enumerate(texts(rows))]
    (folder / "rows.csv").write_text("id,text\n" + "".join(lines))
    script = {"scores": "hash", "log": "asked.jsonl", "delay": delay}
    (folder / "script.json").write_text(json.dumps(script))


class Paced:
    """An engine that answers `most` prompts and then stands still, until its process is killed."""

    def __init__(self, engine: Engine, most: int) -> None:
        self._engine, self._most = engine, most

    def score(self, prompts: Iterable[Prompt], labels: Sequence[str]) -> Iterator[Any]:
        return self._engine.score(self._first(prompts), labels)

    def _first(self, prompts: Iterable[Prompt]) -> Iterator[Prompt]:
        for number, prompt in enumerate(prompts):
            while number >= self._most:
                time.sleep(60)
            yield prompt

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)


def run(folder: Path, most: int | None = None, **options: Any) -> None:
    engine: Engine = open_engine(str(folder / "script.json"), EngineOptions())
    run_rows(
        JOB,
        RowOptions(source=folder / "rows.csv", output=folder / "out.csv", **options),
        engine if most is None else Paced(engine, most),
        from_system(),
    )


def start(folder: Path, most: int) -> int:
    """The job in a process of its own; gives its id."""
    child = os.fork()
    if child == 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        try:
            run(folder, most)
            os._exit(0)
        except BaseException:
            os._exit(9)
    return child


def has_ended(child: int) -> bool:
    return os.waitpid(child, os.WNOHANG)[0] == child


def log_size(folder: Path) -> int:
    try:
        return (folder / "asked.jsonl").stat().st_size
    except FileNotFoundError:
        return 0


def asked_since(folder: Path, size: int) -> int:
    """How many prompts the engine was asked since its log had this size."""
    if log_size(folder) == size:
        return 0
    with (folder / "asked.jsonl").open("rb") as log:
        log.seek(size)
        return log.read().count(b"\n")


def committed(folder: Path) -> set[bytes]:
    """The keys in the journal, read from a copy: looking at it must not mend it."""
    copy = folder / "look"
    shutil.rmtree(copy, ignore_errors=True)
    copy.mkdir()
    for name in ("out.csv.journal", "out.csv.journal-wal"):
        if (folder / name).exists():
            shutil.copy(folder / name, copy / name)
    if not (copy / "out.csv.journal").exists():
        return set()
    with closing(sqlite3.connect(copy / "out.csv.journal")) as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        if not database.execute("SELECT 1 FROM sqlite_master WHERE name = 'rows'").fetchone():
            return set()
        return {key for (key,) in database.execute("SELECT key FROM rows")}


def kill_loop(folder: Path, kills: int, distinct: int, moments: random.Random) -> SimpleNamespace:
    """Start, wait for a moment, kill; so often."""
    seen: list[tuple[int, set[bytes]]] = []
    inside = stood = 0
    for number in range(kills):
        before = log_size(folder)
        known = len(seen[-1][1]) if seen else 0
        most = distinct * (number + 1) // (kills + 1) - known  # at least 1 is left for each kill to come
        goal = moments.uniform(0, min(most, 0.8 * (distinct - known) / (kills - number)))
        deadline = time.monotonic() + (moments.uniform(0, 0.1) if moments.random() < 0.1 else 60)
        child = start(folder, most)
        while asked_since(folder, before) <= goal and time.monotonic() < deadline:
            assert not has_ended(child)
            time.sleep(0.001)
        time.sleep(moments.uniform(0, 0.05))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        stood += asked_since(folder, before) >= most
        seen.append((log_size(folder), committed(folder)))
        inside += 0 < len(seen[-1][1]) < distinct
    return SimpleNamespace(count=len(seen), inside=inside, stood=stood, seen=seen)


def asked_again(folder: Path, seen: list[tuple[int, set[bytes]]]) -> int:
    """Prompts that were asked after their key was committed."""
    engine = open_engine(str(folder / "script.json"), EngineOptions())
    key_of = identify(JOB, engine.info, "text").key_function()
    log = (folder / "asked.jsonl").read_bytes()
    again = 0
    for (size, keys), following in zip(seen, [*(size for size, _ in seen[1:]), len(log)]):
        for prompt in PROMPT.findall(log[size:following].decode()):
            again += key_of(prompt) in keys
    return again


def main() -> None:
    started = time.perf_counter()
    folder, kills, rows, delay, seed = sys.argv[1:]
    undisturbed, killed = Path(folder) / "undisturbed", Path(folder) / "killed"
    prepare(undisturbed, int(rows), 0.0)
    prepare(killed, int(rows), float(delay))
    # The two scripts differ in their delay only; the model's hash is part of no output.
    run(undisturbed)

    distinct = len(set(texts(int(rows))))
    loop = kill_loop(killed, int(kills), distinct, random.Random(int(seed)))
    lost = 0
    for (_, earlier), (_, later) in zip(loop.seen, loop.seen[1:]):
        lost += len(earlier - later)
    run(killed, keep_journal=True)
    begun = time.perf_counter()
    run(killed)
    resumed = time.perf_counter() - begun
    print(
        json.dumps(
            {
                "kills": loop.count,
                "inside": loop.inside,
                "stood": loop.stood,
                "lost": lost,
                "asked_again": asked_again(killed, loop.seen),
                "asked": (killed / "asked.jsonl").read_bytes().count(b"\n"),
                "distinct": distinct,
                "equal": (killed / "out.csv").read_bytes() == (undisturbed / "out.csv").read_bytes(),
                "left": sorted(path.name for path in killed.iterdir() if "journal" in path.name),
                "whole_resume_seconds": round(resumed, 3),
                "seconds": round(time.perf_counter() - started, 1),
            }
        )
    )


if __name__ == "__main__":
    main()
