"""
How much memory a model takes: its weights, its KV cache, its compute buffers. Computed from its metadata.

As llama.cpp allocates: within 10 % of what it logs (llama-cpp-python 0.3.36) for the shapes of Qwen2.5
0.5B, Llama 3.2 1B and Gemma 3 1B; see tests/models/test_memory.py. Where the processor has its own
layout of the weights, llama.cpp keeps a copy of them beside the file's pages, which the system may drop.
"""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from llmcli.kv_types import ELEMENT_BYTES
from llmcli.models.gguf import GgufHeader

UBATCH = 512  # tokens of one pass on a GPU; on a processor it is half of that
CELLS = 256  # the KV cache grows in steps of so many tokens
CONTEXTS = (512, 1024, 2048, 4096, 8192, 16384, 32768, 65536, 131072, 262144, 1048576)


class Memory(Struct, frozen=True):
    """Bytes."""

    weights: int
    kv: int
    compute: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.kv + self.compute


def estimate(header: GgufHeader, context: int, sequences: int = 1, kv_type: str | None = None) -> Memory:
    """
    The memory of a model with a context of so many tokens in all, shared by so many sequences.

    Sliding windows count in full, since the engine keeps the whole context of them too.
    """
    cells = -(-context // CELLS) * CELLS
    per_token = _kv_elements(header) * ELEMENT_BYTES[kv_type or "f16"]
    kv = int(cells * per_token) + sequences * _state_bytes(header)
    widest = max(header.vocabulary, *_per_layer(header, "feed_forward_length", 0))
    compute = min(UBATCH, cells) * (widest + 2 * header.embedding) * 4
    return Memory(header.tensor_bytes, kv, compute)


def largest_context(header: GgufHeader, budget: int) -> int:
    """
    The longest context, in tokens, with which a model takes at most `budget` bytes; 0 where none does.

    The model's own, or a power of two below it.
    """
    sizes = [size for size in CONTEXTS if size < header.context_length] + [header.context_length]
    return max((size for size in sizes if estimate(header, size).total <= budget), default=0)


def _kv_elements(header: GgufHeader) -> int:
    """Elements of keys and values that one token takes, in all layers that keep any."""
    heads = _each(header.heads, header.block_count)
    kv_heads = _each(header.kv_heads, header.block_count)
    elements = 0
    for layer in range(header.block_count):
        if kv_heads[layer] == 0:
            continue
        usual = header.embedding // max(1, heads[layer])
        key = _number(header, "attention.key_length") or usual
        value = _number(header, "attention.value_length") or usual
        elements += kv_heads[layer] * (key + value)
    return elements


def _state_bytes(header: GgufHeader) -> int:
    """Bytes of one sequence's state in recurrent layers (mamba, short convolutions), F32."""
    inner = _number(header, "ssm.inner_size")
    if inner:
        state = _number(header, "ssm.state_size")
        groups = _number(header, "ssm.group_count")
        kernel = _number(header, "ssm.conv_kernel", 1)
        layers = header.block_count - sum(heads > 0 for heads in _each(header.kv_heads, header.block_count))
        return int(layers * 4 * (state * inner + (kernel - 1) * (inner + 2 * groups * state)))
    kernel = _number(header, "shortconv.l_cache")
    if kernel:
        layers = sum(heads == 0 for heads in _each(header.kv_heads, header.block_count))
        return int(layers * 4 * (kernel - 1) * header.embedding)
    return 0


def _number(header: GgufHeader, name: str, default: int = 0) -> int:
    """A size that only llama.cpp checks: what is no number counts as not given."""
    value = header.of_architecture(name)
    return value if isinstance(value, int) else default


def _per_layer(header: GgufHeader, key: str, default: int) -> tuple[int, ...]:
    value: Any = header.of_architecture(key, default)
    return (
        tuple(value) if isinstance(value, list) and value else (value if isinstance(value, int) else default,)
    )


def _each(values: tuple[int, ...], layers: int) -> tuple[int, ...]:
    """One number for every layer."""
    if len(values) == layers:
        return values
    return (values[0] if values else 0,) * layers
