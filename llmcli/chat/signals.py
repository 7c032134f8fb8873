"""
Signals and the terminal's modes: nobody's terminal is left in a strange state.

Between prompts the terminal is quiet: no echo, no line buffering, so that what is typed or pasted while the
model answers waits for the next prompt, a paste as one. A dumb terminal keeps its modes.
The handlers never raise. They tell whoever is waiting: the answer's loop (`work`) or the prompt (`editor`,
`line_reader`).
"""

from __future__ import annotations

import os
import signal
import termios
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from queue import SimpleQueue
from types import FrameType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prompt_toolkit.application import Application

RESTORE = "\x1b[?2004l\x1b[?25h\x1b[0m\x1b[J"
"""Bracketed paste off, cursor shown, no colour; nothing from the cursor on, where a preview may stand."""
MARK_PASTES = "\x1b[?2004h"

ENDINGS = {signal.SIGTERM: 143, signal.SIGHUP: 129}

_LFLAG, _IFLAG, _CC = 3, 0, 6  # places in the list of tcgetattr


class Interrupted(Exception):
    """Ctrl-C while something was under way."""


class Leaving(Exception):
    """The program is asked to end; `code` is its exit code."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


class Signals:
    """
    The handlers of INT, TERM, HUP, TSTP and CONT for as long as the block lasts.

    `terminal` is the descriptor that is typed at, or None (then no modes are touched); a `dumb` one
    knows no escape sequences and keeps its modes.
    """

    def __init__(self, terminal: int | None = None, dumb: bool = False) -> None:
        self.terminal = terminal
        self.dumb = dumb
        self.leaving = 0
        self.interrupted = False
        self._listener: SimpleQueue[Any] | None = None
        self._prompt: Application[str] | None = None
        self._before: dict[signal.Signals, Any] = {}
        self._cooked: list[Any] | None = None

    def __enter__(self) -> Signals:
        self._cooked = _modes(self.terminal)
        handlers = {
            signal.SIGINT: self._interrupt, signal.SIGTERM: self._leave, signal.SIGHUP: self._leave,
            signal.SIGTSTP: self._suspend, signal.SIGCONT: self._resume,
        }  # fmt: skip
        self._before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
        self._be_quiet()
        return self

    def __exit__(self, *_: object) -> None:
        self._restore()
        if self.leaving:
            self.throw_away_typed()  # a message that was typed ahead is no command for the shell
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextmanager
    def sent_to(self, listener: SimpleQueue[Any]) -> Iterator[None]:
        """Put Interrupted and Leaving into this queue while the block lasts; what came before, at once."""
        self._listener = listener
        if self.leaving:
            listener.put(Leaving(self.leaving))
        elif self.interrupted:
            listener.put(Interrupted())
        try:
            yield
        finally:
            self._listener = None

    @contextmanager
    def at_prompt(self, prompt: Application[str]) -> Iterator[None]:
        """End this prompt when the program is asked to end."""
        self._prompt = prompt
        try:
            yield
        finally:
            self._prompt = None
            self._be_quiet()

    def check_prompt(self) -> None:
        """
        End a prompt that has just begun, if what ends it came while it was being set up.

        Ctrl-C between an answer's last word and the prompt is for whichever is there to hear it;
        a message that stands in the prompt already is not lost to it.
        """
        interrupted, self.interrupted = self.interrupted, False
        if self.leaving:
            self._end_prompt(Leaving(self.leaving))
        elif interrupted and self._prompt is not None and not self._prompt.current_buffer.text:
            self._end_prompt(KeyboardInterrupt())

    def throw_away_typed(self) -> None:
        """What was typed and not read yet."""
        if self.terminal is not None and _in_front(self.terminal):
            with suppress(termios.error, OSError):
                termios.tcflush(self.terminal, termios.TCIFLUSH)

    @contextmanager
    def waking(self) -> Iterator[int]:
        """A descriptor that can be read as soon as a signal came, for who waits on others too (`select`)."""
        woken, written = os.pipe()
        os.set_blocking(written, False)
        before = signal.set_wakeup_fd(written, warn_on_full_buffer=False)
        try:
            yield woken
        finally:
            signal.set_wakeup_fd(before)
            os.close(woken)
            os.close(written)

    # ── handlers ─────────────────────────────────────────────────────────────────────────────────

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        self.interrupted = True
        if self._listener is not None:
            self._listener.put(Interrupted())

    def _leave(self, number: int, frame: FrameType | None) -> None:
        self.leaving = ENDINGS[signal.Signals(number)]
        if self._listener is not None:
            self._listener.put(Leaving(self.leaving))
        if self._prompt is not None and self.terminal is not None and not _in_front(self.terminal):
            os._exit(self.leaving)  # the prompt's end would change the modes, and be stopped for it
        self._end_prompt(Leaving(self.leaving))

    def _end_prompt(self, exception: BaseException) -> None:
        if self._prompt is not None and self._prompt.is_running:
            # It raises when the line was sent in this very moment: the loop looks at `leaving`, and a
            # Ctrl-C finds nothing left to end.
            with suppress(Exception):
                self._prompt.exit(exception=exception)

    def _suspend(self, number: int, frame: FrameType | None) -> None:
        """Stop as any program does, with the terminal as we found it."""
        at_prompt = self._prompt is not None and self._prompt.is_running
        if at_prompt and self._prompt is not None:
            with suppress(Exception):
                self._prompt.renderer.erase()
        modes = _modes(self.terminal)
        self._restore()
        signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTSTP)
        signal.signal(signal.SIGTSTP, self._suspend)
        _set_modes(self.terminal, modes)
        self._resume(number, frame)

    def _resume(self, number: int, frame: FrameType | None) -> None:
        """After a stop (also by SIGSTOP, which nobody sees coming) the shell may have changed the modes."""
        if self._prompt is None:
            self._be_quiet()
        elif self._prompt.is_running:
            if self.terminal is not None:
                if not _in_front(self.terminal):
                    return  # to change the modes from there would stop us; who brings us back says so again
                from prompt_toolkit.input.vt100 import raw_mode

                raw_mode(self.terminal).__enter__()
            self._prompt.renderer.reset()
            self._prompt.invalidate()

    # ── modes ────────────────────────────────────────────────────────────────────────────────────

    def _be_quiet(self) -> None:
        """No echo, no line buffering; Enter stays \\r, as prompt-toolkit reads it; Ctrl-C still signals."""
        modes = _modes(self.terminal)
        if modes is None or self.dumb:
            return
        modes[_LFLAG] &= ~(termios.ECHO | termios.ICANON)
        modes[_LFLAG] |= termios.ISIG
        modes[_IFLAG] &= ~(termios.ICRNL | termios.INLCR | termios.IGNCR)
        modes[_CC][termios.VMIN] = 1
        modes[_CC][termios.VTIME] = 0
        if _set_modes(self.terminal, modes):
            self._write(MARK_PASTES)

    def _restore(self) -> None:
        if _set_modes(self.terminal, self._cooked):
            self._write(RESTORE)

    def _write(self, sequences: str) -> None:
        if self.terminal is not None and not self.dumb:
            with suppress(OSError):
                os.write(self.terminal, sequences.encode())


def _modes(terminal: int | None) -> list[Any] | None:
    if terminal is None:
        return None
    try:
        return termios.tcgetattr(terminal)
    except (termios.error, OSError):
        return None


def _set_modes(terminal: int | None, modes: list[Any] | None) -> bool:
    """Whether they are set."""
    if terminal is None or modes is None or not _in_front(terminal):
        return False
    with suppress(termios.error, OSError):
        termios.tcsetattr(terminal, termios.TCSANOW, modes)
        return True
    return False


def _in_front(terminal: int) -> bool:
    """Whether the terminal is ours: from the background a change of modes, or a flush, would stop us."""
    with suppress(OSError):
        return os.tcgetpgrp(terminal) == os.getpgrp()
    return False
