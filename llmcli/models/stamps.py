"""
What was worked out about a file, kept until the file changes.

A note is one small file in the cache folder, found by the file's device and inode,
valid while its size and modification time are the same. Written whole or not at all,
0600; a note that cannot be read or written is no error, the work is done again.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TypeVar

import msgspec

from llmcli import paths
from llmcli.atomic import write_atomically

Note = TypeVar("Note")

# A file changed again within its clock's tick keeps its time: what is younger than this is not noted.
SETTLED = 2_000_000_000  # nanoseconds


class _Stamped(msgspec.Struct, frozen=True):
    size: int
    modified: int
    version: int
    note: msgspec.Raw


def recall(kind: str, version: int, path: Path, type: type[Note]) -> Note | None:
    """The note of this kind about the file as it is now, or None."""
    try:
        state = path.stat()
        stamped = msgspec.json.decode(_place(kind, state).read_bytes(), type=_Stamped)
        if (stamped.size, stamped.modified, stamped.version) != (state.st_size, state.st_mtime_ns, version):
            return None
        return msgspec.json.decode(stamped.note, type=type)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
        return None


def remember(kind: str, version: int, state: os.stat_result, note: object) -> None:
    """Keep a note about a file whose `state` was taken before the work began."""
    if time.time_ns() - state.st_mtime_ns < SETTLED:
        return
    raw = msgspec.Raw(msgspec.json.encode(note))
    stamped = _Stamped(state.st_size, state.st_mtime_ns, version, raw)
    try:
        paths.make_private(_place(kind, state).parent)
        write_atomically(_place(kind, state), msgspec.json.encode(stamped))
    except OSError:
        pass


def forget(kind: str, path: Path) -> None:
    """Drop the note of this kind about a file."""
    try:
        _place(kind, path.stat()).unlink()
    except OSError:
        pass


def _place(kind: str, state: os.stat_result) -> Path:
    return paths.cache_dir() / kind / f"{state.st_dev:x}-{state.st_ino:x}.json"
