"""
Build a GGUF with random weights in the exact shape of a real model: as fast as the real one, and free.

    python benchmarks/make_model.py [--source LLAMA.CPP] [--type Q4_K_M]

Vocabulary, merges and chat template are Qwen2's own, from the vocabulary file that llama.cpp ships for its
tests, so a text is as many tokens as in the real model. What the model writes is nonsense. Quantised by
llama.cpp itself. The file lies in the benchmarks' folder outside the repository (build_llama.py) and is
built once.
"""

from __future__ import annotations

import argparse
import ctypes
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from build_llama import fetch, work_folder

U32, F32, STRING, ARRAY = 4, 6, 8, 9  # GGUF value types
SIZES = {0: 1, 1: 1, 2: 2, 3: 2, U32: 4, 5: 4, F32: 4, 7: 1, 10: 8, 11: 8, 12: 8}
TENSOR_F32, TENSOR_F16 = 0, 1
ALIGNMENT = 32
SPREAD = 0.02  # as Qwen's own weights begin


@dataclass(frozen=True)
class Shape:
    """Sizes of a Qwen2 model with tied embeddings; the vocabulary is the file's."""

    name: str
    layers: int
    width: int
    feed_forward: int
    heads: int
    kv_heads: int
    context: int


# https://huggingface.co/Qwen/Qwen2.5-0.5B-Instruct/blob/main/config.json
QWEN_HALF_B = Shape(
    "qwen2.5-0.5b", layers=24, width=896, feed_forward=4864, heads=14, kv_heads=2, context=32768
)


def model_file(kind: str = "Q4_K_M") -> Path:
    """Where the quantised model lies, or will."""
    return work_folder() / f"{QWEN_HALF_B.name}-random-{kind}.gguf"


def tokenizer_of(path: Path) -> tuple[list[bytes], int]:
    """The tokenizer's entries of a GGUF, as they stand in the file, and the number of tokens."""
    data, position = path.read_bytes(), 24
    (count,) = struct.unpack_from("<Q", data, 16)
    entries, tokens = [], 0
    for _ in range(count):
        start = position
        key, position = _text(data, position)
        (kind,) = struct.unpack_from("<I", data, position)
        end = _skip(data, position + 4, kind)
        if key == b"tokenizer.ggml.tokens":
            (tokens,) = struct.unpack_from("<Q", data, position + 8)
        if key.startswith(b"tokenizer."):
            entries.append(data[start:end])
        position = end
    return entries, tokens


def _text(data: bytes, position: int) -> tuple[bytes, int]:
    (length,) = struct.unpack_from("<Q", data, position)
    return data[position + 8 : position + 8 + length], position + 8 + length


def _skip(data: bytes, position: int, kind: int) -> int:
    """Where a value ends."""
    if kind == STRING:
        return _text(data, position)[1]
    if kind != ARRAY:
        return position + SIZES[kind]
    item, count = struct.unpack_from("<IQ", data, position)
    position += 12
    if item != STRING:
        return position + count * SIZES[item]
    for _ in range(count):
        position += 8 + struct.unpack_from("<Q", data, position)[0]
    return position


def metadata(shape: Shape) -> Iterator[bytes]:
    """The entries that say what kind of model it is."""
    yield _entry("general.architecture", STRING, "qwen2")
    yield _entry("general.name", STRING, f"{shape.name} with random weights")
    numbers = {
        "context_length": shape.context,
        "embedding_length": shape.width,
        "block_count": shape.layers,
        "feed_forward_length": shape.feed_forward,
        "attention.head_count": shape.heads,
        "attention.head_count_kv": shape.kv_heads,
    }
    for key, value in numbers.items():
        yield _entry(f"qwen2.{key}", U32, value)
    yield _entry("qwen2.rope.freq_base", F32, 1_000_000.0)
    yield _entry("qwen2.attention.layer_norm_rms_epsilon", F32, 1e-6)


def _entry(key: str, kind: int, value: str | float) -> bytes:
    head = _packed(key) + struct.pack("<I", kind)
    if isinstance(value, str):
        return head + _packed(value)
    return head + struct.pack("<I" if kind == U32 else "<f", value)


def _packed(text: str) -> bytes:
    raw = text.encode()
    return struct.pack("<Q", len(raw)) + raw


def tensors(shape: Shape, vocabulary: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes, the fastest dimension first."""
    width, keys = shape.width, shape.width // shape.heads * shape.kv_heads
    yield "token_embd.weight", (width, vocabulary)
    yield "output_norm.weight", (width,)
    for layer in range(shape.layers):
        sizes: dict[str, tuple[int, ...]] = {
            "attn_norm.weight": (width,),
            "attn_q.weight": (width, width),
            "attn_q.bias": (width,),
            "attn_k.weight": (width, keys),
            "attn_k.bias": (keys,),
            "attn_v.weight": (width, keys),
            "attn_v.bias": (keys,),
            "attn_output.weight": (width, width),
            "ffn_norm.weight": (width,),
            "ffn_gate.weight": (width, shape.feed_forward),
            "ffn_up.weight": (width, shape.feed_forward),
            "ffn_down.weight": (shape.feed_forward, width),
        }
        yield from ((f"blk.{layer}.{name}", size) for name, size in sizes.items())


def write(path: Path, shape: Shape, vocabulary: Path) -> None:
    """A GGUF in half precision: matrices random, norms 1."""
    entries, tokens = tokenizer_of(vocabulary)
    entries = [*metadata(shape), *entries]
    wanted = list(tensors(shape, tokens))
    table, offset = b"", 0
    for name, size in wanted:
        kind = TENSOR_F16 if len(size) == 2 else TENSOR_F32
        table += _packed(name) + struct.pack(f"<I{len(size)}QIQ", len(size), *size, kind, offset)
        offset += _padded(int(np.prod(size)) * (2 if len(size) == 2 else 4))
    head = struct.pack("<4sIQQ", b"GGUF", 3, len(wanted), len(entries)) + b"".join(entries) + table
    chance = np.random.default_rng(1)
    with path.open("wb") as file:
        file.write(head.ljust(_padded(len(head)), b"\0"))
        for name, size in wanted:
            raw = _values(name, size, chance).tobytes()
            file.write(raw.ljust(_padded(len(raw)), b"\0"))


def _values(name: str, size: tuple[int, ...], chance: np.random.Generator) -> np.ndarray:
    if name.endswith("norm.weight"):
        return np.ones(size, np.float32)
    values = chance.standard_normal(size, np.float32) * np.float32(SPREAD)
    return values.astype(np.float16) if len(size) == 2 else values


def _padded(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def quantise(source: Path, out: Path, kind: str) -> None:
    """Quantise as llama-quantize does."""
    from llama_cpp import llama_cpp as lib

    params = lib.llama_model_quantize_default_params()
    params.ftype = getattr(lib, f"LLAMA_FTYPE_MOSTLY_{kind}")
    params.nthread = 2
    if lib.llama_model_quantize(str(source).encode(), str(out).encode(), ctypes.byref(params)):
        raise SystemExit(f"llama.cpp cannot quantise {source} to {kind}")


def make(source: Path, kind: str = "Q4_K_M") -> Path:
    """The quantised model, built where it is missing; `source` is an unpacked llama.cpp."""
    out = model_file(kind)
    if not out.exists():
        out.parent.mkdir(parents=True, exist_ok=True)
        exact, unfinished = out.with_suffix(".f16"), out.with_suffix(".part")
        write(exact, QWEN_HALF_B, source / "models" / "ggml-vocab-qwen2.gguf")
        quantise(exact, unfinished, kind)
        unfinished.replace(out)
        exact.unlink()
    return out


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--source", type=Path, help="an unpacked llama.cpp")
    parser.add_argument("--type", default="Q4_K_M")
    given = parser.parse_args()
    made = make(given.source or fetch(work_folder()), given.type)
    print(f"{made} ({made.stat().st_size / 1e6:,.0f} MB)")
