"""A terminal with `llm chat` in it, for the tests that need a real one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from chat.terminal import Terminal

from llmcli.chat.history import Entry, History


@pytest.fixture
def terminal(llm_env: dict[str, str], work: Path) -> Iterator[Callable[..., Terminal]]:
    """Open a pseudo-terminal: `terminal("chat", "-m", script(default="Hi."), columns=20)`."""
    with ExitStack() as stack:

        def open_(*args: str, env: dict[str, str] | None = None, **settings: object) -> Terminal:
            given = {"env": {**llm_env, **(env or {})}, "cwd": work, **settings}
            return stack.enter_context(Terminal(*args, **given))

        yield open_


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
