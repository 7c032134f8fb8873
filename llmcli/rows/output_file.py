"""
The output file: written beside its place, moved there whole, or not at all.

Whoever looks sees the old file or the new one, never a part; that holds through kill -9 and, by fsync
of the file and its folder, through a power cut.
"""

from __future__ import annotations

import errno
import gzip
import io
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, cast

from llmcli.atomic import sync_folder, write_atomically
from llmcli.errors import CannotCreate, InputOutputError, LlmError, cannot_write
from llmcli.output.json_text import to_json


def resolved(path: Path) -> Path:
    """
    Where a file that is moved to this path must go: a link stays one, its target is what changes.

    What leads to a device or a pipe stays as it is: /dev/fd/63, as a shell passes `>(gzip > x)`, resolves
    to a name that does not exist. Raises CannotCreate for a link to itself.
    """
    try:
        return path.resolve() if path.is_file() or not path.exists() else path
    except PermissionError as error:
        raise cannot_write(error, path) from error
    except (OSError, RuntimeError) as error:  # a link to itself
        raise CannotCreate(f"cannot create {path}: {error}") from error


def is_replaceable(path: Path) -> bool:
    """
    Whether a file can be moved to this place: nothing is there, or a regular file.

    /dev/stdout, a FIFO or another device is written to as it is. Raises CannotCreate, PermissionRefused.
    """
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        if not path.parent.is_dir():
            raise CannotCreate(f"cannot create {path}: there is no folder {path.parent}") from None
        return True
    except OSError as error:
        raise cannot_write(error, path) from error
    if stat.S_ISDIR(mode):
        raise CannotCreate(f"cannot create {path}: it is a folder", hint="name a file")
    return stat.S_ISREG(mode)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Say in our words what the operating system refuses while a job for this output runs."""
    try:
        yield
    except OSError as error:
        raise cannot_write(error, path) from error


@contextmanager
def output_file(path: Path, temporary: Path, when_full: str = "") -> Iterator[BinaryIO]:
    """
    A stream of bytes for a file that takes its place when the block ends well; gzip by its ending.

    Until then its owner alone can read it; then its mode is an older file's, or what the umask says.
    `when_full` is the hint for a full disk. Raises InputOutputError (74), CannotCreate (73),
    PermissionRefused (77).
    """
    try:
        temporary.unlink(missing_ok=True)  # left by a crash, or somebody's link
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        raw = open(os.open(temporary, flags, 0o600), "wb", buffering=1 << 16)  # noqa: SIM115, PTH123  for its mode
    except OSError as error:
        raise _refused(error, path, when_full) from error
    try:
        with zipped(raw, path) as stream:
            yield stream
        raw.flush()
        os.fsync(raw.fileno())
        raw.close()
        with suppress(OSError):  # some file systems have no modes: then it stays private
            temporary.chmod(_mode_for(path))
        os.replace(temporary, path)  # noqa: PTH105  the name that everybody looks for
        sync_folder(path.parent)
    except BaseException as error:
        with suppress(OSError):
            raw.close()
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise _refused(error, path, when_full) from error
        raise


def _mode_for(path: Path) -> int:
    with suppress(FileNotFoundError):
        return stat.S_IMODE(path.stat().st_mode)
    umask = os.umask(0o077)  # there is no other way to read it
    os.umask(umask)
    return 0o666 & ~umask


def _refused(error: OSError, path: Path, when_full: str) -> LlmError:
    refused = cannot_write(error, path)
    if when_full and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return InputOutputError(refused.message, hint=when_full)
    return refused


@contextmanager
def zipped(raw: BinaryIO, path: Path) -> Iterator[BinaryIO]:
    """The stream itself, or one that packs into it where the path ends in .gz."""
    if path.suffix.lower() != ".gz":
        yield raw
        return
    # No name and no time in its header: the same rows give the same bytes.
    packed = gzip.GzipFile(filename="", mode="wb", compresslevel=6, fileobj=raw, mtime=0)
    stream = io.BufferedWriter(cast(io.RawIOBase, packed), 1 << 16)
    try:
        yield cast(BinaryIO, stream)
        stream.flush()
        packed.close()
    except BaseException:
        with suppress(OSError, ValueError):
            packed.close()
        raise


def write_sidecar(path: Path, about: dict[str, Any]) -> None:
    """How an output came about, as a JSON file beside it."""
    data = to_json(about, indent=2).encode()
    try:
        write_atomically(path, data + b"\n", durable=True)
    except OSError as error:
        raise cannot_write(error, path) from error
