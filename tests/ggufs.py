"""
Tiny GGUF models for tests: real files of real architectures, with random weights, made in milliseconds.

    path = tiny("llama").write(tmp_path / "tiny.gguf")          # loads in llama.cpp, chats nonsense
    tiny("gemma3", window=16), tiny("mamba"), tiny("lfm2")      # sliding window, recurrent, hybrid
    tiny("llama", vocabulary="spm")                             # SentencePiece with byte tokens
    tiny("qwen2", seed=7, layers=4, context=2048, template=QWEN_LIKE)

The weights depend on (architecture, seed, shape) only. The vocabulary is byte-level BPE: all 256 bytes,
a few merges (so that common words are one token), one token of 40 dashes (longer than
llama-cpp-python's 32-byte buffer), the control tokens of CONTROL and, user-defined, `<think>` and `</think>`.
Pure Python, no numpy, no gguf package. A `Gguf` can be bent before it is written (models/test_malformed.py).
"""

from __future__ import annotations

import math
import random
import struct
from array import array
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

U8, I8, U16, I16, U32, I32, F32, BOOL, STRING, ARRAY, U64, I64, F64 = range(13)
FORMS = {U8: "B", I8: "b", U16: "H", I16: "h", U32: "I", I32: "i", F32: "f", BOOL: "?",
         U64: "Q", I64: "q", F64: "d"}  # fmt: skip
NORMAL, UNKNOWN_TOKEN, CONTROL_TOKEN, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
TENSOR_F32, TENSOR_F16, TENSOR_Q8_0 = 0, 1, 8

CONTROL = ("<|endoftext|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>")
THINKING = ("<think>", "</think>")
TEMPLATE = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
QWEN_LIKE = (
    "{%- for m in messages %}{{- '<|' + m.role + '|>\\n' + m.content + '<|end|>\\n' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|assistant|>\\n' }}"
    "{%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\\n\\n</think>\\n\\n' }}"
    "{%- endif %}{%- endif %}"
)
WORDS = ("Ġthe", "Ġand", "Ġa", "Ġis", "Ġof", "Ġto", "Ġin", "Ġthis", "Ġtext", "the", "and", "ing", "ion", "is",
         "er", "positive", "negative", "neutral", "yes", "no")  # fmt: skip


# -- the format ------------------------------------------------------------------


def text_bytes(text: str | bytes) -> bytes:
    """A GGUF string."""
    raw = text.encode() if isinstance(text, str) else text
    return struct.pack("<Q", len(raw)) + raw


def value_bytes(kind: int, value: Any) -> bytes:
    """A GGUF value without its type; an array's value is (item type, items)."""
    if kind == STRING:
        return text_bytes(value)
    if kind == ARRAY:
        item, items = value
        head = struct.pack("<IQ", item, len(items))
        if item in FORMS:
            return head + struct.pack(f"<{len(items)}{FORMS[item]}", *items)
        return head + b"".join(value_bytes(item, one) for one in items)
    return struct.pack("<" + FORMS[kind], value)


@dataclass
class Tensor:
    """One tensor: its name, its shape (fastest first, as GGUF has it), type number and bytes."""

    name: str | bytes
    shape: tuple[int, ...]
    data: Any  # bytes, or a Hole
    type: int = TENSOR_F32
    offset: int | None = None  # None: where it belongs


@dataclass
class Gguf:
    """A GGUF file that is not written yet; every part can be replaced by a wrong one."""

    metadata: dict[str | bytes, tuple[int, Any]] = field(default_factory=dict)
    tensors: list[Tensor] = field(default_factory=list)
    version: int = 3
    magic: bytes = b"GGUF"
    key_count: int | None = None
    tensor_count: int | None = None
    alignment: int = 32

    def pack(self) -> bytes:
        """The file's bytes."""
        keys = b"".join(
            text_bytes(key) + struct.pack("<I", kind) + value_bytes(kind, value)
            for key, (kind, value) in self.metadata.items()
        )
        table, body = b"", b""
        for tensor in self.tensors:
            offset = len(body) if tensor.offset is None else tensor.offset
            table += text_bytes(tensor.name) + struct.pack("<I", len(tensor.shape))
            table += struct.pack(f"<{len(tensor.shape)}Q", *tensor.shape)
            table += struct.pack("<IQ", tensor.type, offset)
            body += tensor.data + bytes(-len(tensor.data) % self.alignment)
        counts = (
            len(self.tensors) if self.tensor_count is None else self.tensor_count,
            len(self.metadata) if self.key_count is None else self.key_count,
        )
        head = self.magic + struct.pack("<I", self.version) + struct.pack("<QQ", *counts) + keys + table
        return head + bytes(-len(head) % self.alignment) + body

    def write(self, path: Path) -> Path:
        """Write the file and give its path."""
        path.write_bytes(self.pack())
        return path

    def tensor(self, name: str) -> Tensor:
        """The tensor of that name."""
        return next(tensor for tensor in self.tensors if tensor.name == name)

    def set(self, key: str, kind: int, value: Any) -> Gguf:
        """Set one metadata value; gives the Gguf, so that calls can be chained."""
        self.metadata[key] = (kind, value)
        return self


# -- vocabularies ----------------------------------------------------------------


def byte_characters() -> list[str]:
    """GPT-2's printable stand-in for each byte."""
    kept = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = iter(range(256, 512))
    return [chr(byte if byte in kept else next(others)) for byte in range(256)]


def bpe_vocabulary() -> tuple[list[str], list[int], list[str]]:
    """Texts, types and merges of the byte-level vocabulary."""
    texts, merges = byte_characters(), []
    for word in WORDS:
        for end in range(2, len(word) + 1):
            if word[:end] not in texts:
                texts.append(word[:end])
                merges.append(f"{word[: end - 1]} {word[end - 1]}")
    texts.append("-" * 40)
    types = [NORMAL] * len(texts) + [CONTROL_TOKEN] * len(CONTROL) + [USER_DEFINED] * len(THINKING)
    return [*texts, *CONTROL, *THINKING], types, merges


def spm_vocabulary() -> tuple[list[str], list[int], list[float]]:
    """Texts, types and scores of a SentencePiece vocabulary with byte tokens."""
    letters = [chr(code) for code in range(33, 127)]
    pieces = [word.replace("Ġ", "▁") for word in WORDS if len(word) > 1]
    prefixes = [piece[:end] for piece in pieces for end in range(2, len(piece) + 1)]
    texts = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", *letters]
    types = [UNKNOWN_TOKEN, CONTROL_TOKEN, CONTROL_TOKEN, *[BYTE] * 256, *[NORMAL] * (1 + len(letters))]
    for prefix in dict.fromkeys(prefixes):
        texts.append(prefix)
        types.append(NORMAL)
    texts += [*CONTROL, *THINKING]
    types += [CONTROL_TOKEN] * len(CONTROL) + [USER_DEFINED] * len(THINKING)
    return texts, types, [float(-index) for index in range(len(texts))]


def tokenizer(vocabulary: str, words: int = 0) -> dict[str, tuple[int, Any]]:
    """The tokenizer's metadata: "bpe" (byte-level) or "spm" (SentencePiece), of at least `words` tokens."""
    if vocabulary == "spm":
        texts, types, scores = spm_vocabulary()
        scores += [-1e4] * max(0, words - len(texts))
        kind = {
            "tokenizer.ggml.model": (STRING, "llama"),
            "tokenizer.ggml.scores": (ARRAY, (F32, scores)),
            "tokenizer.ggml.add_space_prefix": (BOOL, True),
            "tokenizer.ggml.add_bos_token": (BOOL, True),
            "tokenizer.ggml.bos_token_id": (U32, 1),
        }
    else:
        texts, types, merges = bpe_vocabulary()
        kind = {
            "tokenizer.ggml.model": (STRING, "gpt2"),
            "tokenizer.ggml.pre": (STRING, "gpt-2"),
            "tokenizer.ggml.merges": (ARRAY, (STRING, merges)),
            "tokenizer.ggml.add_bos_token": (BOOL, False),
            "tokenizer.ggml.bos_token_id": (U32, texts.index("<|endoftext|>")),
        }
    filler = [f"[unused{index}]" for index in range(len(texts), words)]
    texts, types = texts + filler, types + [UNUSED] * len(filler)
    return {
        **kind,
        "tokenizer.ggml.tokens": (ARRAY, (STRING, texts)),
        "tokenizer.ggml.token_type": (ARRAY, (I32, types)),
        "tokenizer.ggml.eos_token_id": (U32, texts.index("<|end|>")),
    }


# -- models ----------------------------------------------------------------------


@dataclass(frozen=True)
class Shape:
    """The sizes of a tiny model; small enough to be made and loaded in a moment."""

    layers: int = 2
    width: int = 64
    heads: int = 4
    kv_heads: int = 2
    feed_forward: int = 96
    context: int = 512
    window: int = 32  # gemma3: tokens of its sliding window
    head_size: int = 0  # 0: width / heads

    @property
    def head(self) -> int:
        """Elements of one head."""
        return self.head_size or self.width // self.heads


class Weights:
    """Random tensors, the same for the same seed."""

    def __init__(self, seed: object) -> None:
        self.random = random.Random(str(seed))
        self.tensors: list[Tensor] = []

    def matrix(self, name: str, *shape: int, scale: float | None = None) -> None:
        """Of such a spread that what goes in keeps its size."""
        count = math.prod(shape)
        spread = shape[0] ** -0.5 if scale is None else scale
        draw, width = self.random.random, spread * 12**0.5  # evenly spread is as good as normal, and quicker
        values = array("f", ((draw() - 0.5) * width for _ in range(count)))
        self.tensors.append(Tensor(name, shape, values.tobytes()))

    def constant(self, name: str, value: float, *shape: int) -> None:
        """One value everywhere: norms, biases."""
        self.tensors.append(Tensor(name, shape, array("f", [value] * math.prod(shape)).tobytes()))


def tiny(
    architecture: str = "llama", *, seed: int = 1, vocabulary: str = "bpe", template: str | None = TEMPLATE,
    weights: Weights | None = None, words: int = 0, **sizes: int,
) -> Gguf:  # fmt: skip
    """
    A random model: llama, qwen2, gemma3 (sliding window), mamba (recurrent) or lfm2 (hybrid).

    `sizes` are fields of Shape. Give `template=None` for a file without a chat template; `words` fills the
    vocabulary up with that many unused tokens in all.
    """
    shape = Shape(**sizes)
    tokens = tokenizer(vocabulary, words)
    weights = weights or Weights((architecture, seed, shape))
    weights.matrix("token_embd.weight", shape.width, len(tokens["tokenizer.ggml.tokens"][1][1]), scale=0.5)
    norm = "token_embd_norm.weight" if architecture == "lfm2" else "output_norm.weight"
    weights.constant(norm, 1.0, shape.width)
    for layer in range(shape.layers):
        LAYERS[architecture](weights, f"blk.{layer}.", shape, layer)
    metadata = {
        "general.architecture": (STRING, architecture),
        "general.name": (STRING, f"tiny {architecture}"),
        "general.file_type": (U32, 0),
        **{f"{architecture}.{key}": value for key, value in _sizes(architecture, shape).items()},
        **tokens,
    }
    if template is not None:
        metadata["tokenizer.chat_template"] = (STRING, template)
    return Gguf(metadata, weights.tensors)


NAN = b"\xff\xff\xff\x7f"


def without_numbers(made: Gguf) -> Gguf:
    """A model that gives NaN behind any text."""
    norm = made.tensor("output_norm.weight")
    norm.data = NAN * (len(norm.data) // 4)
    return made


def without_numbers_for(character: str, made: Gguf) -> Gguf:
    """A model (byte-level BPE) that gives NaN behind any text with this character, numbers behind others."""
    words = made.tensor("token_embd.weight")
    made.tensors.append(Tensor("output.weight", words.shape, words.data))
    row = 4 * words.shape[0]
    start = bpe_vocabulary()[0].index(character) * row
    words.data = words.data[:start] + NAN * words.shape[0] + words.data[start + row :]
    return made


def _sizes(architecture: str, shape: Shape) -> dict[str, tuple[int, Any]]:
    common = {
        "context_length": (U32, shape.context),
        "embedding_length": (U32, shape.width),
        "block_count": (U32, shape.layers),
        "feed_forward_length": (U32, shape.feed_forward),
        "attention.head_count": (U32, shape.heads),
        "attention.head_count_kv": (U32, shape.kv_heads),
        "attention.layer_norm_rms_epsilon": (F32, 1e-5),
    }
    if architecture == "gemma3":
        common |= {
            "attention.key_length": (U32, shape.head),
            "attention.value_length": (U32, shape.head),
            "attention.sliding_window": (U32, shape.window),
        }
    if architecture == "mamba":
        common |= {
            "feed_forward_length": (U32, 0),
            "attention.head_count": (U32, 0),
            "attention.head_count_kv": (U32, 0),
            "ssm.conv_kernel": (U32, 4),
            "ssm.inner_size": (U32, 2 * shape.width),
            "ssm.state_size": (U32, 16),
            "ssm.time_step_rank": (U32, shape.width // 16),
        }
    if architecture == "lfm2":  # every other layer a short convolution, the others attention
        kv_heads = [0 if layer % 2 == 0 else shape.kv_heads for layer in range(shape.layers)]
        common |= {
            "attention.head_count_kv": (ARRAY, (I32, kv_heads)),
            "shortconv.l_cache": (U32, 3),
        }
    return common


def _attention(weights: Weights, blk: str, shape: Shape) -> None:
    queries, keys = shape.head * shape.heads, shape.head * shape.kv_heads
    weights.constant(f"{blk}attn_norm.weight", 1.0, shape.width)
    weights.matrix(f"{blk}attn_q.weight", shape.width, queries)
    weights.matrix(f"{blk}attn_k.weight", shape.width, keys)
    weights.matrix(f"{blk}attn_v.weight", shape.width, keys)
    weights.matrix(f"{blk}attn_output.weight", queries, shape.width)


def _feed_forward(weights: Weights, blk: str, shape: Shape) -> None:
    weights.constant(f"{blk}ffn_norm.weight", 1.0, shape.width)
    weights.matrix(f"{blk}ffn_gate.weight", shape.width, shape.feed_forward)
    weights.matrix(f"{blk}ffn_up.weight", shape.width, shape.feed_forward)
    weights.matrix(f"{blk}ffn_down.weight", shape.feed_forward, shape.width)


def _llama(weights: Weights, blk: str, shape: Shape, layer: int) -> None:
    _attention(weights, blk, shape)
    _feed_forward(weights, blk, shape)


def _qwen2(weights: Weights, blk: str, shape: Shape, layer: int) -> None:
    _llama(weights, blk, shape, layer)
    weights.matrix(f"{blk}attn_q.bias", shape.width)
    weights.matrix(f"{blk}attn_k.bias", shape.head * shape.kv_heads)
    weights.matrix(f"{blk}attn_v.bias", shape.head * shape.kv_heads)


def _gemma3(weights: Weights, blk: str, shape: Shape, layer: int) -> None:
    _llama(weights, blk, shape, layer)
    for name, size in (
        ("attn_q_norm", shape.head), ("attn_k_norm", shape.head),
        ("post_attention_norm", shape.width), ("post_ffw_norm", shape.width),
    ):  # fmt: skip
        weights.constant(f"{blk}{name}.weight", 1.0, size)


def _mamba(weights: Weights, blk: str, shape: Shape, layer: int) -> None:
    inner, state, rank = 2 * shape.width, 16, shape.width // 16
    weights.constant(f"{blk}attn_norm.weight", 1.0, shape.width)
    weights.matrix(f"{blk}ssm_in.weight", shape.width, 2 * inner)
    weights.matrix(f"{blk}ssm_conv1d.weight", 4, inner)
    weights.constant(f"{blk}ssm_conv1d.bias", 0.0, inner)
    weights.matrix(f"{blk}ssm_x.weight", inner, rank + 2 * state)
    weights.matrix(f"{blk}ssm_dt.weight", rank, inner)
    weights.constant(f"{blk}ssm_dt.bias", -2.0, inner)
    weights.constant(f"{blk}ssm_a", -1.0, state, inner)
    weights.constant(f"{blk}ssm_d", 1.0, inner)
    weights.matrix(f"{blk}ssm_out.weight", inner, shape.width)


def _lfm2(weights: Weights, blk: str, shape: Shape, layer: int) -> None:
    if layer % 2:
        _attention(weights, blk, shape)
        weights.constant(f"{blk}attn_q_norm.weight", 1.0, shape.head)
        weights.constant(f"{blk}attn_k_norm.weight", 1.0, shape.head)
    else:
        weights.constant(f"{blk}attn_norm.weight", 1.0, shape.width)
        weights.matrix(f"{blk}shortconv.conv.weight", 3, shape.width)
        weights.matrix(f"{blk}shortconv.in_proj.weight", shape.width, 3 * shape.width)
        weights.matrix(f"{blk}shortconv.out_proj.weight", shape.width, shape.width)
    _feed_forward(weights, blk, shape)


@dataclass
class Hole:
    """Stands for a tensor's bytes: so many zeros, which a sparse file need not store."""

    size: int

    def __len__(self) -> int:
        return self.size


class HollowWeights(Weights):
    """Tensors of the right size with nothing in them: matrices of Q8_0, vectors of F32."""

    def matrix(self, name: str, *shape: int, scale: float | None = None) -> None:
        if len(shape) == 1:
            self.constant(name, 0.0, *shape)
        else:
            self.tensors.append(Tensor(name, shape, Hole(math.prod(shape) // 32 * 34), TENSOR_Q8_0))

    def constant(self, name: str, value: float, *shape: int) -> None:
        self.tensors.append(Tensor(name, shape, Hole(4 * math.prod(shape))))


def write_hollow(path: Path, architecture: str, words: int, **sizes: int) -> Path:
    """
    A model of a real shape as a sparse file: gigabytes that take no room and load in a second.

    Its weights are zeros, so it says nothing; for estimates of memory it is as good as the real one.
    `words` is the vocabulary's size, `sizes` are fields of Shape.
    """
    model = tiny(architecture, weights=HollowWeights(0), words=words, **sizes)
    body, place = 0, []
    for tensor in model.tensors:
        place.append(body)
        body += len(tensor.data) + -len(tensor.data) % model.alignment
        tensor.offset = place[-1]
    tensors, model.tensors = model.tensors, []
    for tensor in tensors:
        model.tensors.append(Tensor(tensor.name, tensor.shape, b"", tensor.type, tensor.offset))
    head = model.pack()
    with path.open("wb") as file:
        file.write(head)
        file.truncate(len(head) + body)
    return path


def write_split(folder: Path) -> tuple[Path, Path]:
    """A model in two parts, as llama.cpp's gguf-split makes them."""
    whole = tiny()
    paths = []
    for number, tensors in enumerate((whole.tensors[:5], whole.tensors[5:])):
        part = Gguf(dict(whole.metadata) if number == 0 else {}, tensors)
        part.set("split.no", U16, number).set("split.count", U16, 2)
        part.set("split.tensors.count", I32, len(whole.tensors))
        paths.append(part.write(folder / f"m-{number + 1:05}-of-00002.gguf"))
    return paths[0], paths[1]


LAYERS = {"llama": _llama, "qwen2": _qwen2, "gemma3": _gemma3, "mamba": _mamba, "lfm2": _lfm2}
