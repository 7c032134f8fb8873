"""
Read the header of a GGUF file: its metadata and the table of its tensors.

Pure Python and bounded, because a model file is untrusted: every count and
length is held against the size of the file before anything is read, the header
against MAX_HEADER, and the tensors themselves are never touched (so a file that
shrinks meanwhile is a short read here, not a SIGBUS as with mmap). Knows the
format, not what a language model needs; that is `gguf.check`.

The format: github.com/ggml-org/ggml/blob/master/docs/gguf.md; what llama.cpp makes
of it: ggml/src/gguf.cpp.
"""

from __future__ import annotations

import stat
import struct
from array import array
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from msgspec import Struct

from llmcli.errors import LlmError, MissingInput, ModelError, PermissionRefused, from_os_error

MAX_HEADER = 64 << 20  # bytes; the largest known (a vocabulary of 262,144 with 514,906 merges) has 16 MB
MAX_STRING = 16 << 20
MAX_KEY = 65_535  # the format's own limit
MAX_NAME = 63  # GGML_MAX_NAME is 64 with the closing NUL
MAX_DIMS = 4
MAX_TENSORS, MAX_KEYS = 100_000, 20_000  # 1 s of reading; real models have at most some thousands
MAX_ELEMENTS = 1 << 62
MAX_STRINGS = 2_000_000  # in one array; the most known are 514,906
KEPT_STRINGS = 64
KEPT_ARRAY = 1024  # longer arrays of numbers are only counted, except those a check needs
FIRST_READ = 1 << 16
GET_ANOTHER = "download the file again, or ask its maker for a new one"

_U32 = struct.Struct("<I")
_I32 = struct.Struct("<i")
_U64 = struct.Struct("<Q")
STRING, ARRAY, BOOL = 8, 9, 7
TOKENS = "tokenizer.ggml.tokens"
SCALARS: dict[int, struct.Struct] = {
    0: struct.Struct("<B"), 1: struct.Struct("<b"), 2: struct.Struct("<H"), 3: struct.Struct("<h"),
    4: _U32, 5: _I32, 6: struct.Struct("<f"), 7: struct.Struct("<B"),
    10: _U64, 11: struct.Struct("<q"), 12: struct.Struct("<d"),
}  # fmt: skip
INTEGERS = frozenset({0, 1, 2, 3, 4, 5, 10, 11})

# type number: (name, elements in a block, bytes of a block), from ggml.c's type_traits
TENSOR_TYPES: dict[int, tuple[str, int, int]] = {
    0: ("F32", 1, 4), 1: ("F16", 1, 2), 2: ("Q4_0", 32, 18), 3: ("Q4_1", 32, 20),
    6: ("Q5_0", 32, 22), 7: ("Q5_1", 32, 24), 8: ("Q8_0", 32, 34), 9: ("Q8_1", 32, 36),
    10: ("Q2_K", 256, 84), 11: ("Q3_K", 256, 110), 12: ("Q4_K", 256, 144), 13: ("Q5_K", 256, 176),
    14: ("Q6_K", 256, 210), 15: ("Q8_K", 256, 292), 16: ("IQ2_XXS", 256, 66), 17: ("IQ2_XS", 256, 74),
    18: ("IQ3_XXS", 256, 98), 19: ("IQ1_S", 256, 50), 20: ("IQ4_NL", 32, 18), 21: ("IQ3_S", 256, 110),
    22: ("IQ2_S", 256, 82), 23: ("IQ4_XS", 256, 136), 24: ("I8", 1, 1), 25: ("I16", 1, 2),
    26: ("I32", 1, 4), 27: ("I64", 1, 8), 28: ("F64", 1, 8), 29: ("IQ1_M", 256, 56),
    30: ("BF16", 1, 2), 34: ("TQ1_0", 256, 54), 35: ("TQ2_0", 256, 66), 39: ("MXFP4", 32, 17),
    40: ("NVFP4", 64, 36), 41: ("Q1_0", 128, 18), 42: ("Q2_0", 64, 18),
}  # fmt: skip

# What people point at by mistake, by its first bytes, and what to do then.
STRANGERS: tuple[tuple[bytes, str, str], ...] = (
    (b"version https://git-lfs", "a Git-LFS pointer, not the model itself", "fetch it with: git lfs pull"),
    (b"<", "a web page", "use the address of the file itself: /resolve/ and not /blob/ on the hub"),
    (b"PK\x03\x04", "a ZIP archive (PyTorch weights are one)", "llm runs GGUF files"),
    (b"\x1f\x8b", "a gzip archive", "unpack it first"),
    (b"7z\xbc\xaf", "a 7z archive", "unpack it first"),
    (b"%PDF", "a PDF document", "llm runs GGUF files"),
    (b"lmgg", "a GGML file of before GGUF", "get the model as GGUF"),
    (b"tjgg", "a GGML file of before GGUF", "get the model as GGUF"),
    (b"fmgg", "a GGML file of before GGUF", "get the model as GGUF"),
    (b"{", "a JSON file", "llm runs GGUF files"),
    (b"#!", "a script", "llm runs GGUF files"),
)


class Strings(NamedTuple):
    """An array of strings, UTF-8 each, as bytes; `items` only where there are few, or a check needs them."""

    length: int
    items: list[bytes]


class Numbers(NamedTuple):
    """An array of numbers: GGUF type and length; `values` only where short, or where a check needs them."""

    type: int
    length: int
    values: tuple[Any, ...] | array[int] | None


class Tensor(Struct, frozen=True):
    """One row of the tensor table; `size` in bytes, `offset` from the start of the data."""

    name: str
    shape: tuple[int, ...]
    type: str
    offset: int
    size: int

    @property
    def elements(self) -> int:
        """The product of the dimensions."""
        product = 1
        for dimension in self.shape:
            product *= dimension
        return product


class Header(Struct, frozen=True):
    """All that stands before the tensors; `types` gives the GGUF type of each scalar in `metadata`."""

    version: int
    metadata: dict[str, Any]
    types: dict[str, int]
    tensors: tuple[Tensor, ...]
    data_offset: int
    alignment: int
    file_size: int


def open_regular(path: Path) -> BinaryIO:
    """
    Open a regular file for reading; what else a path can be is refused by name.

    The look comes before the opening: opening a FIFO waits for its writer, forever.
    """
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):
            kind = next((name for test, name in _KINDS if test(mode)), "not a regular file")
            raise ModelError(f"{path} is {kind}", hint="name the .gguf file itself")
        return path.open("rb")
    except FileNotFoundError:
        raise MissingInput(f"no model file {str(path)!r}", hint="llm models list shows the models") from None
    except PermissionError:
        raise PermissionRefused(f"cannot read {path}: permission denied", hint=f"chmod u+r {path}") from None
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror}") from error


_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISSOCK, "a socket"),
)


def read_header(path: Path) -> Header:
    """
    Read and check the structure of a GGUF file; ModelError (4) says what is wrong with it.

    Fails also for a file shorter than its tensor table promises: a cut download.
    """
    with open_regular(path) as file:
        try:
            return _Reader(file, path).header()
        except OSError as error:
            raise from_os_error(error, f"read {path}") from error


class _Reader:
    """A position in the first bytes of a file, which are loaded as they are needed."""

    def __init__(self, file: BinaryIO, path: Path) -> None:
        self.file, self.path = file, path
        self.size = file.seek(0, 2)
        file.seek(0)
        self.data = b""
        self.position = 0
        self.at = "the first bytes"

    # -- bytes ---------------------------------------------------------------

    def bad(self, what: str, hint: str = GET_ANOTHER) -> LlmError:
        return ModelError(f"{self.path.name} is not a valid GGUF: {what}", hint=hint)

    def load(self, until: int) -> tuple[bytes, int]:
        """Have at least the first `until` bytes in memory."""
        if until > self.size:
            raise self.bad(f"{self.at} reaches beyond the end of the file ({self.size:,} bytes)")
        if until > MAX_HEADER:
            raise self.bad(f"its header is larger than {MAX_HEADER >> 20} MiB")
        aim = min(max(until, 2 * len(self.data), FIRST_READ), self.size, MAX_HEADER)
        self.data += self.file.read(aim - len(self.data))
        if len(self.data) < until:
            raise self.bad("it became shorter while it was read")
        return self.data, len(self.data)

    def take(self, size: int) -> bytes:
        start, end = self.position, self.position + size
        if end > len(self.data):
            self.load(end)
        self.position = end
        return self.data[start:end]

    def number(self, form: struct.Struct) -> Any:
        return form.unpack(self.take(form.size))[0]

    def string(self, limit: int) -> str:
        length = self.number(_U64)
        if length > limit:
            raise self.bad(f"{self.at} has a string of {length:,} bytes")
        try:
            return self.take(length).decode()
        except UnicodeDecodeError:
            raise self.bad(f"{self.at} is not UTF-8") from None

    # -- values --------------------------------------------------------------

    def strings(self, count: int, key: str) -> Strings:
        """The loop that a vocabulary of 262,144 and its merges spend their time in: 0.15 s, so no calls."""
        items: list[bytes] = []
        if count * 8 > self.size - self.position or count > MAX_STRINGS:
            raise self.bad(f"{self.at} claims {count:,} strings")
        append, unpack = items.append, _U64.unpack_from
        data, loaded, position = self.data, len(self.data), self.position
        for _ in range(count):
            start = position + 8
            if start > loaded:
                data, loaded = self.load(start)
            position = start + unpack(data, position)[0]
            if position > loaded:
                data, loaded = self.load(position)
            append(data[start:position])
        self.position = position
        try:
            b"\n".join(items).decode()  # ASCII between them: valid exactly when each is
        except UnicodeDecodeError:
            raise self.bad(f"{self.at} holds a string that is not UTF-8") from None
        return Strings(count, items if key == TOKENS or count <= KEPT_STRINGS else [])

    def numbers(self, type: int, count: int, key: str) -> Numbers:
        form = SCALARS[type]
        if count * form.size > self.size - self.position:
            raise self.bad(f"{self.at} claims {count:,} numbers")
        raw = self.take(count * form.size)
        if key == "tokenizer.ggml.token_type" and type == 5:
            values = array("i", raw)
            if values.itemsize == 4:
                return Numbers(type, count, values)
        if count > KEPT_ARRAY:
            return Numbers(type, count, None)
        return Numbers(type, count, tuple(item[0] for item in form.iter_unpack(raw)))

    def value(self, type: int, key: str) -> Any:
        if type == STRING:
            return self.string(MAX_STRING)
        if type in SCALARS:
            number = self.number(SCALARS[type])
            return bool(number) if type == BOOL else number
        if type != ARRAY:
            raise self.bad(f"{self.at} has the unknown type {type}")
        item_type, count = self.number(_U32), self.number(_U64)
        if item_type == STRING:
            return self.strings(count, key)
        if item_type in SCALARS:
            return self.numbers(item_type, count, key)
        raise self.bad(f"{self.at} is an array of the unknown type {item_type}")

    # -- parts ---------------------------------------------------------------

    def header(self) -> Header:
        version, tensor_count, key_count = self.preamble()
        metadata, types = self.metadata(key_count)
        alignment = metadata.get("general.alignment", 32)
        if types.get("general.alignment", 4) != 4:
            raise self.bad("general.alignment is not a 32-bit number")
        # A power of two by the format; below 32 llama.cpp's buffers abort (1 and 16 measured on 0.3.36).
        if alignment < 32 or alignment & (alignment - 1) or alignment > 1 << 20:
            raise self.bad(f"alignment {alignment} is not a power of two from 32 on")
        tensors = self.tensors(tensor_count, alignment)
        start = -(-self.position // alignment) * alignment
        if tensors:
            last = tensors[-1]
            missing = start + last.offset + last.size - self.size
            if missing > 0:
                raise self.bad(
                    f"it ends {missing:,} bytes too early, inside its tensors (a cut download?)",
                    hint="download the file again",
                )
        return Header(version, metadata, types, tensors, start, alignment, self.size)

    def preamble(self) -> tuple[int, int, int]:
        if self.size == 0:
            raise self.bad("it is empty", hint="download the file again")
        self.load(min(self.size, FIRST_READ))
        if not self.data.startswith(b"GGUF"):
            raise self.stranger()
        self.position = 4
        self.at = "its preamble"
        version = self.number(_U32)
        if version & 0xFFFF == 0 and version:
            raise self.bad("it is big-endian", hint="get the little-endian file of the same model")
        if version not in (2, 3):
            raise self.bad(f"GGUF version {version} (2 and 3 are read)")
        tensors, keys = self.number(_U64), self.number(_U64)
        if tensors > MAX_TENSORS or keys > MAX_KEYS:
            raise self.bad(f"it claims {tensors:,} tensors and {keys:,} metadata keys")
        return version, tensors, keys

    def stranger(self) -> LlmError:
        if self.data[8:10] == b'{"' and _U64.unpack_from(self.data)[0] < self.size:
            return ModelError(f"{self.path.name} is a safetensors file", hint="get the model as GGUF")
        start = self.data.lstrip()
        for magic, name, hint in STRANGERS:
            if start.startswith(magic):
                return ModelError(f"{self.path.name} is {name}", hint=hint)
        if not any(self.data[:64]):
            return self.bad("it begins with zeros (a download that was never finished?)")
        return self.bad("it does not begin with 'GGUF'")

    def metadata(self, count: int) -> tuple[dict[str, Any], dict[str, int]]:
        metadata: dict[str, Any] = {}
        types: dict[str, int] = {}
        for index in range(count):
            self.at = f"metadata key {index + 1} of {count:,}"
            key = self.string(MAX_KEY)
            if not key or key in metadata:
                raise self.bad(f"the metadata key {key!r} is {'there twice' if key else 'empty'}")
            self.at = f"metadata {key!r}"
            types[key] = self.number(_U32)
            metadata[key] = self.value(types[key], key)
        return metadata, types

    def tensors(self, count: int, alignment: int) -> tuple[Tensor, ...]:
        tensors: list[Tensor] = []
        names: set[str] = set()
        offset = 0
        for index in range(count):
            self.at = f"tensor {index + 1} of {count:,}"
            tensor = self.tensor()
            if tensor.name in names:
                raise self.bad(f"two tensors are called {tensor.name!r}")
            if tensor.offset != offset:  # llama.cpp wants them one after the other, each aligned
                raise self.bad(f"tensor {tensor.name!r} stands at {tensor.offset:,} and not at {offset:,}")
            names.add(tensor.name)
            offset = -(-(offset + tensor.size) // alignment) * alignment
            tensors.append(tensor)
        return tuple(tensors)

    def tensor(self) -> Tensor:
        name = self.string(MAX_NAME)
        if not name:
            raise self.bad(f"{self.at} has no name")
        dims = self.number(_U32)
        if not 1 <= dims <= MAX_DIMS:
            raise self.bad(f"tensor {name!r} has {dims} dimensions")
        shape = tuple(self.number(_U64) for _ in range(dims))
        elements = 1
        for dimension in shape:
            elements *= dimension
        if not 0 < elements < MAX_ELEMENTS:
            raise self.bad(f"tensor {name!r} has {elements:,} elements")
        type = self.number(_U32)
        if type not in TENSOR_TYPES:
            raise self.bad(f"tensor {name!r} has the unknown type {type}", hint="a newer llm may know it")
        type_name, block, block_size = TENSOR_TYPES[type]
        if shape[0] % block:
            raise self.bad(f"tensor {name!r}: rows of {shape[0]:,} are no multiple of {type_name}'s {block}")
        return Tensor(name, shape, type_name, self.number(_U64), elements // block * block_size)
