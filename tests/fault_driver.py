"""
Let every write, fsync, rename and close of a job fail, one after the other. Run by test_faults.py.

    LD_PRELOAD=faults.so python fault_driver.py FAULTS.SO FOLDER FORMAT ERRORS

For n = 1, 2, … until a run has fewer calls: a fresh job whose n-th call fails (ERRORS is `both`: with
ENOSPC and with EIO; `some`: every third call, with one of them in turn); then the same job again,
undisturbed. Prints one JSON object.
"""

from __future__ import annotations

import ctypes
import errno
import json
import shutil
import sqlite3
import sys
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

from kill_driver import JOB, PROMPT

from llmcli.cli.environment import from_system
from llmcli.engines.base import EngineOptions
from llmcli.engines.scripted import open_engine
from llmcli.errors import LlmError
from llmcli.rows.job import identify
from llmcli.rows.runner import RowOptions, run_rows

ROWS = "id,text\n" + "".join(f"{number},Review {number}.\n" for number in range(40))


def main() -> None:
    library, folder, format, errors = sys.argv[1:]
    faults = ctypes.CDLL(library)
    job = Trial(Path(folder), faults, f"out.{format}")
    expected, calls = job.undisturbed()
    outcomes: Counter[str] = Counter()
    problems = []
    for number in range(1, calls + 1, 1 if errors == "both" else 3):
        codes = (errno.ENOSPC, errno.EIO)
        for code in codes if errors == "both" else (codes[number % 2],):
            outcome, problem = job.with_fault(number, code, expected)
            outcomes[outcome] += 1
            if problem:
                problems.append(f"call {number}, {errno.errorcode[code]}, {outcome}: {problem}")
    print(json.dumps({"calls": calls, "outcomes": outcomes, "problems": problems}))


class Trial:
    """One folder, used again for every fault."""

    def __init__(self, folder: Path, faults: Any, output: str) -> None:
        self.scripts = folder / "scripts"
        self.scripts.mkdir()
        self.folder = folder / "job"
        self.faults = faults
        self.output = self.folder / output
        (self.scripts / "script.json").write_text(json.dumps({"scores": "hash", "log": "asked.jsonl"}))
        self.log = self.scripts / "asked.jsonl"
        engine = self.engine()
        self.key = identify(JOB, engine.info, "text").key_function()
        engine.close()

    def engine(self) -> Any:
        return open_engine(str(self.scripts / "script.json"), EngineOptions())

    def fresh(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir()
        (self.folder / "rows.csv").write_text(ROWS)
        self.output.write_text("the old output\n")
        self.log.write_bytes(b"")

    def run(self) -> str:
        """The job, once; "ok" or the error's exit code."""
        engine = self.engine()
        try:
            options = RowOptions(source=self.folder / "rows.csv", output=self.output, sidecar=True)
            run_rows(JOB, options, engine, from_system())
            return "ok"
        except LlmError as error:
            return str(error.exit_code)
        finally:
            engine.close()

    def undisturbed(self) -> tuple[bytes, int]:
        """The right output, and how many calls it takes."""
        self.fresh()
        self.faults.fault_arm(str(self.folder).encode(), 0, 0)
        assert self.run() == "ok"
        calls = self.faults.fault_calls()
        self.faults.fault_disarm()
        return self.output.read_bytes(), calls

    def with_fault(self, number: int, code: int, expected: bytes) -> tuple[str, str]:
        """(how the disturbed run ended, what is wrong afterwards)."""
        self.fresh()
        self.faults.fault_arm(str(self.folder).encode(), number, code)
        try:
            outcome = self.run()
        except Exception as error:
            outcome = type(error).__name__
        self.faults.fault_disarm()
        now = self.output.read_bytes()
        known = self.committed()
        asked = self.log.stat().st_size
        try:
            again = self.run()
        except Exception as error:
            return outcome, f"the job does not resume: {error!r}"
        twice = [prompt for prompt in self.prompts(asked) if self.key(prompt) in known]
        left = {path.name for path in self.folder.iterdir()}
        wrong = {
            "not an error of ours": outcome not in ("ok", "74", "73"),
            "success with a wrong output": outcome == "ok" and now != expected,
            "a torn output": now not in (expected, b"the old output\n"),
            f"resuming ends with {again}": again != "ok",
            "the output is wrong": self.output.read_bytes() != expected,
            "the input was touched": (self.folder / "rows.csv").read_text() != ROWS,
            f"asked again: {twice[:3]}": outcome != "ok" and bool(twice),
            f"left behind: {left}": left
            != {"rows.csv", self.output.name, self.output.name + ".provenance.json"},
        }
        return outcome, "; ".join(what for what, is_so in wrong.items() if is_so)

    def committed(self) -> set[bytes]:
        journal = self.output.with_name(self.output.name + ".journal")
        copy = self.scripts / "look"
        shutil.rmtree(copy, ignore_errors=True)
        copy.mkdir()
        for suffix in ("", "-wal"):
            path = journal.with_name(journal.name + suffix)
            if path.exists():
                shutil.copy(path, copy / path.name)
        if not (copy / journal.name).exists():
            return set()
        with closing(sqlite3.connect(copy / journal.name)) as database:
            if not database.execute("SELECT 1 FROM sqlite_master WHERE name = 'rows'").fetchone():
                return set()
            return {key for (key,) in database.execute("SELECT key FROM rows")}

    def prompts(self, start: int) -> list[str]:
        return PROMPT.findall(self.log.read_bytes()[start:].decode())


if __name__ == "__main__":
    main()
