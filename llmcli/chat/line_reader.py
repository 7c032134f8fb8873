"""
The line that is typed at a terminal that knows no escape sequence: TERM=dumb, an editor's shell window.

Such a terminal echoes and edits its line itself, so what it shows is what is sent. There is no
completion and no bottom line, and its modes are left as they are.
"""

from __future__ import annotations

import os
import select
from contextlib import suppress

from llmcli.chat.choice import choose
from llmcli.chat.signals import Leaving
from llmcli.chat.slash import is_command
from llmcli.chat.talk import Talk
from llmcli.chat.typed import BLOCK, as_line, in_open_block, message
from llmcli.errors import LlmError, UsageError
from llmcli.output.json_text import printable

PROMPT, CONTINUATION = "> ", ". "

LONGEST = 4095
"""Bytes that Linux keeps of a line, beside its end; it throws away what goes beyond (termios(3))."""


class LineReader:
    """Reads messages, one after the other, from the descriptor of a terminal."""

    def __init__(self, talk: Talk, terminal: int) -> None:
        self.talk = talk
        self._terminal = terminal
        self._read = b""  # what came beyond the line that was asked for

    def set_keys(self, keys: str) -> None:
        """Raises UsageError: there are none of ours."""
        raise UsageError("the keys are the terminal's own (TERM=dumb)")

    def read(self, default: str = "") -> str:
        """
        The next message. One that waits (`default`) is sent by Enter; another message takes its place.

        Raises KeyboardInterrupt for Ctrl-C, EOFError for Ctrl-D, Leaving where the program shall end,
        UsageError for a line that was cut.
        """
        if default:
            self.talk.screen.say(default)
            self.talk.screen.whisper("Enter sends this; another message takes its place")
        try:
            text = self._message()
        except (KeyboardInterrupt, UsageError):
            self.talk.next_text = default
            raise
        if not text.strip():
            return message(as_line(default))
        if is_command(text):
            self.talk.next_text = default  # a command may make room for it
        with suppress(LlmError):  # a full disk must not keep anybody from talking on
            self.talk.conversation.history.add_line(printable(text))
        return message(text)

    def choose(self, question: str, options: dict[str, str]) -> str:
        """One of the keys; empty for going back."""
        return choose(self.talk.screen, question, options, self._line)

    def _message(self) -> str:
        """A line, or a block to its end."""
        lines = [self._line(PROMPT)]
        while in_open_block("\n".join(lines)):
            try:
                lines.append(self._line(CONTINUATION))
            except EOFError:
                lines.append(BLOCK)
        if any(len(line.encode("utf-8", "surrogateescape")) >= LONGEST for line in lines):
            raise UsageError(
                f"nothing is sent: of a line this terminal gives its first {LONGEST:,} bytes only",
                hint=f"in shorter lines, after an opening {BLOCK}; or /read FILE",
            )
        return "\n".join(lines)

    def _line(self, prompt: str) -> str:
        """One line, without its end."""
        signals, screen = self.talk.signals, self.talk.screen
        with signals.waking() as woken:
            screen.put(prompt)
            while True:
                if signals.leaving:
                    raise Leaving(signals.leaving)
                if signals.interrupted:
                    signals.interrupted, self._read = False, b""
                    raise KeyboardInterrupt
                if b"\n" in self._read:
                    break
                ready, _, _ = select.select([self._terminal, woken], [], [])
                if woken in ready:
                    os.read(woken, 4096)
                    if not signals.leaving and not signals.interrupted:  # stopped, and now continued
                        signals.throw_away_typed()
                        screen.put("\n" + prompt)
                    continue
                part = os.read(self._terminal, 65536)
                if not part and not self._read:
                    screen.put("\n")
                    raise EOFError
                self._read += part
        line, _, self._read = self._read.partition(b"\n")
        screen.begin_line()
        return line.decode("utf-8", "surrogateescape")
