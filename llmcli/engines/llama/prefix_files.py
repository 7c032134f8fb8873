"""
Templates' prefixes on disk: a later process reads what an earlier one has evaluated.

A file in the cache folder holds the state of one sequence (keys and values of its tokens), named by the
hash of everything that the state depends on. llama.cpp checks neither what it is given nor its size, so
a file is hashed before it goes there; one that is not what its name says is deleted. Nothing here is ever
an error: a prefix that cannot be read is evaluated, one that cannot be written is not kept. What belongs
to a template and not to somebody's text is for the caller to know.
"""

from __future__ import annotations

import hashlib
import os
import stat
from array import array
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from llmcli import paths
from llmcli.atomic import write_atomically

SUFFIX = ".prefix"
FEWEST_TOKENS = 32
LEAST_WORK = 2e9
"""
Floating-point operations (2 × parameters × tokens) below which a prefix is sooner evaluated than read.

Two cores do some 5e10 to 1e11 a second, so this is 20 to 40 ms; a file is read and hashed at about 1 GB/s,
and what such a prefix holds is some MB. The built-in model reaches it at 118 tokens, one of 0.5B at once.
"""
DIGEST = hashlib.sha256().digest_size


class PrefixFiles:
    """
    The saved states of one model as it is loaded.

    `key` says what a state depends on beside its tokens: model, adapters, build, types; and so does
    `flash_attention` of the context, for whose sake the values lie in another order. `most` is what all files
    of the folder may hold together, in bytes; the least recently used are deleted.
    """

    def __init__(self, folder: Path, key: str, most: int, parameters: int) -> None:
        self._folder = folder
        self._key = key.encode()
        self.flash_attention: bool | None = None
        self._most = most
        self._parameters = parameters
        self._met: set[bytes] = set()

    def worth(self, tokens: Sequence[int]) -> bool:
        """Whether a prefix should be looked for: it is long enough, and new to this process."""
        if len(tokens) < FEWEST_TOKENS or 2.0 * self._parameters * len(tokens) < LEAST_WORK:
            return False
        name = self._name(tokens)
        new = name not in self._met
        self._met.add(name)
        return new

    def read(self, tokens: Sequence[int]) -> bytes | None:
        """The state of these tokens, if it was kept and is whole."""
        path = self._place(tokens)
        try:
            # A link or a pipe of somebody else's is not followed and not waited for.
            handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        except FileNotFoundError:
            return None
        except OSError:
            self.forget(tokens)
            return None
        with os.fdopen(handle, "rb") as file, suppress(OSError):
            state = os.fstat(handle)
            if stat.S_ISREG(state.st_mode) and state.st_size <= self._most:
                data = file.read()
                name, body = data[DIGEST : 2 * DIGEST], data[DIGEST:]
                if name == self._name(tokens) and data[:DIGEST] == hashlib.sha256(body).digest():
                    os.utime(handle)  # used now
                    return data[2 * DIGEST :]
        self.forget(tokens)
        return None

    def write(self, tokens: Sequence[int], state: bytes | bytearray) -> None:
        """Keep the state of these tokens."""
        body = self._name(tokens) + state
        if len(body) + DIGEST > self._most:
            return
        with suppress(OSError):
            paths.make_private(self._folder)
            self._make_room(len(body) + DIGEST)
            write_atomically(self._place(tokens), hashlib.sha256(body).digest() + body)

    def forget(self, tokens: Sequence[int]) -> None:
        """Delete what is kept of these tokens."""
        with suppress(OSError):
            self._place(tokens).unlink()

    def _make_room(self, size: int) -> None:
        """Delete the least recently used until there is room for so many bytes more."""
        kept = []
        for path in self._folder.glob(f"*{SUFFIX}"):
            with suppress(OSError):
                state = path.lstat()
                kept.append((state.st_mtime_ns, state.st_size, path))
        total = sum(held for _, held, _ in kept)
        for _, held, path in sorted(kept):
            if total + size <= self._most:
                return
            with suppress(OSError):
                path.unlink()
                total -= held

    def _name(self, tokens: Sequence[int]) -> bytes:
        key = self._key + f"\nflash={self.flash_attention}".encode()
        return hashlib.sha256(key + b"\x00" + array("i", tokens).tobytes()).digest()

    def _place(self, tokens: Sequence[int]) -> Path:
        return self._folder / f"{self._name(tokens).hex()}{SUFFIX}"
