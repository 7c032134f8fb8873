"""
Is this file a GGUF that a language model can be loaded from? And what is it?

Done by the parent before the engine's child loads anything: llama.cpp aborts the process
on some files, and runs others wrongly without a word (a chat template lost to one
bad byte). What it would refuse with an error of its own may pass here. Nothing of
the tensors' contents is read; their places and sizes are.
"""

from __future__ import annotations

import math
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from msgspec import Struct

from llmcli.errors import MissingInput, ModelError
from llmcli.models import stamps
from llmcli.models.gguf_reader import (
    GET_ANOTHER,
    INTEGERS,
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
MAX_LAYERS = 512  # LLAMA_MAX_LAYERS
MAX_EXPERTS = 512  # LLAMA_MAX_EXPERTS in llama.cpp 0c1e57098
BYTE_TOKEN = 6  # LLAMA_TOKEN_TYPE_BYTE
LAYER_NAME = re.compile(r"(?:enc\.|dec\.)?blk\.(\d{1,5})\.")
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
    for problem in _problems(header, others):
        raise ModelError(f"{path.name} cannot be used: {problem}", hint=GET_ANOTHER)
    facts = _facts(header, others)
    if state is not None and stat.S_ISREG(state.st_mode):
        stamps.remember(KIND, VERSION, path, state, facts)
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


# -- what can be wrong with it ---------------------------------------------------


def _problems(header: Header, others: list[Header]) -> Iterator[str]:
    """What keeps a well-formed GGUF from being run; the first is told."""
    architecture = header.metadata.get("general.architecture")
    if not isinstance(architecture, str) or not re.fullmatch(r"[A-Za-z0-9._-]{1,64}", architecture):
        yield "it names no architecture"
    if header.metadata.get("general.type", "model") in ("adapter", "mmproj", "imatrix", "vocab"):
        yield f"it is not a model but of type {header.metadata['general.type']!r} (a LoRA goes to --lora)"
    if architecture == "clip":
        yield "it is an image encoder (mmproj), not a language model"
    if not header.tensors and not any(part.tensors for part in others):
        yield "it has no tensors"
    yield from _shape_problems(header, str(architecture))
    yield from _expert_problems(header, str(architecture))
    yield from _tokenizer_problems(header)
    yield from _tensor_problems(header, others, str(architecture))


def _shape_problems(header: Header, architecture: str) -> Iterator[str]:
    """Sizes that llama.cpp asserts on, divides by, or multiplies into an overflow."""
    limits = {"block_count": MAX_LAYERS, "embedding_length": 1 << 20, "context_length": 1 << 31}
    for name, limit in limits.items():
        key = f"{architecture}.{name}"
        value = header.metadata.get(key)
        if header.types.get(key) not in INTEGERS or not isinstance(value, int) or not 1 <= value <= limit:
            yield f"{key} is {_brief(value)}; it must be from 1 to {limit:,}"
    for name in ("attention.head_count", "attention.head_count_kv", "feed_forward_length"):
        for value in _each(header.metadata.get(f"{architecture}.{name}")):
            if not isinstance(value, int) or not 0 <= value <= 1 << 24:
                yield f"{architecture}.{name} is {_brief(value)}"
    for key, value in header.metadata.items():
        if not key.startswith(f"{architecture}."):
            continue
        if key.endswith("epsilon") and not (_is_finite(value) and 0 <= value < 1):
            yield f"{key} is {_brief(value)}; it must be a small number from 0 on"
        if key.endswith("rope.freq_base") and not (_is_finite(value) and value > 0):
            yield f"{key} is {_brief(value)}; it must be above 0"
        if key.endswith("rope.dimension_count") and not (isinstance(value, int) and value % 2 == 0):
            yield f"{key} is {_brief(value)}; it must be even"
        if header.types.get(key) in (6, 12) and not _is_finite(value):
            yield f"{key} is {_brief(value)}"


def _expert_problems(header: Header, architecture: str) -> Iterator[str]:
    """What llama_model_base::load_hparams asserts of a mixture of experts."""

    def of(name: str) -> int:
        value = header.metadata.get(f"{architecture}.{name}", 0)
        return max((number for number in _each(value) if isinstance(number, int)), default=0)

    experts, used, groups = of("expert_count"), of("expert_used_count"), of("expert_group_count")
    if experts > MAX_EXPERTS or used > experts or (experts and not used):
        yield f"it uses {used} of {experts} experts"
    if groups and (groups >= experts or (groups > 1 and experts % groups)):
        yield f"it has {groups} groups of {experts} experts"
    if groups > 1 and not 0 < of("expert_group_used_count") < groups:
        yield f"it uses {of('expert_group_used_count')} of {groups} expert groups"
    if of("nextn_predict_layers") > of("block_count"):
        yield "it has more prediction layers than layers"


def _tokenizer_problems(header: Header) -> Iterator[str]:
    metadata = header.metadata
    model, tokens = metadata.get("tokenizer.ggml.model"), metadata.get(TOKENS)
    if not isinstance(model, str) or model in ("", "no_vocab", "none"):
        yield "it has no tokenizer"
        return
    if not isinstance(tokens, Strings) or not tokens.items:
        yield "its tokenizer has no tokens"
        return
    texts = tokens.items
    named = [text for text in texts if text]  # llama.cpp gives each empty one a name of its own
    if len(set(named)) != len(named):
        yield f"two tokens have the same text, {_first_twice(named)}"
    merges = metadata.get("tokenizer.ggml.merges")
    unmerged = metadata.get("tokenizer.ggml.pre") == "kimi-k2"  # the one byte-pair tokenizer without merges
    if model in ("gpt2", "gemma4") and not isinstance(merges, Strings) and not unmerged:
        yield "its tokenizer has no merges"
    yield from _token_array_problems(metadata, len(texts))
    if model == "llama":
        # SentencePiece falls back on bytes, and aborts on a user's text where one is missing.
        known = set(texts)
        lacks = sum(b"<0x%02X>" % byte not in known and bytes([byte]) not in known for byte in range(256))
        if lacks:
            yield f"its SentencePiece vocabulary lacks {lacks} of the 256 byte tokens"
    types = metadata.get("tokenizer.ggml.token_type")
    for text, type in zip(texts, types.values or () if isinstance(types, Numbers) else ()):
        if type == BYTE_TOKEN and not re.fullmatch(rb"<0x[0-9A-Fa-f]{2}>", text):
            yield f"its byte token {_brief(text.decode())} names no byte"
    template = metadata.get("tokenizer.chat_template")
    if template is not None and not isinstance(template, str):
        yield "its chat template is not a text"


def _token_array_problems(metadata: dict[str, Any], count: int) -> Iterator[str]:
    for name, allowed in (("scores", (5, 6)), ("token_type", (5,))):
        values = metadata.get(f"tokenizer.ggml.{name}")
        if values is None:
            continue
        if not isinstance(values, Numbers) or values.type not in allowed:
            yield f"tokenizer.ggml.{name} has the wrong type"
        elif values.length < count:
            yield f"it has {count:,} tokens and {values.length:,} entries in tokenizer.ggml.{name}"
    for name in ("bos", "eos"):
        value = metadata.get(f"tokenizer.ggml.{name}_token_id")
        if value is not None and not isinstance(value, int):
            yield f"tokenizer.ggml.{name}_token_id is {_brief(value)}"


def _tensor_problems(header: Header, others: list[Header], architecture: str) -> Iterator[str]:
    tensors = _all_tensors(header, others)
    by_name = {tensor.name: tensor for tensor in tensors}
    if len(by_name) != len(tensors):
        yield "two parts have a tensor of the same name"
    embedding = by_name.get("token_embd.weight")
    tokens = header.metadata.get(TOKENS)
    if embedding is None:
        yield "it has no token embedding"
    elif isinstance(tokens, Strings):
        width = header.metadata.get(f"{architecture}.embedding_length")
        if embedding.shape[0] != width or embedding.elements != embedding.shape[0] * len(tokens.items):
            yield (
                f"its token embedding is {' × '.join(map(str, embedding.shape))} for a width of "
                f"{_brief(width)} and {len(tokens.items):,} tokens"
            )
    promised = header.metadata.get("split.tensors.count")
    nextn = header.metadata.get(f"{architecture}.nextn_predict_layers")
    last = max((int(match[1]) for name in by_name if (match := LAYER_NAME.match(name))), default=-1)
    wanted = header.metadata.get(f"{architecture}.block_count", 0) - (nextn if isinstance(nextn, int) else 0)
    if last + 1 < wanted:
        yield f"it has {last + 1} of {wanted} layers"
    if others and promised != len(tensors):
        yield f"its parts have {len(tensors)} tensors of {_brief(promised)}"
    for index, part in enumerate(others, 1):
        if part.metadata.get("split.no") != index:
            yield f"its part {index + 1} belongs elsewhere"


# -- what it says of itself ------------------------------------------------------


def _facts(header: Header, others: list[Header]) -> GgufHeader:
    metadata = header.metadata
    architecture = metadata["general.architecture"]
    tensors = _all_tensors(header, others)
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


def _all_tensors(header: Header, others: list[Header]) -> list[Tensor]:
    return [tensor for part in (header, *others) for tensor in part.tensors]


def _largest_type(tensors: list[Tensor]) -> str:
    sizes: dict[str, int] = {}
    for tensor in tensors:
        sizes[tensor.type] = sizes.get(tensor.type, 0) + tensor.elements
    return max(sizes, key=lambda type: sizes[type], default="")


def _each(value: Any) -> tuple[Any, ...]:
    """A value that is one for all layers, or an array with one for each."""
    if isinstance(value, Numbers):
        return tuple(value.values or ())
    return () if value is None else (value,)


def _numbers(value: Any) -> tuple[int, ...]:
    return tuple(number for number in _each(value) if isinstance(number, int))


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _brief(value: Any) -> str:
    if isinstance(value, Numbers | Strings):
        return "an array"
    shown = "missing" if value is None else repr(value)
    return shown if len(shown) <= 40 else shown[:39] + "…"


def _first_twice(texts: list[bytes]) -> str:
    seen: set[bytes] = set()
    for text in texts:
        if text in seen:
            return _brief(text.decode())
        seen.add(text)
    return ""
