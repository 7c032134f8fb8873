"""
What the chat shows: answers as they are written, notices, and one line of preview.

The only place in the chat that writes to the terminal outside of the prompt. All
that comes from a model, a file or the history passes `sanitize` here.
"""

from __future__ import annotations

import textwrap
import time
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Protocol

from llmcli.messages import Piece
from llmcli.output.sanitize import sanitize
from llmcli.output.table import cells, table

if TYPE_CHECKING:
    from rich.console import Console

NARROW = 30
"""Columns below which nothing is drawn: text as it comes, no preview, no bottom line."""

_DIM, _RED, _OFF = "\x1b[2m", "\x1b[31m", "\x1b[0m"

PREVIEW = 60
"""Columns of a preview at most: it stays one line in most windows that are made narrower meanwhile."""

_ERASE = "\r\x1b[J"
"""
From the cursor to the end of the screen. The cursor waits where the preview begins: in a window that was made
narrower since, the preview may have become several lines.
"""


class Stream(Protocol):
    """Where text goes: standard output, or a StringIO in a test."""

    def write(self, text: str, /) -> object:
        """Write text."""
        ...

    def flush(self) -> object:
        """Make sure that it is out."""
        ...


class Screen:
    """
    A terminal, or a pipe when `terminal` is false: then answers go out byte by byte as they are.

    `plain` keeps Markdown as it is written; `dumb` is a terminal that knows no
    escape sequences at all. Where answers are results (`--once`), notices go to `notes`.
    """

    def __init__(
        self, stream: Stream, *, terminal: bool, width: Callable[[], int], colour: bool = False,
        plain: bool = False, dumb: bool = False, notes: Callable[[str], None] | None = None,
    ) -> None:  # fmt: skip
        self.stream = stream
        self.notes = notes
        self.terminal = terminal
        self.plain = plain
        self.dumb = dumb
        self._width = width
        self._colour = colour and not dumb
        self._previewed = False
        self._at_line_start = True

    @property
    def width(self) -> int:
        """Columns now; a window can change its size at any time."""
        return self._width()

    @property
    def drawn(self) -> bool:
        """Answers are drawn as Markdown."""
        return self.terminal and not self.plain and not self.dumb and self.width >= NARROW

    # ── writing ──────────────────────────────────────────────────────────────────────────────────

    def put(self, text: str) -> None:
        """Text of ours, or text that is already clean."""
        self.hide_preview()
        self.stream.write(text)
        self.stream.flush()
        if text:
            self._at_line_start = text.endswith("\n")

    def clean(self, text: str) -> str:
        """Foreign text as it may be shown here."""
        return sanitize(text, terminal=self.terminal)

    def say(self, text: str) -> None:
        """A notice, a line of its own."""
        self._tell(text, "")

    def whisper(self, text: str) -> None:
        """A notice of little weight."""
        self._tell(text, _DIM)

    def complain(self, text: str) -> None:
        """An error."""
        self._tell(text, _RED)

    def _tell(self, text: str, colour: str) -> None:
        self.end_line()
        if self.notes is not None:
            self.notes(text)
            return
        line = self.clean(text).rstrip("\n")
        self.put((f"{colour}{line}{_OFF}" if colour and self._colour else line) + "\n")

    def end_line(self) -> None:
        """Make sure that what follows begins a line."""
        if not self._at_line_start:
            self.put("\n")

    def begin_line(self) -> None:
        """The terminal itself went to the next line: Enter was pressed."""
        self._at_line_start = True

    def gap(self) -> None:
        """An empty line between turns."""
        self.end_line()
        if self.drawn:
            self.put("\n")

    def dimmed(self, text: str) -> str:
        """Clean text in a faint colour."""
        return f"{_DIM}{text}{_OFF}" if self._colour and text else text

    def table(self, rows: Iterable[Sequence[str]], right: Sequence[int] = ()) -> None:
        """Rows of short texts in columns; the last is cut to the screen, on a narrow one it goes below."""
        lines = [list(row) for row in rows]
        if lines and self.width < NARROW:
            self._stacked(lines)
        elif lines:
            self.end_line()
            for line in table(lines[0], lines[1:], terminal=True, width=self.width, right=right):
                self.put(line + "\n")

    def _stacked(self, rows: Sequence[Sequence[str]]) -> None:
        """A row on one line where it fits, else its last text below the others."""
        self.end_line()
        for row in rows:
            *before, last = map(self.clean, row)
            first = "  ".join(filter(None, before))
            if cells(f"{first}  {last}") <= self.width:
                self.put(f"{first}  {last}\n")
                continue
            self.put(f"{first}\n")
            for line in textwrap.wrap(last, self.width - 2):
                self.put(f"  {line}\n")

    # ── the preview line ─────────────────────────────────────────────────────────────────────────

    def preview(self, text: str) -> None:
        """The end of a text on one line that the next output wipes away."""
        if not self.terminal or self.dumb or self.width < NARROW:
            return
        line = " ".join(self.clean(text[-4 * PREVIEW :]).split())
        line = _last_cells(line, min(self.width - 1, PREVIEW))
        self.stream.write(_ERASE + self.dimmed(line) + "\r")
        self.stream.flush()
        self._previewed = True

    def hide_preview(self) -> None:
        """Wipe the preview line away."""
        if self._previewed:
            self.stream.write(_ERASE)
            self.stream.flush()
            self._previewed = False

    def console(self) -> Console:
        """A rich console of this width and colour, for drawing blocks."""
        from rich.console import Console
        from rich.theme import Theme

        return Console(
            theme=Theme({"markdown.code": "bold cyan"}),  # rich's own has a black background
            width=self.width, force_terminal=True, no_color=not self._colour, highlight=False, markup=False,
            emoji=False, color_system="standard" if self._colour else None, legacy_windows=False,
        )  # fmt: skip


class AnswerView:
    """An answer as it is written: Markdown block by block, or the text as it comes."""

    def __init__(
        self, screen: Screen, waiting: Callable[[], str] | None = None, show_thinking: bool = False
    ) -> None:
        self.screen = screen
        self.waiting = waiting
        self.show_thinking = show_thinking
        self.text = ""
        self.thinking = ""
        self._began = time.monotonic()
        self._thought: float | None = None
        self._first = True
        self._drawn = screen.drawn
        if self._drawn:
            from llmcli.chat.markdown import Blocks

            self._console = screen.console()
            self._blocks = Blocks()

    def feed(self, piece: Piece) -> None:
        """More of the answer, or of the thinking before it."""
        if piece.thinking:
            self._think(piece.text)
            return
        self._fold_thinking()
        self.text += piece.text
        if not self._drawn:
            self.screen.put(self.screen.clean(piece.text))
            return
        for block in self._blocks.feed(self.screen.clean(piece.text)):
            self._print(block)
        self.screen.preview(self._blocks.growing)

    def tick(self) -> None:
        """Time passes: after a second of silence, say what we wait for."""
        seconds = time.monotonic() - self._began
        if self.waiting is not None and not self.text and not self.thinking and seconds >= 1:
            self.screen.preview(f"{self.waiting()} … {seconds:.0f} s")

    def end(self, note: str = "") -> None:
        """The answer is over; `note` says how, if not by itself."""
        self._fold_thinking()
        if self._drawn:
            for block in self._blocks.end():
                self._print(block)
        self.screen.hide_preview()
        self.screen.end_line()
        if note:
            self.screen.whisper(note)

    def _think(self, text: str) -> None:
        if self._thought is None:
            self._thought = time.monotonic()
        self.thinking += text
        if self.show_thinking and self.screen.terminal:
            self.screen.put(self.screen.dimmed(self.screen.clean(text)))
        else:
            self.screen.preview("thinking: " + self.thinking[-400:])

    def _fold_thinking(self) -> None:
        """The first word of the answer, or its end: thinking shrinks to one line."""
        if self._thought is None:
            return
        seconds, self._thought = time.monotonic() - self._thought, None
        if not self.screen.terminal:
            return
        if self.show_thinking:
            self.screen.end_line()
            self.screen.put("\n")
        else:
            words = len(self.thinking.split())
            self.screen.whisper(f"▸ thought for {seconds:.1f} s, {words} words (/thinking shows them)")

    def _print(self, block: object) -> None:
        from llmcli.chat.markdown import Block, rendered

        assert isinstance(block, Block)
        gap = "\n" if block.gap and not self._first else ""
        self._first = False
        if self._console.width != self.screen.width:  # the window was made another size
            self._console = self.screen.console()
        self.screen.put(gap + rendered(block, self._console))


def _last_cells(text: str, width: int) -> str:
    """The end of a text that fills at most `width` columns."""
    text = text[-width:]
    while cells(text) > width:
        text = text[1:]
    return text
