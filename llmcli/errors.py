"""
The errors that llm tells its user about, one class per exit code.

Each is one line: what happened and where, then what to do about it. The core
raises them, `cli.main` alone prints them. Anything else that escapes is our bug (1).

    LlmError                 1
    ├── UsageError           2   the command line is wrong
    ├── RowsFailed           3   a batch finished, some rows failed
    ├── ModelError           4   model file invalid, changed during a run, or wrong checksum
    ├── InputTooLong         5   the input exceeds the context window
    ├── UnreadableInput     65   a file that cannot be read as its format
    ├── MissingInput        66   no such input
    ├── BackendUnreachable  69   a server or the network does not answer
    ├── EngineCrashed       70   the engine's process died
    ├── CannotCreate        73   an output cannot be created
    ├── InputOutputError    74   read or write failed, disk full
    ├── Stopped             75   locked by another process, or stopped and resumable
    ├── UnusableAnswer      76   the answer is cut, invalid or degenerate
    ├── PermissionRefused   77   permission
    └── BadConfig           78   a bad configuration file or template
"""

from __future__ import annotations

import errno


class LlmError(Exception):
    """A failure with a message for the person at the terminal, and a remedy (`hint`)."""

    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


class UsageError(LlmError):
    """The command line is wrong."""

    exit_code = 2


class RowsFailed(LlmError):
    """A batch finished, and some of its rows carry an error."""

    exit_code = 3


class ModelError(LlmError):
    """A model file is missing, invalid, changed during a run, or has the wrong checksum."""

    exit_code = 4


class InputTooLong(LlmError):
    """A text that exceeds the context window; both counts are in tokens."""

    exit_code = 5

    def __init__(self, message: str, hint: str = "", tokens: int = 0, context: int = 0) -> None:
        super().__init__(message, hint)
        self.tokens = tokens
        self.context = context


class UnreadableInput(LlmError):
    """A file that cannot be read as its format."""

    exit_code = 65


class MissingInput(LlmError):
    """An input that does not exist."""

    exit_code = 66


class BackendUnreachable(LlmError):
    """A server, or the network, does not answer."""

    exit_code = 69


class EngineCrashed(LlmError):
    """The engine's process died; the message names the signal and its last words."""

    exit_code = 70


class CannotCreate(LlmError):
    """An output file or folder cannot be created."""

    exit_code = 73


class InputOutputError(LlmError):
    """Reading or writing failed: a full disk, a bad disk."""

    exit_code = 74


class Stopped(LlmError):
    """A job that another process holds, or that stopped and can be resumed."""

    exit_code = 75


class UnusableAnswer(LlmError):
    """The model's answer cannot be used: JSON cut or invalid, degenerate text, a broken protocol."""

    exit_code = 76


class PermissionRefused(LlmError):
    """The file system refuses permission."""

    exit_code = 77


class BadConfig(LlmError):
    """A configuration file or a template that is wrong; the message names file and line."""

    exit_code = 78


BY_NAME: dict[str, type[LlmError]] = {
    error.__name__: error
    for error in (
        LlmError, UsageError, RowsFailed, ModelError, InputTooLong, UnreadableInput, MissingInput,
        BackendUnreachable, EngineCrashed, CannotCreate, InputOutputError, Stopped,
        UnusableAnswer, PermissionRefused, BadConfig,
    )
}  # fmt: skip


def from_os_error(error: OSError, doing: str) -> LlmError:
    """
    The LlmError for an operating system's error; `doing` says what we were at.

    >>> from_os_error(FileNotFoundError(2, "No such file or directory", "a.txt"), "read a.txt").exit_code
    66
    """
    reason = error.strerror or str(error)
    message = f"cannot {doing}: {reason}"
    if isinstance(error, FileNotFoundError):
        return MissingInput(message)
    if isinstance(error, PermissionError):
        return PermissionRefused(message)
    return InputOutputError(message)


def cannot_write(error: OSError, path: object) -> LlmError:
    """
    The LlmError for an output that cannot be made or written.

    >>> cannot_write(FileNotFoundError(2, "No such file or directory"), "no/such/out.txt").exit_code
    73
    """
    message = f"cannot write {path}: {error.strerror or error}"
    if isinstance(error, PermissionError):
        return PermissionRefused(message)
    if isinstance(error, FileNotFoundError | NotADirectoryError | IsADirectoryError):
        return CannotCreate(message)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return InputOutputError(message, hint="make room there, or choose another place")
    return InputOutputError(message)
