"""
The one line on standard error that says what a silent command is doing.

It appears after a second without output, on a terminal only, counts the seconds, and is erased before
anything else is written. It knows nothing of what is done: it is told, by `say`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from threading import Event, RLock, Thread
from types import TracebackType

from llmcli.output.sanitize import one_line
from llmcli.output.table import fit

DELAY = 1.0  # seconds of silence before the line appears
_INTERVAL = 0.1  # seconds between two looks at the clock
_ERASE = "\r\x1b[K"


class Status:
    """
    The status line of one command.

        with Status(write_to_stderr, shown=stderr_is_a_terminal) as status:
            status.say("loading starter")
            …
            status.hide()   # before each write to the terminal
            print(answer)

    `write` writes and flushes. Where `shown` is false (no terminal, TERM=dumb, -q) nothing happens at all. A
    thread of its own watches the clock; with `watch` false the caller does, by `tick`. `say` and `hide`
    may be called from any thread. `activity` is asked at each look for what changes by itself: "loading".
    """

    def __init__(
        self,
        write: Callable[[str], object],
        *,
        shown: bool,
        width: Callable[[], int] = lambda: 80,
        clock: Callable[[], float] = time.monotonic,
        delay: float = DELAY,
        watch: bool = True,
        activity: Callable[[], str] = lambda: "",
    ) -> None:
        self._write = write
        self._shown = shown
        self._width = width
        self._clock = clock
        self._delay = delay
        self._watch = watch
        self._activity = activity
        self._lock = RLock()
        self._done = Event()
        self._thread: Thread | None = None
        self._text = ""
        self._line = ""  # what stands on the terminal now
        self._silent_since = self._doing_since = clock()

    def say(self, text: str) -> None:
        """What is being done from now on; "" for nothing, as while an answer is written piece by piece."""
        if not self._shown:
            return
        with self._lock:
            if not self._text:
                self._doing_since = self._clock()
            self._text = text
            if not text:
                self.hide()
            elif self._line:
                self.tick()
            if self._watch and self._thread is None and text and not self._done.is_set():
                self._thread = Thread(target=self._run, name="status line", daemon=True)
                self._thread.start()

    def hide(self) -> None:
        """Erase the line, because something is about to be written; it comes back after another second."""
        with self._lock:
            if self._line:
                self._line = ""
                self._put(_ERASE)
            self._silent_since = self._clock()

    def tick(self) -> None:
        """Show the line, or bring it up to date, if it is time."""
        with self._lock:
            now = self._clock()
            if not self._text or now - self._silent_since < self._delay or self._done.is_set():
                return
            seconds = int(now - self._doing_since)
            doing = ": ".join(filter(None, (self._text, self._activity())))
            line = fit(f"{one_line(doing)} ({seconds} s)", max(1, self._width() - 1))
            if line != self._line:
                self._line = line
                self._put(_ERASE + line)

    def close(self) -> None:
        """Erase the line for good and end the thread."""
        self.hide()
        self._done.set()
        if self._thread is not None:
            self._thread.join(timeout=1)

    def __enter__(self) -> Status:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _run(self) -> None:
        while not self._done.wait(_INTERVAL):
            self.tick()

    def _put(self, text: str) -> None:
        try:
            self._write(text)
        except (OSError, ValueError):  # a terminal that went away: the work goes on
            self._shown = False
            self._done.set()
