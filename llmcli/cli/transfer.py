"""The progress of a download on standard error: one line with a bar, rate and time left."""

from __future__ import annotations

import time
from collections import deque

from llmcli.cli.environment import Environment

BAR = 20  # cells
WINDOW = 8.0  # seconds that the rate is taken over
STEP = 0.1  # seconds between two looks


class LineMeter:
    """A `models.meter.Meter` that says what it hears on the environment's status line."""

    def __init__(self, env: Environment) -> None:
        self._env = env
        self._what, self._total, self._done = "", 0, 0
        self._seen: deque[tuple[float, int]] = deque()
        self._shown = 0.0

    def begin(self, what: str, total: int | None, done: int = 0) -> None:
        """A new piece of work."""
        self._what, self._total, self._done = what, total or 0, done
        self._seen.clear()
        self._say(time.monotonic())

    def advance(self, count: int) -> None:
        """So many bytes more."""
        self._done += count
        now = time.monotonic()
        if count < 0:
            self._seen.clear()
        if now - self._shown >= STEP:
            self._say(now)

    def _say(self, now: float) -> None:
        self._shown = now
        self._seen.append((now, self._done))
        while len(self._seen) > 2 and now - self._seen[0][0] > WINDOW:
            self._seen.popleft()
        then, before = self._seen[0]
        rate = (self._done - before) / (now - then) if now > then else 0.0
        self._env.status(line(self._what, self._done, self._total, rate))


def line(what: str, done: int, total: int, rate: float) -> str:
    """
    One line of progress; sizes in bytes, the rate in bytes a second.

    >>> line("a.gguf", 250_000_000, 1_000_000_000, 50e6)
    'a.gguf ▕█████               ▏ 25 % of 1.00 GB, 50.0 MB/s, 0:15 left'
    """
    if not total:
        return f"{what} {done / 1e6:,.1f} MB, {rate / 1e6:.1f} MB/s"
    share = min(1.0, done / total)
    full = int(share * BAR)
    left = ""
    if rate > 0 and done < total:
        seconds = int((total - done) / rate)
        left = f", {seconds // 60}:{seconds % 60:02} left"
    size = f"{total / 1e9:.2f} GB" if total >= 1e9 else f"{total / 1e6:.1f} MB"
    bar = "█" * full + " " * (BAR - full)
    return f"{what} ▕{bar}▏ {share:.0%}".replace("%", " %") + f" of {size}, {rate / 1e6:.1f} MB/s{left}"
