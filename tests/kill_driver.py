"""
Kill a job again and again with SIGKILL, and look at what is left each time. Run by test_kills.py.

    python kill_driver.py FOLDER KILLS ROWS DELAY SEED

Each run is a fork of this process, so a kill costs milliseconds. The moments are drawn so that the job is not
finished before the last kill: most by how far the engine's log has grown, some by the clock alone. After each
kill a copy of the journal is read: what is committed there must never be asked again. Prints one JSON object.
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
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

from llmcli.cli.environment import from_system
from llmcli.engines.base import EngineOptions
from llmcli.engines.scripted import open_engine
from llmcli.messages import Sampling
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


def run(folder: Path, **options: object) -> None:
    engine = open_engine(str(folder / "script.json"), EngineOptions())
    run_rows(
        JOB,
        RowOptions(source=folder / "rows.csv", output=folder / "out.csv", **options),
        engine,
        from_system(),
    )


def start(folder: Path, **options: object) -> int:
    """The job in a process of its own; gives its id."""
    child = os.fork()
    if child == 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        try:
            run(folder, **options)
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


def kill_loop(folder: Path, kills: int, rows: int, moments: random.Random) -> SimpleNamespace:
    """Start, wait for a moment, kill; until there were enough kills or the job is done."""
    line = 190  # bytes of a line in the log, about
    seen: list[tuple[int, set[bytes]]] = []
    count = inside = 0
    while count < kills:
        before = log_size(folder)
        known = len(seen[-1][1]) if seen else 0
        share = 0.4 * (rows - known) / (kills - count + 1)
        goal = before + line * moments.uniform(0, 2 * share)
        deadline = time.monotonic() + (moments.uniform(0, 0.1) if moments.random() < 0.1 else 60)
        child = start(folder, keep_journal=True)  # a job that is done early must not begin anew
        while log_size(folder) <= goal and time.monotonic() < deadline:
            if has_ended(child):
                return SimpleNamespace(count=count, inside=inside, seen=seen)
            time.sleep(0.001)
        time.sleep(moments.uniform(0, 0.05))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        count += 1
        seen.append((log_size(folder), committed(folder)))
        inside += bool(seen[-1][1])
    return SimpleNamespace(count=count, inside=inside, seen=seen)


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

    loop = kill_loop(killed, int(kills), int(rows), random.Random(int(seed)))
    lost = 0
    for (_, earlier), (_, later) in zip(loop.seen, loop.seen[1:]):
        lost += len(earlier - later)
    run(killed, keep_journal=True)
    distinct = len(set(texts(int(rows))))
    begun = time.perf_counter()
    run(killed)
    resumed = time.perf_counter() - begun
    print(
        json.dumps(
            {
                "kills": loop.count,
                "inside": loop.inside,
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
