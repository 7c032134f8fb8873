"""A real pseudo-terminal with `llm` in it: keys go in, a screen (pyte) comes out."""

from __future__ import annotations

import os
import re
import sys
import termios
import time
from pathlib import Path
from typing import Any

import pexpect
import pyte

COMMAND = [sys.executable, "-m", "llmcli"]


class _Screen(pyte.HistoryScreen):
    """A screen that answers when it is asked where its cursor is."""

    def __init__(self, columns: int, rows: int, answer: Any) -> None:
        super().__init__(columns, rows, history=2000)
        self._answer = answer

    def write_process_input(self, data: str) -> None:
        self._answer(data.encode())


def _modes_at_first() -> list[Any]:
    """A new pseudo-terminal's modes. Those of the child's own may have been changed by it already."""
    ends = os.openpty()
    try:
        return termios.tcgetattr(ends[1])
    finally:
        for end in ends:
            os.close(end)


class Terminal:
    """
    One run of a command in a pseudo-terminal of its own.

    `raw` is every byte it wrote, `text()` what a person sees, the scrollback included.
    """

    def __init__(
        self, *args: str, env: dict[str, str], cwd: Path, columns: int = 80, rows: int = 24,
        command: list[str] | None = None, term: str = "xterm-256color",
    ) -> None:  # fmt: skip
        argv = [*(command or COMMAND), *args]
        self.child = pexpect.spawn(
            argv[0], argv[1:], env={**env, "TERM": term}, cwd=str(cwd), dimensions=(rows, columns), echo=True
        )
        self.child.delaybeforesend = None
        self.child.ptyproc.delayafterclose = 0
        self.before = _modes_at_first()
        self.raw = b""
        self._screen = _Screen(columns, rows, self._send)
        self._stream = pyte.ByteStream(self._screen)

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        self.child.close(force=True)

    def _send(self, data: bytes) -> None:
        try:
            os.write(self.child.child_fd, data)
        except OSError:
            pass

    def type(self, keys: str) -> None:
        """Press these keys; `\\r` is Enter."""
        self._send(keys.encode("utf-8", "surrogateescape"))

    def pump(self, seconds: float = 0.05) -> bool:
        """Take what it writes for so long; False when it has ended."""
        try:
            data = self.child.read_nonblocking(65536, timeout=seconds)
        except pexpect.TIMEOUT:
            return True
        except pexpect.EOF:
            return False
        self.raw += data
        self._stream.feed(data)
        return True

    def rest(self, seconds: float) -> None:
        """Look on for so long."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if not self.pump(0.02):
                return

    def text(self) -> str:
        """What a person sees, with the scrollback."""
        rows = [*self._screen.history.top]
        past = ["".join(row[at].data for at in range(self._screen.columns)).rstrip() for row in rows]
        return "\n".join([*past, *(line.rstrip() for line in self._screen.display)]).rstrip()

    def until(self, wanted: str, seconds: float = 60, times: int = 1) -> str:
        """Wait until a text (a regular expression) can be seen so many times; gives the screen."""
        end = time.monotonic() + seconds
        size = -1
        while time.monotonic() < end:
            if len(self.raw) != size:  # drawing a screen is slow
                size = len(self.raw)
                seen = self.text()
                if len(re.findall(wanted, seen)) >= times:
                    return seen
            if not self.pump():
                break
        seen = self.text()
        assert len(re.findall(wanted, seen)) >= times, f"no {wanted!r} in:\n{seen}"
        return seen

    def ready(self) -> None:
        """Wait for an empty prompt."""
        self.until(r"(?m)^>$")

    def ended(self, seconds: float = 60) -> int:
        """Wait for its end; gives the exit code, a signal as 128 and its number."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and self.pump():
            pass
        self.child.wait()
        return 128 + self.child.signalstatus if self.child.signalstatus else self.child.exitstatus

    def modes(self) -> list[Any]:
        """The terminal's modes, as `stty` shows them."""
        return termios.tcgetattr(self.child.child_fd)

    def is_cooked(self) -> bool:
        """Lines are edited and echoed by the terminal, or by the shell that reads them now."""
        return bool(self.modes()[3] & termios.ISIG) and self.raw.rfind(b"\x1b[?25l") <= self.raw.rfind(
            b"\x1b[?25h"
        )

    def is_restored(self) -> bool:
        """Modes as before, bracketed paste off, cursor shown."""
        pasting = self.raw.rfind(b"\x1b[?2004h") > self.raw.rfind(b"\x1b[?2004l")
        hidden = self.raw.rfind(b"\x1b[?25l") > max(
            self.raw.rfind(b"\x1b[?25h"), self.raw.rfind(b"\x1b[?12l\x1b[?25h")
        )
        return self.modes() == self.before and not pasting and not hidden
