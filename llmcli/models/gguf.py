"""
Is this file a GGUF that a language model can be loaded from? And what is it?

Done by the parent before the engine's child loads anything: llama.cpp aborts the process
on some files, and runs others wrongly without a word (a chat template lost to one
bad byte). What it would refuse with an error of its own may pass here. Nothing of
the tensors' contents is read; their places and sizes are. What can be wrong is in `gguf_problems`.
"""

from __future__ import annotations

import re
import stat
from pathlib import Path
from typing import Any

from msgspec import Struct

from llmcli.errors import MissingInput, ModelError
from llmcli.models import stamps
from llmcli.models.gguf_problems import MAX_LAYERS, all_tensors, each, problems
from llmcli.models.gguf_reader import (
    GET_ANOTHER,
    KEPT_STRINGS,
    TOKENS,
    Header,
    Numbers,
    Strings,
    Tensor,
    open_regular,
    read_header,
)

KIND, VERSION = "gguf", 1
SPLIT_NAME = re.compile(r"(?P<stem>.+)-(?P<part>\d{5})-of-(?P<count>\d{5})\.gguf")

# general.sampling.KEY, from gguf-py's constants: the field of Sampling, its type, and what is sensible
SAMPLING: dict[str, tuple[str, type, float, float]] = {
    "temp": ("temperature", float, 0.0, 10.0),
    "top_k": ("top_k", int, 0, 2**31 - 1),
    "top_p": ("top_p", float, 1e-6, 1.0),
    "min_p": ("min_p", float, 0.0, 1.0),
}

# general.file_type, from llama.h's llama_ftype
FILE_TYPES: dict[int, str] = {
    0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 7: "Q8_0", 8: "Q5_0", 9: "Q5_1", 10: "Q2_K",
    11: "Q3_K_S", 12: "Q3_K_M", 13: "Q3_K_L", 14: "Q4_K_S", 15: "Q4_K_M", 16: "Q5_K_S", 17: "Q5_K_M",
    18: "Q6_K", 19: "IQ2_XXS", 20: "IQ2_XS", 21: "Q2_K_S", 22: "IQ3_XS", 23: "IQ3_XXS", 24: "IQ1_S",
    25: "IQ4_NL", 26: "IQ3_S", 27: "IQ3_M", 28: "IQ2_S", 29: "IQ2_M", 30: "IQ4_XS", 31: "IQ1_M",
    32: "BF16", 36: "TQ1_0", 37: "TQ2_0", 38: "MXFP4_MOE", 39: "NVFP4",
}  # fmt: skip


class GgufHeader(Struct, frozen=True):
    """
    What a checked GGUF says of itself.

    `parameters` counts the elements of all tensors, `tensor_bytes` their bytes, of all parts
    of a split file. `context_length` in tokens. Heads are per layer where the file says so (a tuple of
    one number otherwise). `metadata` holds the scalars and short arrays by their full key.
    """

    architecture: str
    name: str = ""
    quantisation: str = ""
    parameters: int = 0
    tensor_bytes: int = 0
    file_size: int = 0
    context_length: int = 0
    block_count: int = 0
    embedding: int = 0
    heads: tuple[int, ...] = ()
    kv_heads: tuple[int, ...] = ()
    vocabulary: int = 0
    tokenizer: str = ""
    bos: int | None = None
    eos: int | None = None
    chat_template: str | None = None
    parts: int = 1
    metadata: dict[str, Any] = {}

    def of_architecture(self, key: str, default: Any = None) -> Any:
        """The value of `ARCHITECTURE.key`."""
        return self.metadata.get(f"{self.architecture}.{key}", default)

    def recommended_sampling(self) -> dict[str, float]:
        """
        The fields of Sampling that the file's maker recommends; what cannot be meant is left out.

        >>> metadata = {"general.sampling.temp": 0.6, "general.sampling.top_p": 7.0}
        >>> GgufHeader("llama", metadata=metadata).recommended_sampling()
        {'temperature': 0.6}
        """
        found = {}
        for key, (name, kind, least, most) in SAMPLING.items():
            value: Any = self.metadata.get(f"general.sampling.{key}")
            if type(value) in (int, kind) and least <= value <= most:
                found[name] = kind(round(value, 6))  # the file holds 32-bit floats: 0.6 is 0.60000002
        return found


def check(path: Path) -> GgufHeader:
    """
    The facts of a model file, after it is found fit to load.

    ModelError (4) with one line that says what is wrong, MissingInput (66) or PermissionRefused (77).
    A vocabulary of 262,144 takes about 0.35 s the first time; a good verdict is remembered by
    device, inode, size and mtime. Of a split model name the first part; the others are looked at too.
    """
    known = stamps.recall(KIND, VERSION, path, GgufHeader)
    if known is not None and _parts_stand(path, known.parts):
        open_regular(path).close()  # a note outlives the permission to read the file
        return known
    state = path.stat() if path.exists() else None
    header = read_header(path)
    others = _other_parts(path, header)
    for problem in problems(header, others):
        raise ModelError(f"{path.name} cannot be used: {problem}", hint=GET_ANOTHER)
    facts = _facts(header, others)
    if state is not None and stat.S_ISREG(state.st_mode):
        stamps.remember(KIND, VERSION, state, facts)
    return facts


def check_adapter(path: Path) -> None:
    """
    See that a LoRA adapter's file is there and may be read.

    MissingInput (66), PermissionRefused (77), ModelError (4) for a folder and the like.
    """
    if not path.exists():
        raise MissingInput(f"no LoRA adapter {str(path)!r}", hint="--lora FILE, or FILE:SCALE")
    open_regular(path).close()


# -- split files ---------------------------------------------------------------


def part_paths(path: Path) -> list[Path]:
    """
    All files of a model, the first first; the path alone where it is not split.

    >>> [part.name for part in part_paths(Path("a-00001-of-00002.gguf"))]
    ['a-00001-of-00002.gguf', 'a-00002-of-00002.gguf']
    """
    match = SPLIT_NAME.fullmatch(path.name)
    if not match or not 1 <= int(match["count"]) <= 1000:
        return [path]
    count = int(match["count"])
    return [path.with_name(f"{match['stem']}-{part:05}-of-{count:05}.gguf") for part in range(1, count + 1)]


def _parts_stand(path: Path, parts: int) -> bool:
    return parts == 1 or all(part.is_file() for part in part_paths(path))


def _other_parts(path: Path, header: Header) -> list[Header]:
    """The headers of parts 2, 3, … of a split model."""
    count = header.metadata.get("split.count", 0)
    if not isinstance(count, int) or count <= 1:
        return []
    if header.metadata.get("split.no") != 0:
        first = part_paths(path)[0].name
        raise ModelError(f"{path.name} is a later part of a model", hint=f"name its first part, {first}")
    files = part_paths(path)
    if len(files) != count:
        raise ModelError(
            f"{path.name} is one of {count} parts, and its name does not say which",
            hint="part names end in -00001-of-00003.gguf",
        )
    for file in files[1:]:
        if not file.is_file():
            raise ModelError(
                f"{file.name}, a part of the model, is missing", hint="put it into the same folder"
            )
    return [read_header(file) for file in files[1:]]


# -- what it says of itself ------------------------------------------------------


def _facts(header: Header, others: list[Header]) -> GgufHeader:
    metadata = header.metadata
    architecture = metadata["general.architecture"]
    tensors = all_tensors(header, others)
    heads = _numbers(metadata.get(f"{architecture}.attention.head_count"))
    file_type = metadata.get("general.file_type")
    return GgufHeader(
        architecture=architecture,
        name=_text(metadata.get("general.name")),
        quantisation=FILE_TYPES.get(file_type, "") if isinstance(file_type, int) else _largest_type(tensors),
        parameters=sum(tensor.elements for tensor in tensors),
        tensor_bytes=sum(tensor.size for tensor in tensors),
        file_size=header.file_size + sum(part.file_size for part in others),
        context_length=metadata[f"{architecture}.context_length"],
        block_count=metadata[f"{architecture}.block_count"],
        embedding=metadata[f"{architecture}.embedding_length"],
        heads=heads,
        kv_heads=_numbers(metadata.get(f"{architecture}.attention.head_count_kv")) or heads,
        vocabulary=metadata[TOKENS].length,
        tokenizer=metadata["tokenizer.ggml.model"],
        bos=metadata.get("tokenizer.ggml.bos_token_id"),
        eos=metadata.get("tokenizer.ggml.eos_token_id"),
        chat_template=metadata.get("tokenizer.chat_template"),
        parts=1 + len(others),
        metadata={key: value for key, value in map(_kept, metadata.items()) if value is not None},
    )


def _kept(item: tuple[str, Any]) -> tuple[str, Any]:
    """A metadata entry as it is kept: scalars, short arrays, and nothing of the vocabulary."""
    key, value = item
    if isinstance(value, Strings):
        return key, [text.decode() for text in value.items] if value.length <= KEPT_STRINGS else None
    if isinstance(value, Numbers):
        return key, list(value.values) if value.values is not None and value.length <= MAX_LAYERS else None
    return key, value


def _largest_type(tensors: list[Tensor]) -> str:
    sizes: dict[str, int] = {}
    for tensor in tensors:
        sizes[tensor.type] = sizes.get(tensor.type, 0) + tensor.elements
    return max(sizes, key=lambda type: sizes[type], default="")


def _numbers(value: Any) -> tuple[int, ...]:
    return tuple(number for number in each(value) if isinstance(number, int))


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""
