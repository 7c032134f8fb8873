"""
A copy of a model whose matrices llama.cpp multiplies faster, with the same weights in wider numbers.

"q8_0": q5_0 and iq4_nl as q8_0, number for number. A file called Q4_K_M holds q5_0 wherever
the rows of a matrix are no multiple of 256, as in Qwen2.5-0.5B, SmolLM2 or Gemma 3 1B. All three formats
are blocks of 32 small integers and one float16 scale (ggml-common.h: block_q5_0, block_iq4_nl, block_q8_0),
and what the first two can say, the third can: the copy means the same to the last bit. AMX has no kernel
for those two, and without AMX they are taken apart anew for each product (the logits are then the same to
the last bit too).

"f16": the matrices of every layer as float16, which a processor with AVX2 and without VNNI multiplies faster
than small integers when many tokens are read, and slower when one is written. A weight is rounded to 11 bits,
but the activations no longer to 8, so the logits are others, and nearer to what the weights say.

The copy stands in memory, and is let go with the model or, where nothing is read from it any more,
when that is loaded.
"""

from __future__ import annotations

import ctypes
import os
import re
import sys
from collections.abc import Callable, Iterator, Set
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from llama_cpp._ggml import libggml

from llmcli.engines.llama.library import LoadError

Bytes = np.ndarray[Any, np.dtype[np.uint8]]
Format = Literal["q8_0", "f16"]

TYPES: dict[Format, int] = {"f16": 1, "q8_0": 8}  # ggml_type, ggml.h
WIDE = 34  # bytes of a q8_0 block: a float16, 32 int8
IQ4_NL_VALUES = np.array(  # kvalues_iq4nl, ggml-common.h
    [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.int8
).view(np.uint8)
LEAST_PART = 0.1  # of the file's bytes: below that there is too little to gain
AT_A_TIME = 1 << 18  # weights: what stays in the processor's cache
HALVED = re.compile(r"blk\.\d+\.(attn_(q|k|v|qkv|output)|ffn_(gate|up))\.weight")
"""
Tensors, by llama.cpp's names, whose factors are normalised, or a mean of what came of such.

Not ffn_down: of the product that it multiplies, models are known that have values above 65,504, the largest
float16 (Gemma 3, Qwen3: https://github.com/huggingface/transformers/issues/36822).
"""
ALIGNMENT = 32  # of what follows the last tensor: GGUF_DEFAULT_ALIGNMENT, gguf.h


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


# ggml's types, and its own reading of their blocks.
_type_name = _function("ggml_type_name", ctypes.c_char_p, ctypes.c_int)
_weights = _function("ggml_blck_size", ctypes.c_int64, ctypes.c_int)
_block_bytes = _function("ggml_type_size", _BYTES, ctypes.c_int)
_NUMBERS = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)
_to_half = _function("ggml_fp32_to_fp16_row", None, *_NUMBERS)


@dataclass(frozen=True)
class _Conversion:
    """Of blocks of so many `weights`: (n, `size`) bytes of them to (n, `wide`) bytes by `convert`."""

    weights: int
    size: int
    wide: int
    convert: Callable[[Bytes], Bytes]


AS_Q8_0 = {
    "q5_0": _Conversion(32, 22, WIDE, from_q5_0),
    "iq4_nl": _Conversion(32, 18, WIDE, from_iq4_nl),
}


def _as_f16(kind: str, type: int) -> _Conversion:
    read = _function("ggml_bf16_to_fp32_row" if kind == "bf16" else f"dequantize_row_{kind}", None, *_NUMBERS)
    weights = _weights(type)

    def convert(blocks: Bytes) -> Bytes:
        full = np.empty(len(blocks) * weights, np.float32)
        half = np.empty(full.shape, np.float16)
        read(blocks.ctypes.data, full.ctypes.data, full.size)
        _to_half(full.ctypes.data, half.ctypes.data, full.size)
        return half.view(np.uint8)

    return _Conversion(weights, _block_bytes(type), 2 * weights, convert)


def _conversion(name: str, type: int, to: Format, kinds: Set[str]) -> _Conversion | None:
    """
    How a tensor of a ggml_type is widened; None where it stays as it is.

    Only matrices of HALVED become float16: what they multiply is rounded to float16 too.
    """
    kind = bytes(_type_name(type)).decode()
    if kind not in kinds:
        return None
    if to == "q8_0":
        return AS_Q8_0[kind]
    return _as_f16(kind, type) if HALVED.fullmatch(name) else None


@dataclass(frozen=True)
class _Tensor:
    """Where it stands in the file and in the copy, in bytes, and what becomes of it."""

    start: int
    size: int
    target: int
    conversion: _Conversion | None

    @property
    def end(self) -> int:
        """Of it in the copy."""
        if self.conversion is None:
            return self.target + self.size
        return self.target + self.size // self.conversion.size * self.conversion.wide


@contextmanager
def widened(path: str, to: Format, kinds: Set[str], room: int, threads: int) -> Iterator[str | None]:
    """
    The path of a copy in memory, until it is left; None where there is no gain or no room.

    Its tensors of `kinds` (ggml's names: q5_0) are widened; as q8_0 only q5_0 and iq4_nl can be. `room` is
    the memory that it may take, in bytes. Linux only. Raises LoadError for a file that becomes shorter
    meanwhile.
    """
    descriptor = _copy_of(path, to, kinds, room, threads) if sys.platform.startswith("linux") else None
    try:
        yield None if descriptor is None else f"/proc/self/fd/{descriptor}"
    finally:
        if descriptor is not None:
            os.close(descriptor)


def _copy_of(path: str, to: Format, kinds: Set[str], room: int, threads: int) -> int | None:
    """The descriptor of a copy, a file without a name."""
    header = _open(os.fsencode(path), _Parameters(True, None))
    if not header:
        return None  # llama.cpp will say what is wrong with it
    try:
        tensors = _widen_header(header, to, kinds)
        metadata = _metadata(header)
    finally:
        _free(header)
    with (
        ExitStack() as undo,
        suppress(OSError, MemoryError, RuntimeError),
    ):  # no thread either: it runs as it is
        if not tensors or max(one.end for one in tensors) > room:
            return None
        descriptor = os.memfd_create("widened", os.MFD_CLOEXEC)
        undo.callback(os.close, descriptor)
        _write(path, descriptor, metadata, tensors, threads)
        undo.pop_all()
        return descriptor
    return None


def _widen_header(header: int, to: Format, kinds: Set[str]) -> list[_Tensor]:
    """Give the tensors their new types; none where that is not worth it, or the model has several files."""
    start, count = _data_offset(header), _count(header)
    names = [os.fsdecode(_name(header, i)) for i in range(count)]
    conversions = [_conversion(name, _type(header, i), to, kinds) for i, name in enumerate(names)]
    places = [(start + _offset(header, i), _size(header, i)) for i in range(count)]
    narrow = sum(size for (_, size), found in zip(places, conversions) if found)
    if _find_key(header, b"split.count") >= 0 or narrow < LEAST_PART * sum(size for _, size in places):
        return []
    for i, found in enumerate(conversions):
        if found is not None:
            _set_type(header, _name(header, i), TYPES[to])
    start = _metadata_size(header)
    return [
        _Tensor(*place, start + _offset(header, i), found)
        for i, (place, found) in enumerate(zip(places, conversions))
    ]


def _metadata(header: int) -> bytes:
    buffer = ctypes.create_string_buffer(_metadata_size(header))
    _write_metadata(header, buffer)
    return buffer.raw


def _write(path: str, target: int, metadata: bytes, tensors: list[_Tensor], threads: int) -> None:
    _put(target, metadata, 0)
    os.ftruncate(target, max(one.end for one in tensors) + ALIGNMENT)
    source = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(lambda tensor: _copy(source, target, tensor), tensors))
    finally:
        os.close(source)


def _copy(source: int, target: int, tensor: _Tensor) -> None:
    conversion, to = tensor.conversion, tensor.target
    step = AT_A_TIME if conversion is None else AT_A_TIME // conversion.weights * conversion.size
    for start in range(0, tensor.size, step):
        data = os.pread(source, min(step, tensor.size - start), tensor.start + start)
        if len(data) < min(step, tensor.size - start):
            raise LoadError("the file became shorter while it was read")
        if conversion is not None:
            blocks = np.frombuffer(data, np.uint8).reshape(-1, conversion.size)
            data = conversion.convert(blocks).tobytes()
        _put(target, data, to)
        to += len(data)


def _put(target: int, data: bytes, at: int) -> None:
    if os.pwrite(target, data, at) < len(data):
        raise OSError("there is no memory for the rest of it")
