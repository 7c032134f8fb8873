"""What a doctor says: one finding a line."""

from __future__ import annotations

from typing import Any, Literal

from msgspec import Struct

from llmcli.errors import LlmError

Level = Literal["ok", "note", "problem"]


class Finding(Struct, frozen=True):
    """
    One thing that was looked at.

    `value` is for reading, `data` for programs. A note is worth knowing and breaks nothing; a
    problem keeps something from working, and `exit_code` is what the command that meets it ends with.
    """

    area: str
    name: str
    value: str
    level: Level = "ok"
    remedy: str = ""
    exit_code: int = 0
    data: Any = None


def problem(area: str, name: str, error: LlmError) -> Finding:
    """The finding that an error makes."""
    return Finding(area, name, error.message, "problem", error.hint, error.exit_code)
