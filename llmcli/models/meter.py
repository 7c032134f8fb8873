"""How a long transfer tells what it has done; the cli draws it, tests and libraries stay silent."""

from __future__ import annotations

from typing import Protocol


class Meter(Protocol):
    """Told of bytes as they come."""

    def begin(self, what: str, total: int | None, done: int = 0) -> None:
        """A new piece of work of `total` bytes (None: not known), `done` of them already there."""
        ...

    def advance(self, count: int) -> None:
        """So many bytes more; negative where some had to be thrown away."""
        ...


class Silent:
    """A meter that shows nothing."""

    def begin(self, what: str, total: int | None, done: int = 0) -> None:
        """Nothing."""

    def advance(self, count: int) -> None:
        """Nothing."""
