"""
The error boundary: whatever happens becomes at most one line on standard error, and an exit code.

The exit codes are those of `llmcli.errors`; 130, 141 and 143 stand for SIGINT, a closed pipe and SIGTERM.
"""

from __future__ import annotations

import errno
import os
import re
import sys
from collections.abc import Callable
from typing import Any

from typer.exceptions import Abort, TyperException

from llmcli import __version__
from llmcli.cli.environment import Environment
from llmcli.errors import InputOutputError, LlmError, UsageError, from_os_error


class Terminated(BaseException):
    """SIGTERM arrived; unwinds the program so that child processes and files are closed."""


def guard(program: Callable[[], int], env: Environment) -> int:
    """Run a program that gives its exit code, and write what it left unwritten; give the exit code."""
    try:
        code = program()
        _flush(env)
        return code
    except (KeyboardInterrupt, Abort):
        return 130
    except Terminated:
        return 143
    except BrokenPipeError:
        return 141
    except Exception as error:
        return _report(error, env)
    finally:
        env.close()


def _flush(env: Environment) -> None:
    try:
        env.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise from_os_error(error, "write to standard output") from error


def _report(error: Exception, env: Environment) -> int:
    """Print one line, give the exit code."""
    known = _as_llm_error(error)
    env.close()
    if isinstance(known, InputOutputError) and isinstance(known.__context__, BrokenPipeError):
        return 141
    if env.debug:
        import traceback

        for line in "".join(traceback.format_exception(error)).splitlines():
            env.complain(line)
    env.complain(f"llm: error: {known}")
    return known.exit_code


def _as_llm_error(error: Exception) -> LlmError:
    """What an exception means to the user."""
    if isinstance(error, LlmError):
        return error
    if isinstance(error, TyperException):
        return _usage_error(error)
    if isinstance(error, OSError):
        return _from_stray_os_error(error)
    if isinstance(error, RecursionError | MemoryError):
        return LlmError(f"out of memory or stack: {error}")
    return _our_bug(error)


def _usage_error(error: TyperException) -> UsageError:
    """Typer's complaint as ours; of an unknown option the nearest that exists, else where to look."""
    ctx: Any = getattr(error, "ctx", None)
    remedy = f"see {ctx.command_path if ctx else 'llm'} --help"
    if not hasattr(error, "possibilities"):
        return UsageError(_plain(error.format_message()), hint=remedy)
    from llmcli.registry import nearest

    name = str(getattr(error, "option_name", ""))
    if ctx is not None and ctx.parent is None:
        remedy = f"options stand after the command: llm COMMAND {name}"
    close = nearest(name.lstrip("-"), [option.lstrip("-") for option in error.possibilities or ()])
    return UsageError(f"no such option: {name}", hint=f"did you mean --{close}?" if close else remedy)


def _from_stray_os_error(error: OSError) -> LlmError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EBADF, errno.EIO) and not error.filename:
        return InputOutputError(f"cannot write to standard output: {error.strerror}")
    if error.filename:
        return from_os_error(error, f"use {error.filename}")
    return _our_bug(error)


def _plain(message: str) -> str:
    """
    Typer's sentence in our form: one line, no capital, no full stop.

    >>> _plain("Invalid value for '--seed': 'x' is not a valid integer.")
    "invalid value for '--seed': 'x' is not a valid integer"
    >>> _plain("Got unexpected extra argument(s) (b c)")
    'unexpected: b c'
    """
    message = " ".join(message.split()).rstrip(".")
    message = re.sub(r"Got unexpected extra argument\(s\) \((.*)\)", r"Unexpected: \1", message)
    return message[:1].lower() + message[1:]


def _our_bug(error: Exception) -> LlmError:
    """An error that nobody foresaw: keep its traceback, without the values in it, and say where."""
    import traceback

    from llmcli.paths import cache_dir, make_private

    frames = "".join(traceback.format_tb(error.__traceback__))
    what = f"unexpected {type(error).__name__}"
    try:
        path = make_private(cache_dir()) / "traceback.txt"
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with open(descriptor, "w", encoding="utf-8") as file:  # noqa: PTH123  a descriptor, for its mode
            file.write(f"llmcli {__version__}, Python {sys.version}\n{frames}{what}\n")
    except OSError:
        return LlmError(f"{what}, a bug in llmcli", hint="--debug shows the traceback")
    return LlmError(f"{what}, a bug in llmcli", hint=f"traceback: {path}, or with --debug")
