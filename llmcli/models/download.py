"""
One file from a web address: resumed where it broke off, hashed, and only then given its name.

What has come stands in `NAME.part`, and in `NAME.part.json` what it is a part of. A new try asks for the rest
with Range and If-Range; a server that ignores it, or has another file by now, makes us begin again. The file
that had the name before stays until the new one is whole and right.
"""

from __future__ import annotations

import errno
import os
import random
import re
import shutil
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import msgspec
from msgspec import Struct

from llmcli.atomic import sync_folder, write_atomically
from llmcli.errors import (
    BackendUnreachable,
    InputOutputError,
    ModelError,
    PermissionRefused,
    from_os_error,
)
from llmcli.models import checksum, gguf
from llmcli.models.gguf_reader import read_header
from llmcli.models.meter import Meter
from llmcli.models.network import TransferError, get

TRIES = 6  # in a row without a new byte, as ollama does
RESTARTS = 5  # from the first byte: a server that ignores Range, or whose file changes all the time
LONGEST_PAUSE = 20.0  # seconds
SPARE = 64 << 20  # bytes that stay free on the disk


class _Origin(Struct, frozen=True):
    """What a part is a part of."""

    url: str
    validator: str = ""
    size: int | None = None


def download(url: str, target: Path, sha256: str | None, meter: Meter, pause: float = 1.0) -> str:
    """
    Fetch `url` to `target`; gives the SHA-256 of what is there now.

    `sha256` None trusts whatever comes, as long as it is a whole GGUF. `pause` is the first wait after a
    failure, in seconds; it doubles. ModelError (4) for wrong bytes, BackendUnreachable (69), InputOutputError
    (74) for a full disk; see `network.get` for the rest. After any error the old `target` is as it was; a
    part that can be gone on with is kept.
    """
    part = target.with_name(target.name + ".part")
    with _opened(part) as file:
        _fetch(url, part, file, meter, pause)
    found = _right(part, target, sha256, meter)
    try:
        part.replace(target)  # a link planted under that name is replaced, not followed
        sync_folder(target.parent)
    except OSError as error:
        raise from_os_error(error, f"write {target}") from error
    _origin_file(part).unlink(missing_ok=True)
    return found


def _right(part: Path, target: Path, sha256: str | None, meter: Meter) -> str:
    """The part's hash, if it is the one wanted; else nothing of it is kept."""
    meter.begin(f"checking {target.name}", part.stat().st_size)
    found = checksum.sha256_of(part, meter.advance)
    try:
        if sha256 is not None and found != sha256:
            raise ModelError(
                f"{target.name} came with the wrong checksum: SHA-256 {found[:12]}… and not {sha256[:12]}…",
                hint="it was deleted; try again, or check the --sha256",
            )
        if sha256 is None:  # of a split model's part no more can be said before the others are here
            (read_header if gguf.SPLIT_NAME.fullmatch(target.name) else gguf.check)(part)
    except ModelError:
        _forget(part)
        raise
    return found


# -- the part ----------------------------------------------------------------------


def _origin_file(part: Path) -> Path:
    return part.with_name(part.name + ".json")


def _forget(part: Path) -> None:
    part.unlink(missing_ok=True)
    _origin_file(part).unlink(missing_ok=True)


@contextmanager
def _opened(part: Path) -> Iterator[int]:
    """The part, open for writing: a regular file of ours, never what a link of that name leads to."""
    try:
        descriptor = os.open(part, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise PermissionRefused(f"{part} is a link", hint="delete it") from error
        raise from_os_error(error, f"write {part}") from error
    try:
        state = os.fstat(descriptor)
        if not stat.S_ISREG(state.st_mode) or state.st_uid != os.geteuid() or state.st_nlink != 1:
            raise PermissionRefused(f"{part} is not a file of ours alone", hint="delete it")
        yield descriptor
    finally:
        os.close(descriptor)


def _known_origin(part: Path) -> _Origin | None:
    try:
        return msgspec.json.decode(_origin_file(part).read_bytes(), type=_Origin)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
        return None


# -- the transfer ------------------------------------------------------------------


def _fetch(url: str, part: Path, file: int, meter: Meter, pause: float) -> None:
    """Have the whole file in the part, over as many connections as it takes."""
    failures, restarts, wait = 0, 0, pause
    most = os.fstat(file).st_size
    meter.begin(part.name.removesuffix(".part"), None, most)
    while True:
        reason = "it ends too early"
        try:
            if _attempt(url, part, file, meter):
                return
        except TransferError as error:
            reason = str(error)
        except _BeginAgainError as error:
            reason, restarts = str(error), restarts + 1
        here = os.fstat(file).st_size
        failures, wait, most = (0, pause, here) if here > most else (failures + 1, wait, most)
        if failures >= TRIES or restarts > RESTARTS:
            raise BackendUnreachable(
                f"the download of {url} broke off: {reason}", hint="the same command goes on from here"
            )
        time.sleep(wait * random.uniform(0.5, 1.0))  # many clients must not come back at the same moment
        wait = min(wait * 2, LONGEST_PAUSE)


class _BeginAgainError(Exception):
    """What is there is not a part of what the server has; it was thrown away."""


def _attempt(url: str, part: Path, file: int, meter: Meter) -> bool:
    """One connection; True when the file is whole, TransferError when it broke."""
    here = os.fstat(file).st_size
    origin = _known_origin(part)
    if here and (origin is None or origin.url != url or not origin.validator):
        _empty(file, meter)  # nothing says that the rest would belong to it
        here, origin = 0, None
    if here and origin and here == origin.size:
        return True
    headers = {"Range": f"bytes={here}-", "If-Range": origin.validator} if here and origin else {}
    with get(url, headers) as response:
        if response.status_code == 416:
            if response.headers.get("content-range") == f"bytes */{here}":
                return True
            _empty(file, meter)
            raise _BeginAgainError("the server has less than it sent before")
        if here and not _continues(response, here, origin):
            _empty(file, meter)
            if response.status_code == 206:
                raise _BeginAgainError("the file changed on the server")
            here = 0
            _take(response, url, part, file, 0, meter, again=True)
        else:
            _take(response, url, part, file, here, meter, again=False)
    known, here = _known_origin(part), os.fstat(file).st_size
    return known is not None and (known.size is None or here == known.size)


def _take(
    response: httpx.Response, url: str, part: Path, file: int, here: int, meter: Meter, again: bool
) -> None:
    """Receive the body, from byte `here` on; what breaks `again` counts as a new beginning."""
    size = _whole_size(response)
    _check_space(part, size, here)
    write_atomically(_origin_file(part), msgspec.json.encode(_Origin(url, _validator(response), size)))
    meter.begin(part.name.removesuffix(".part"), size, here)
    try:
        _receive(response, file, here, size, meter)
    except TransferError as error:
        if again:
            raise _BeginAgainError(str(error)) from error
        raise


def _empty(file: int, meter: Meter) -> None:
    meter.advance(-os.fstat(file).st_size)
    os.ftruncate(file, 0)


def _continues(response: httpx.Response, here: int, origin: _Origin | None) -> bool:
    """Whether this answer is the rest of what we have."""
    if response.status_code != 206 or origin is None:
        return False
    match = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+|\*)", response.headers.get("content-range", ""))
    if not match or int(match[1]) != here:
        return False
    if origin.size is not None and match[3] != "*" and int(match[3]) != origin.size:
        return False
    return _validator(response) in ("", origin.validator)


def _validator(response: httpx.Response) -> str:
    """What If-Range takes: a strong ETag, or a date."""
    etag: str = response.headers.get("etag", "")
    return etag if etag and not etag.startswith("W/") else response.headers.get("last-modified", "")


def _whole_size(response: httpx.Response) -> int | None:
    if response.status_code == 206:
        match = re.fullmatch(r"bytes \d+-\d+/(\d+)", response.headers.get("content-range", ""))
        return int(match[1]) if match else None
    length = response.headers.get("content-length", "")
    return int(length) if length.isdecimal() else None


def _check_space(part: Path, size: int | None, here: int) -> None:
    if size is not None:
        check_space(part.parent, size - here, part.name.removesuffix(".part"))


def check_space(folder: Path, needed: int, name: str) -> None:
    """InputOutputError (74) where a folder's disk has no room for so many bytes."""
    free = shutil.disk_usage(folder).free
    if needed + SPARE > free:
        raise InputOutputError(
            f"{name} needs {needed / 1e9:,.2f} GB and {free / 1e9:,.2f} GB are free on the disk of {folder}",
            hint="make room, or set LLMCLI_DATA_DIR (HF_HOME for the hub) to a larger disk",
        )


def _receive(response: httpx.Response, file: int, here: int, size: int | None, meter: Meter) -> None:
    os.lseek(file, here, os.SEEK_SET)
    try:
        for (
            block
        ) in response.iter_raw():  # as it comes: what is held back to fill a block is lost with the line
            here += len(block)
            if size is not None and here > size:
                os.ftruncate(file, 0)
                raise TransferError("the server sends more than it said")
            _write(file, block)
            meter.advance(len(block))
    except httpx.HTTPError as error:
        raise TransferError(" ".join(str(error).split()) or type(error).__name__) from error


def _write(file: int, block: bytes) -> None:
    view = memoryview(block)
    try:
        while view:
            view = view[os.write(file, view) :]
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise InputOutputError(
                "the disk is full", hint="make room; the same command goes on from here"
            ) from error
        raise InputOutputError(f"cannot write the download: {error.strerror}") from error
