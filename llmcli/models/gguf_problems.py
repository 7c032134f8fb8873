"""
What keeps a well-formed GGUF from being run: sizes, vocabularies and tensors that llama.cpp would abort on.

Judges what `gguf_reader` has read, and gives one line for each thing that is wrong.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Any

from llmcli.models.gguf_reader import INTEGERS, TOKENS, Header, Numbers, Strings, Tensor

MAX_LAYERS = 512  # LLAMA_MAX_LAYERS
MAX_EXPERTS = 512  # LLAMA_MAX_EXPERTS in llama.cpp 0c1e57098
BYTE_TOKEN = 6  # LLAMA_TOKEN_TYPE_BYTE
LAYER_NAME = re.compile(r"(?:enc\.|dec\.)?blk\.(\d{1,5})\.")


def problems(header: Header, others: list[Header]) -> Iterator[str]:
    """What is wrong with a model, whose other parts are `others` where it is split."""
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
        for value in each(header.metadata.get(f"{architecture}.{name}")):
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
        return max((number for number in each(value) if isinstance(number, int)), default=0)

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
    tensors = all_tensors(header, others)
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


def all_tensors(header: Header, others: list[Header]) -> list[Tensor]:
    """The tensors of all parts."""
    return [tensor for part in (header, *others) for tensor in part.tensors]


def each(value: Any) -> tuple[Any, ...]:
    """A value that is one for all layers, or an array with one for each."""
    if isinstance(value, Numbers):
        return tuple(value.values or ())
    return () if value is None else (value,)


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
