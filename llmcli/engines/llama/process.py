"""
The engine's child process, seen from outside: started, spoken to, and found dead.

Everything that can end a process, a bad model, a bad grammar, ends this one and not llm.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection

import msgspec

from llmcli.engines.llama import wire
from llmcli.errors import EngineCrashed, UnreadableInput
from llmcli.output.json_text import printable

# Ctrl-C is the parent's, also during the imports (and until they begin it is held back). `-c` puts the
# working directory on the path (unless PYTHONSAFEPATH is set), where anybody's llmcli may lie: it is taken
# off first.
PROGRAM = """
import signal, sys
signal.signal(signal.SIGINT, signal.SIG_IGN)
sys.path = [folder for folder in sys.path if folder]
from llmcli.engines.llama.child import main
main()
"""
LAST_WORDS_BYTES = 4000
ENVIRONMENT = {
    "GGML_NO_BACKTRACE": "1",  # else a debugger writes pages on an abort
    # OpenMP threads that wait for each other spin; where another program wants the core, a long spin
    # costs more than it saves: measured with both cores busy, labels ran 6 times faster with this. One row
    # of 0.5B writes 24 tokens a second on an idle machine with 1,000 and with 3,000 and 26 with libgomp's
    # own 300,000; with both cores busy 10, 9 and 3.
    "GOMP_SPINCOUNT": "1000",
    # numpy's own threads, which nothing here uses, cost a tenth of a second of the start.
    "OPENBLAS_NUM_THREADS": "1",
}


class ChildProcess:
    """
    One child. `receive` is called, on a thread of ours, with every message and with None at its end.

    The child ends by itself when this end of the connection closes, also by kill -9.
    """

    def __init__(self, receive: Callable[[wire.ToParent | None], None]) -> None:
        ours, theirs = socket.socketpair()
        self._words = tempfile.TemporaryFile()  # noqa: SIM115  (lives as long as the child)
        environment = {**ENVIRONMENT, **os.environ}
        with theirs, _without_interrupts():
            self._process = subprocess.Popen(
                [sys.executable, "-c", PROGRAM, str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=self._words,
                stderr=self._words,
                pass_fds=[theirs.fileno()],
                env=environment,
            )
        self._connection = Connection(ours.detach())
        self._sending = threading.Lock()
        self._receive = receive
        threading.Thread(target=self._listen, daemon=True).start()

    @property
    def pid(self) -> int:
        """The child's process id."""
        return self._process.pid

    def send(self, message: wire.ToChild) -> bool:
        """
        Say something; False where nobody listens any more.

        Raises UnreadableInput for a text with half a surrogate pair.
        """
        try:
            frame = wire.encode(message)
        except UnicodeEncodeError as error:
            if isinstance(message, wire.Load):
                what = f"the path of the model is not UTF-8: {printable(message.path)}"
                raise UnreadableInput(what, hint="rename the file or folder") from error
            raise UnreadableInput(
                f"the text holds half a surrogate pair (\\u{ord(error.object[error.start]):04x})"
                " and is not Unicode",
                "repair the text where it comes from",
            ) from error
        try:
            with self._sending:
                self._connection.send_bytes(frame)
        except OSError:
            return False
        return True

    def _listen(self) -> None:
        while True:
            try:
                message = wire.decode_to_parent(self._connection.recv_bytes())
            except (EOFError, OSError, msgspec.MsgspecError):
                break
            self._receive(message)
        # Closed here, where it is read: its number, given to another file, would be read from too.
        with self._sending:
            self._connection.close()
        self._receive(None)

    def obituary(self, doing: str) -> EngineCrashed:
        """What killed it, and its last words."""
        try:
            code = self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        words = self.last_words()
        cause = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        return EngineCrashed(f"the engine died {doing} ({cause})" + (f": {words}" if words else ""))

    def last_words(self) -> str:
        """The last line that it wrote."""
        if self._words.closed:
            return ""
        self._words.seek(0, os.SEEK_END)
        self._words.seek(max(0, self._words.tell() - LAST_WORDS_BYTES))
        lines = self._words.read().decode("utf-8", "replace").splitlines()
        spoken = [re.sub(r"\s+", " ", line).strip() for line in lines if line.strip()]
        return spoken[-1] if spoken else ""

    def close(self) -> None:
        """End it, at once; the listening thread then finds the other end closed."""
        self._process.kill()
        self._process.wait()
        self._words.close()


@contextmanager
def _without_interrupts() -> Iterator[None]:
    """
    Hold SIGINT back in this thread; a process that is started now inherits that.

    Else a Ctrl-C while its interpreter starts, before a line of ours runs, would end it.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
