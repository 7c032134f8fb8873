"""Calls of the program: in this process with streams of our own, or as the installed command."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from llmcli.cli.environment import Environment
from llmcli.cli.main import run

COMMAND = [sys.executable, "-m", "llmcli"]


@dataclass
class Said:
    """What a call said: its exit code, standard output and standard error."""

    code: int
    out: str
    err: str


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Folders of their own, and no setting of the person who runs the tests."""
    for name in [name for name in os.environ if name.startswith("LLMCLI_")]:
        monkeypatch.delenv(name)
    for name in ("CONFIG", "DATA", "CACHE"):
        monkeypatch.setenv(f"LLMCLI_{name}_DIR", str(tmp_path / "home" / name.lower()))


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """The folder that calls are made in."""
    folder = tmp_path / "here"
    folder.mkdir()
    return folder


@pytest.fixture
def call(here: Path) -> Callable[..., Said]:
    """Run a command line in this process: `stdin`, `terminal` (all three streams), fields of Environment."""

    def call_(*args: str, stdin: Any = b"", terminal: bool = False, **settings: Any) -> Said:
        out, err = io.BytesIO(), io.BytesIO()
        stdin = stdin.encode() if isinstance(stdin, str) else stdin
        env = Environment(
            stdin=io.BytesIO(stdin) if isinstance(stdin, bytes) else stdin,
            stdout=out,
            stderr=err,
            cwd=here,
            **{
                **dict.fromkeys(("stdin_is_terminal", "stdout_is_terminal", "stderr_is_terminal"), terminal),
                **settings,
            },
        )
        code = run(args, env)
        return Said(code, out.getvalue().decode(), err.getvalue().decode())

    return call_


@pytest.fixture
def process(here: Path) -> Callable[..., subprocess.CompletedProcess[bytes]]:
    """Run a command line as a process, as a user does; keywords go to `subprocess.run`."""

    def run_(*args: str, **settings: Any) -> subprocess.CompletedProcess[bytes]:
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        given = {"cwd": here, "timeout": 60, "check": False, **streams, **settings}
        if "stdin" not in given and "input" not in given:
            given["stdin"] = subprocess.DEVNULL
        return subprocess.run([*COMMAND, *args], **given)

    return run_


@pytest.fixture
def script(here: Path) -> Callable[[str], Sequence[str]]:
    """Write a scripted engine's file; gives the words that choose it."""

    def write(text: str) -> Sequence[str]:
        path = here / "script.yaml"
        path.write_text(text, encoding="utf-8")
        return ("-m", f"scripted:{path}")

    return write
