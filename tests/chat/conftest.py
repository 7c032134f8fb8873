"""A terminal with `llm chat` in it, for the tests that need a real one."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import pytest
from chat.terminal import Terminal

from llmcli.chat.history import Entry, History
from llmcli.cli.environment import Environment
from llmcli.cli.main import run


class Ran(NamedTuple):
    """A finished command."""

    code: int
    stdout: str
    stderr: str


@pytest.fixture
def terminal(llm_env: dict[str, str], work: Path) -> Iterator[Callable[..., Terminal]]:
    """Open a pseudo-terminal: `terminal("chat", "-m", script(default="Hi."), columns=20)`."""
    with ExitStack() as stack:

        def open_(*args: str, env: dict[str, str] | None = None, **settings: object) -> Terminal:
            given = {"env": {**llm_env, **(env or {})}, "cwd": work, **settings}
            return stack.enter_context(Terminal(*args, **given))

        yield open_


@pytest.fixture
def call(llm_env: dict[str, str], work: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Ran]:
    """Run a command line in this process, which is faster: `call("history", "list", stdin="")`."""
    for name, value in llm_env.items():
        if name.startswith("LLMCLI_"):
            monkeypatch.setenv(name, value)

    def run_(*args: str, stdin: str | bytes = b"") -> Ran:
        out, err = io.BytesIO(), io.BytesIO()
        data = stdin.encode() if isinstance(stdin, str) else stdin
        env = Environment(stdin=io.BytesIO(data), stdout=out, stderr=err, cwd=work)
        code = run(args, env)
        return Ran(code, *(stream.getvalue().decode("utf-8", "surrogateescape") for stream in (out, err)))

    return run_


@pytest.fixture
def kept(home: Path) -> Callable[[], list[list[Entry]]]:
    """The messages of every conversation in the history, the oldest conversation first; it must be whole."""

    def read() -> list[list[Entry]]:
        history = History(home / "data" / "history.db")
        assert history.store.db.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
        found = [history.entries(record.id) for record in history.conversations()]
        history.close()
        return found[::-1]

    return read
