"""What a text command was asked and answered, in the history: with --log, or the setting `log_commands`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager

Keep = Callable[[str, str], object]


@contextmanager
def keeping(wanted: bool, command: str, model: str) -> Iterator[Keep]:
    """A function that keeps a text and its answer, where that is wanted."""
    if not wanted:
        yield lambda text, answer: None
        return
    from llmcli.chat.history import History, history_path, record_exchange

    with closing(History(history_path())) as history:
        yield lambda text, answer: record_exchange(history, command, model, text, answer)
