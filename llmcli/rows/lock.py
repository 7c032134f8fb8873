"""
One process at a time: a lock file that the operating system lets go of when its holder dies.

The file holds its holder's process id, for the one who finds it locked.
"""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from llmcli.errors import Stopped, from_os_error


class Lock:
    """A locked file, until `release`, which removes it; a context manager too."""

    def __init__(self, path: Path, what: str) -> None:
        """
        Take the lock; `what` names the thing that it stands for.

        Raises Stopped (75) with the holder's process id where another process has it.
        """
        self.path = path
        self._descriptor = _acquire(path, what)
        try:
            os.ftruncate(self._descriptor, 0)
            os.pwrite(self._descriptor, f"{os.getpid()}\n".encode(), 0)
        except OSError as error:
            self.release()
            raise from_os_error(error, f"write {path}") from error

    def release(self) -> None:
        """Remove the file and let go; whoever waits finds that it is not the same file any more."""
        if self._descriptor >= 0:
            descriptor, self._descriptor = self._descriptor, -1
            with suppress(OSError):  # what was locked is done; a left file harms nobody
                self.path.unlink(missing_ok=True)
            with suppress(OSError):
                os.close(descriptor)

    def __enter__(self) -> Lock:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def _acquire(path: Path, what: str) -> int:
    while True:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise from_os_error(error, f"create {path}") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip() or "?"
            os.close(descriptor)
            raise Stopped(
                f"{what} is in use by another llm, process {holder}", hint="wait for it, or stop it"
            ) from None
        except OSError as error:
            os.close(descriptor)
            raise from_os_error(error, f"lock {path}") from error
        if _is_same_file(descriptor, path):
            return descriptor
        os.close(descriptor)  # its last holder removed it between our open and our lock


def _is_same_file(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False
