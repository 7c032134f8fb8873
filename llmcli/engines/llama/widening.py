"""
A model's q5_0 and iq4_nl tensors as q8_0, number for number: llama.cpp multiplies that faster.

A file called Q4_K_M holds q5_0 wherever the rows of a matrix are no multiple of 256, as in Qwen2.5-0.5B,
SmolLM2 or Gemma 3 1B. All three formats are blocks of 32 small integers and one float16 scale (ggml-common.h:
block_q5_0, block_iq4_nl, block_q8_0), and what the first two can say, the third can: the copy means the same
to the last bit. AMX has no kernel for those two, and without AMX they are taken apart anew for each
product (the logits are then the same to the last bit too). The copy stands in memory, and is let go when
the model is loaded.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from llama_cpp._ggml import libggml

from llmcli.engines.llama.library import LoadError

Bytes = np.ndarray[Any, np.dtype[np.uint8]]

BLOCK = 32  # weights
Q5_0, IQ4_NL, Q8_0 = 6, 20, 8  # ggml_type, ggml.h
WIDE = 34  # bytes of a q8_0 block: a float16, 32 int8
IQ4_NL_VALUES = np.array(  # kvalues_iq4nl, ggml-common.h
    [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.int8
).view(np.uint8)
LEAST_PART = 0.1  # of the file's bytes: below that there is too little to gain
COPY, MODEL = 2, 2  # in the size of the file, at most: what stands in memory at once while it is loaded
AT_A_TIME = 1 << 15  # blocks: what stays in the processor's cache


def from_q5_0(blocks: Bytes) -> Bytes:
    """
    Blocks of q5_0, (n, 22) bytes, as blocks of q8_0, (n, 34) bytes.

    A block is the scale, the fifth bits of its 32 weights (one little-endian word), and the four lower ones:
    the first 16 weights in the lower halves of 16 bytes, the others in the upper. 16 stands for 0.
    """
    fifth = np.unpackbits(blocks[:, 2:6], axis=1, bitorder="little")
    return _wide(blocks, _halves(blocks[:, 6:]) + (fifth << 4) - np.uint8(16))


def from_iq4_nl(blocks: Bytes) -> Bytes:
    """Blocks of iq4_nl, (n, 18) bytes, as blocks of q8_0: a scale, and 32 places in a table of 16 values."""
    return _wide(blocks, IQ4_NL_VALUES[_halves(blocks[:, 2:])])


def _halves(packed: Bytes) -> Bytes:
    return np.concatenate((packed & 15, packed >> 4), axis=1)


def _wide(blocks: Bytes, weights: Bytes) -> Bytes:
    return np.concatenate((blocks[:, :2], weights), axis=1)


WIDENED: dict[int, tuple[int, Callable[[Bytes], Bytes]]] = {Q5_0: (22, from_q5_0), IQ4_NL: (18, from_iq4_nl)}


class _Parameters(ctypes.Structure):
    """gguf_init_params: no tensors are read."""

    _fields_ = (("no_alloc", ctypes.c_bool), ("context", ctypes.c_void_p))


def _function(name: str, result: Any, *arguments: Any) -> Callable[..., Any]:
    function: Callable[..., Any] = libggml[name]  # a new object each time: nobody else's types
    function.restype, function.argtypes = result, arguments  # type: ignore[attr-defined]
    return function


# ggml's own reader and writer of a file's header (gguf.h). A tensor is a number.
_HEADER, _TENSOR, _BYTES = ctypes.c_void_p, ctypes.c_int64, ctypes.c_size_t
_open = _function("gguf_init_from_file", _HEADER, ctypes.c_char_p, _Parameters)
_free = _function("gguf_free", None, _HEADER)
_find_key = _function("gguf_find_key", ctypes.c_int64, _HEADER, ctypes.c_char_p)
_count = _function("gguf_get_n_tensors", _TENSOR, _HEADER)
_name = _function("gguf_get_tensor_name", ctypes.c_char_p, _HEADER, _TENSOR)
_type = _function("gguf_get_tensor_type", ctypes.c_int, _HEADER, _TENSOR)
_size = _function("gguf_get_tensor_size", _BYTES, _HEADER, _TENSOR)
_offset = _function("gguf_get_tensor_offset", _BYTES, _HEADER, _TENSOR)
_data_offset = _function("gguf_get_data_offset", _BYTES, _HEADER)
_set_type = _function("gguf_set_tensor_type", None, _HEADER, ctypes.c_char_p, ctypes.c_int)
_metadata_size = _function("gguf_get_meta_size", _BYTES, _HEADER)
_write_metadata = _function("gguf_get_meta_data", None, _HEADER, ctypes.c_void_p)


@dataclass(frozen=True)
class _Tensor:
    """Where it stands in the file and in the copy, in bytes, and its type in the file."""

    type: int
    start: int
    size: int
    target: int


@contextmanager
def widened(path: str, free: int, threads: int) -> Iterator[str | None]:
    """
    The path of a widened copy in memory, as long as it is needed; None where there is no gain or no room.

    `free` is the memory that may be used, in bytes. Linux only. Raises LoadError for a file
    that becomes shorter meanwhile.
    """
    descriptor = _copy_of(path, free, threads) if sys.platform.startswith("linux") else None
    try:
        yield None if descriptor is None else f"/proc/self/fd/{descriptor}"
    finally:
        if descriptor is not None:
            os.close(descriptor)


def _copy_of(path: str, free: int, threads: int) -> int | None:
    """The descriptor of a widened copy, a file without a name."""
    header = _open(os.fsencode(path), _Parameters(True, None))
    if not header:
        return None  # llama.cpp will say what is wrong with it
    try:
        tensors = _widen_header(header)
        metadata = _metadata(header)
    finally:
        _free(header)
    with ExitStack() as undo, suppress(OSError, MemoryError):  # then it runs as it is
        if tensors is None or Path(path).stat().st_size * (COPY + MODEL) > free:
            return None
        descriptor = os.memfd_create("widened", os.MFD_CLOEXEC)
        undo.callback(os.close, descriptor)
        _write(path, descriptor, metadata, tensors, threads)
        undo.pop_all()
        return descriptor
    return None


def _widen_header(header: int) -> list[_Tensor] | None:
    """Give the tensors their new types; None where that is not worth it, or the model has several files."""
    start = _data_offset(header)
    found = [(_type(header, i), start + _offset(header, i), _size(header, i)) for i in range(_count(header))]
    narrow = sum(size for type, _, size in found if type in WIDENED)
    if _find_key(header, b"split.count") >= 0 or narrow < LEAST_PART * sum(size for _, _, size in found):
        return None
    for i, (type, _, _) in enumerate(found):
        if type in WIDENED:
            _set_type(header, _name(header, i), Q8_0)
    start = _metadata_size(header)
    return [_Tensor(*one, target=start + _offset(header, i)) for i, one in enumerate(found)]


def _metadata(header: int) -> bytes:
    buffer = ctypes.create_string_buffer(_metadata_size(header))
    _write_metadata(header, buffer)
    return buffer.raw


def _write(path: str, target: int, metadata: bytes, tensors: list[_Tensor], threads: int) -> None:
    _put(target, metadata, 0)
    end = max(one.target + _wide_size(one) for one in tensors)
    os.ftruncate(target, end + BLOCK)  # what follows the last tensor, up to the alignment
    source = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(lambda tensor: _copy(source, target, tensor), tensors))
    finally:
        os.close(source)


def _wide_size(tensor: _Tensor) -> int:
    if tensor.type not in WIDENED:
        return tensor.size
    return tensor.size // WIDENED[tensor.type][0] * WIDE


def _copy(source: int, target: int, tensor: _Tensor) -> None:
    narrow, convert = WIDENED.get(tensor.type, (WIDE, None))
    step, to = narrow * AT_A_TIME, tensor.target
    for start in range(0, tensor.size, step):
        data = os.pread(source, min(step, tensor.size - start), tensor.start + start)
        if len(data) < min(step, tensor.size - start):
            raise LoadError("the file became shorter while it was read")
        if convert is not None:
            data = convert(np.frombuffer(data, np.uint8).reshape(-1, narrow)).tobytes()
        _put(target, data, to)
        to += len(data)


def _put(target: int, data: bytes, at: int) -> None:
    if os.pwrite(target, data, at) < len(data):
        raise OSError("there is no memory for the rest of it")
