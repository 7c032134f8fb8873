"""Calls of the program in this process, with streams of our own: a tenth of a process's time."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from llmcli.cli.environment import Environment
from llmcli.cli.main import run


@dataclass
class Said:
    """What a call said: its exit code, standard output and standard error."""

    code: int
    out: str
    err: str


@pytest.fixture(autouse=True)
def _home(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Folders of their own, and no setting of the person who runs the tests."""
    for name in [name for name in os.environ if name.startswith("LLMCLI_")]:
        monkeypatch.delenv(name)
    for name in ("CONFIG", "DATA", "CACHE"):
        monkeypatch.setenv(f"LLMCLI_{name}_DIR", str(home / name.lower()))


@pytest.fixture
def call(work: Path) -> Callable[..., Said]:
    """Run a command line in this process: `stdin`, `terminal` (all three streams), fields of Environment."""

    def call_(*args: str, stdin: Any = b"", terminal: bool = False, **settings: Any) -> Said:
        out, err = io.BytesIO(), io.BytesIO()
        stdin = stdin.encode() if isinstance(stdin, str) else stdin
        env = Environment(
            stdin=io.BytesIO(stdin) if isinstance(stdin, bytes) else stdin,
            stdout=out,
            stderr=err,
            cwd=work,
            **{
                **dict.fromkeys(("stdin_is_terminal", "stdout_is_terminal", "stderr_is_terminal"), terminal),
                **settings,
            },
        )
        code = run(args, env)
        return Said(code, out.getvalue().decode(), err.getvalue().decode())

    return call_
