"""
A corpus of broken GGUFs: each one fault away from a tiny model that loads.

    for name, data in corpus(): …          # more than 150, by name
    for number, data in mutations(count, seed): …      # random damage to the header

`FIT` names the few that are odd but good. Used by tests/models (the check) and tests/engines (the child).
"""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache

import ggufs
from ggufs import ARRAY, BYTE, F32, F64, I32, STRING, U32, U64, Gguf, Tensor, text_bytes, tiny

Bend = Callable[[Gguf], object]
NAN, INFINITE = float("nan"), float("inf")
TOKENS, TYPES, MERGES = "tokenizer.ggml.tokens", "tokenizer.ggml.token_type", "tokenizer.ggml.merges"
EPSILON = "llama.attention.layer_norm_rms_epsilon"


_good = cache(lambda vocabulary: tiny("llama", vocabulary=vocabulary))
_bytes = cache(lambda vocabulary: _good(vocabulary).pack())


def model(vocabulary: str = "bpe") -> Gguf:
    """A fresh good model, to be bent."""
    good = _good(vocabulary)
    return Gguf(dict(good.metadata), [replace(tensor) for tensor in good.tensors])


def corpus() -> Iterator[tuple[str, bytes]]:
    """Every case: a name, and the file's bytes."""
    yield from _strangers()
    yield from _cuts()
    yield from _lies()
    for name, bend in {**_metadata(), **_shape(), **_tensors()}.items():
        bent = model()
        bend(bent)
        yield name, bent.pack()
    yield from _tokenizers()


FIT = frozenset({"version 2", "empty token text", "two empty tokens", "no bos", "chat template missing"})
FIT |= {"unknown keys", "alignment 64", "no heads for kv"}


# -- not a GGUF at all ------------------------------------------------------------


def _strangers() -> Iterator[tuple[str, bytes]]:
    good = _bytes("bpe")
    yield "empty", b""
    yield "one byte", b"G"
    yield "three bytes", b"GGU"
    yield "magic only", b"GGUF"
    yield "magic and half a version", b"GGUF\3\0"
    yield "html", b"<!DOCTYPE html><html><body>404</body></html>" * 50
    yield "html with a BOM and blanks", b"  \r\n<html>" + b" " * 400
    yield (
        "lfs pointer",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 9\n",
    )
    yield "zip", b"PK\x03\x04" + bytes(500)
    yield "gzip", b"\x1f\x8b\x08" + bytes(500)
    yield "json", b'{"error": "not found"}' + b" " * 200
    yield (
        "safetensors",
        struct.pack("<Q", 60) + b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}' + bytes(40),
    )
    yield "pdf", b"%PDF-1.7\n" + bytes(300)
    yield "ggml of old", b"lmgg" + bytes(300)
    yield "ggjt of old", b"tjgg" + struct.pack("<I", 3) + bytes(300)
    yield "zeros", bytes(4096)
    yield "noise", random.Random(3).randbytes(4096)
    yield "text", b"Once upon a time " * 40
    yield "big-endian", b"GGUF" + struct.pack(">IQQ", 3, 1, 1) + bytes(200)
    yield "lower case magic", b"gguf" + good[4:]
    for version in (0, 1, 4, 5, 99, 0xFFFF, 0x00030000):
        yield f"version {version}", b"GGUF" + struct.pack("<I", version) + good[8:]
    yield "version 2", b"GGUF" + struct.pack("<I", 2) + good[8:]
    yield "two headers", good[:24] + good


# -- cut short ----------------------------------------------------------------------


def _cuts() -> Iterator[tuple[str, bytes]]:
    good = _bytes("bpe")
    for size in (8, 12, 16, 20, 23, 24, 28, 31, 32, 40, 64, 100, 1000, 4000, 8000):
        yield f"cut at byte {size}", good[:size]
    for percent in (10, 25, 50, 75, 90, 99):
        yield f"cut at {percent} %", good[: len(good) * percent // 100]
    yield "one byte short of its tensors", good[:-33]


# -- counts and lengths that lie -------------------------------------------------------


def _lies() -> Iterator[tuple[str, bytes]]:
    for count in (0, 1, 3, 10_000, 2**31, 2**32, 2**60, 2**63, 2**64 - 1):
        bent = model()
        bent.key_count = count
        yield f"{count} keys", bent.pack()
    for count in (0, 1, 5, 1000, 2**32, 2**60, 2**63, 2**64 - 1):
        bent = model()
        bent.tensor_count = count
        yield f"{count} tensors", bent.pack()
    good = _bytes("bpe")
    for length in (0, 1, 2**16, 2**31, 2**32, 2**63, 2**64 - 1):
        yield f"first key of {length} bytes", good[:24] + struct.pack("<Q", length) + good[32:]
    place = good.index(text_bytes(TOKENS)) + len(text_bytes(TOKENS))
    for count in (0, 1, 10**6, 2**31, 2**61, 2**64 - 1):
        lie = struct.pack("<IIQ", ARRAY, STRING, count)
        yield f"{count} tokens said", good[:place] + lie + good[place + len(lie) :]
    for kind in (ARRAY, 13, 100, 2**32 - 1):
        lie = struct.pack("<II", ARRAY, kind)
        yield f"tokens of type {kind}", good[:place] + lie + good[place + 8 :]
    for kind in (13, 255, 2**31, 2**32 - 1):
        yield f"a value of type {kind}", good[:place] + struct.pack("<I", kind) + good[place + 4 :]
    name = good.index(text_bytes("general.name")) + len(text_bytes("general.name")) + 4
    for length in (2**20, 2**40, 2**64 - 1):
        yield f"a name of {length} bytes", good[:name] + struct.pack("<Q", length) + good[name + 8 :]


# -- metadata --------------------------------------------------------------------------


def _set(key: str, kind: int, value: object) -> Bend:
    return lambda gguf: gguf.set(key, kind, value)


def _drop(key: str) -> Bend:
    def bend(gguf: Gguf) -> None:
        del gguf.metadata[key]

    return bend


def _metadata() -> dict[str, Bend]:
    cases: dict[str, Bend] = {
        "architecture missing": _drop("general.architecture"),
        "architecture a number": _set("general.architecture", U32, 7),
        "architecture empty": _set("general.architecture", STRING, ""),
        "architecture with a slash": _set("general.architecture", STRING, "../llama"),
        "architecture of 3,000 letters": _set("general.architecture", STRING, "a" * 3000),
        "architecture clip": _set("general.architecture", STRING, "clip"),
        "a LoRA adapter": _set("general.type", STRING, "adapter"),
        "an image encoder": _set("general.type", STRING, "mmproj"),
        "name not UTF-8": _set("general.name", STRING, b"caf\xe9"),
        "template not UTF-8": _set("tokenizer.chat_template", STRING, b"{{ '\xff' }}"),
        "template a number": _set("tokenizer.chat_template", U32, 1),
        "key not UTF-8": _set(b"caf\xe9", U32, 1),
        "key empty": _set("", U32, 1),
        "key of 70,000 bytes": _set("k" * 70_000, U32, 1),
        "unknown keys": _set("somebody.else", STRING, "x"),
        "chat template missing": _drop("tokenizer.chat_template"),
        "array of arrays": _set("x", ARRAY, (ARRAY, [(ggufs.U8, [1]), (ggufs.U8, [2])])),
        "strings not UTF-8": _set("x", ARRAY, (STRING, [b"ok", b"\xc3\x28"])),
        "alignment 64": _aligned(64),
        "alignment as u64": _set("general.alignment", U64, 32),
        "alignment a text": _set("general.alignment", STRING, "32"),
    }
    for value in (0, 1, 2, 3, 7, 8, 16, 24, 33, 48, 2**31, 2**32 - 1):
        cases[f"alignment {value}"] = _set("general.alignment", U32, value)
    return cases


def _aligned(alignment: int) -> Bend:
    def bend(gguf: Gguf) -> Gguf:
        gguf.alignment = alignment
        return gguf.set("general.alignment", U32, alignment)

    return bend


def _shape() -> dict[str, Bend]:
    cases: dict[str, Bend] = {}
    for key in ("context_length", "embedding_length", "block_count"):
        cases[f"{key} missing"] = _drop(f"llama.{key}")
        cases[f"{key} 0"] = _set(f"llama.{key}", U32, 0)
        cases[f"{key} 4294967295"] = _set(f"llama.{key}", U32, 2**32 - 1)
        cases[f"{key} negative"] = _set(f"llama.{key}", I32, -1)
        cases[f"{key} a float"] = _set(f"llama.{key}", F32, 64.0)
        cases[f"{key} a text"] = _set(f"llama.{key}", STRING, "64")
    for layers in (513, 1000, 100_000):
        cases[f"{layers} layers"] = _set("llama.block_count", U32, layers)
    for name, value in (
        ("0.5 below 0", -0.5),
        ("NaN", NAN),
        ("infinite", INFINITE),
        ("-0.0001", -1e-4),
        ("5", 5.0),
    ):
        cases[f"epsilon {name}"] = _set(EPSILON, F32, value)
    cases["epsilon a text"] = _set(EPSILON, STRING, "1e-5")
    cases["width twice the tensors'"] = _set("llama.embedding_length", U32, 128)
    cases["width half the tensors'"] = _set("llama.embedding_length", U32, 32)
    cases["heads negative"] = _set("llama.attention.head_count", I32, -4)
    cases["heads a text"] = _set("llama.attention.head_count", STRING, "4")
    cases["heads 2**31"] = _set("llama.attention.head_count", U32, 2**31)
    cases["no heads for kv"] = _drop("llama.attention.head_count_kv")
    cases["rope dimensions odd"] = _set("llama.rope.dimension_count", U32, 15)
    cases["rope base 0"] = _set("llama.rope.freq_base", F32, 0.0)
    cases["rope base NaN"] = _set("llama.rope.freq_base", F32, NAN)
    cases["rope base negative"] = _set("llama.rope.freq_base", F32, -10000.0)
    cases["rope scale NaN"] = _set("llama.rope.scaling.factor", F32, NAN)
    cases["experts 1,000"] = _set("llama.expert_count", U32, 1000)
    cases["experts used and none there"] = _set("llama.expert_used_count", U32, 2)

    def experts(count: int, used: int, groups: int = 0) -> Bend:
        return lambda gguf: (
            gguf.set("llama.expert_count", U32, count)
            .set("llama.expert_used_count", U32, used)
            .set("llama.expert_group_count", U32, groups)
        )

    cases["more experts used than there"] = experts(4, 8)
    cases["experts and none used"] = experts(4, 0)
    cases["expert groups that do not divide"] = experts(8, 2, 3)
    cases["as many groups as experts"] = experts(8, 2, 8)
    return cases


# -- tokenizer --------------------------------------------------------------------------


def _tokens(change: Callable[[list], object], vocabulary: str = "bpe") -> bytes:
    bent = model(vocabulary)
    texts = list(bent.metadata[TOKENS][1][1])
    change(texts)
    bent.metadata[TOKENS] = (ARRAY, (STRING, texts))
    return bent.pack()


def _put(place: int, text: str | bytes) -> Callable[[list], object]:
    def change(texts: list) -> None:
        texts[place] = text

    return change


def _tokenizers() -> Iterator[tuple[str, bytes]]:
    yield "duplicate token", _tokens(_put(40, "!"))
    yield "duplicate of the last", _tokens(_put(3, "</think>"))
    yield "token not UTF-8", _tokens(_put(5, b"\xff\xfe"))
    yield "token cut inside a character", _tokens(_put(5, b"\xe2\x82"))
    yield "empty token text", _tokens(_put(200, ""))
    yield "a token too few", _tokens(lambda texts: texts.pop())
    yield "a token too many", _tokens(lambda texts: texts.append("extra"))
    yield "half the tokens", _tokens(lambda texts: texts.__delitem__(slice(150, None)))
    yield "SPM without a byte token", _tokens(_put(3 + 200, "nothing"), "spm")
    yield (
        "SPM without byte tokens",
        _tokens(lambda t: [t.__setitem__(3 + i, f"x{i}y") for i in range(256)], "spm"),
    )
    yield "SPM byte token misspelt", _tokens(_put(3 + 65, "<0xZZ>"), "spm")

    def two_empty(texts: list) -> None:
        texts[200] = texts[201] = ""

    yield "two empty tokens", _tokens(two_empty)
    for name, bend in {
        "tokenizer model missing": _drop("tokenizer.ggml.model"),
        "tokenizer none": _set("tokenizer.ggml.model", STRING, "none"),
        "tokenizer no_vocab": _set("tokenizer.ggml.model", STRING, "no_vocab"),
        "tokenizer a number": _set("tokenizer.ggml.model", U32, 1),
        "tokens missing": _drop(TOKENS),
        "tokens empty": _set(TOKENS, ARRAY, (STRING, [])),
        "tokens numbers": _set(TOKENS, ARRAY, (U32, [1, 2, 3])),
        "tokens one text": _set(TOKENS, STRING, "a b c"),
        "merges missing": _drop(MERGES),
        "merges numbers": _set(MERGES, ARRAY, (U32, [1, 2])),
        "merges a text": _set(MERGES, STRING, "a b"),
        "merges not UTF-8": _set(MERGES, ARRAY, (STRING, [b"\xff \xfe"])),
        "types too few": _set(TYPES, ARRAY, (I32, [1] * 10)),
        "types of floats": _set(TYPES, ARRAY, (F32, [1.0] * 400)),
        "types a number": _set(TYPES, U32, 1),
        "types all bytes": _set(TYPES, ARRAY, (I32, [BYTE] * 400)),
        "scores too few": _set("tokenizer.ggml.scores", ARRAY, (F32, [0.0] * 3)),
        "scores texts": _set("tokenizer.ggml.scores", ARRAY, (STRING, ["a"] * 400)),
        "scores doubles": _set("tokenizer.ggml.scores", ARRAY, (F64, [0.0] * 400)),
        "bos a text": _set("tokenizer.ggml.bos_token_id", STRING, "<s>"),
        "no bos": _drop("tokenizer.ggml.bos_token_id"),
    }.items():
        bent = model()
        bend(bent)
        yield name, bent.pack()


# -- tensors ----------------------------------------------------------------------------


def _on(tensor: str, **changes: object) -> Bend:
    def bend(gguf: Gguf) -> None:
        for name, value in changes.items():
            setattr(gguf.tensor(tensor), name, value)

    return bend


def _tensors() -> dict[str, Bend]:
    first, gate = "token_embd.weight", "blk.0.ffn_gate.weight"
    cases: dict[str, Bend] = {
        "no tensors": lambda gguf: gguf.tensors.clear(),
        "embedding missing": lambda gguf: gguf.tensors.pop(0),
        "tensor twice": lambda gguf: gguf.tensors.append(gguf.tensor(gate)),
        "tensor without a name": _on(gate, name=""),
        "tensor name of 64 bytes": _on(gate, name="n" * 64),
        "tensor name of 100,000 bytes": _on(gate, name="n" * 100_000),
        "tensor name not UTF-8": _on(gate, name=b"\xff"),
        "no dimensions": _on(gate, shape=()),
        "five dimensions": _on(gate, shape=(64, 96, 1, 1, 1)),
        "a dimension of 0": _on(gate, shape=(0, 96)),
        "a dimension of 2**63": _on(gate, shape=(2**63, 96)),
        "dimensions that overflow": _on(gate, shape=(2**32, 2**32)),
        "dimensions that overflow to little": _on(gate, shape=(2**33, 2**31)),
        "more rows than bytes": _on(gate, shape=(64, 96_000)),
        "embedding of one row": _on(first, shape=(64, 1)),
        "embedding turned": lambda gguf: _on(first, shape=gguf.tensor(first).shape[::-1])(gguf),
        "embedding one-dimensional": lambda gguf: _on(first, shape=(gguf.tensor(first).shape[1] * 64,))(gguf),
        "rows that no block divides": _on(gate, type=12),
        "an extra tensor beyond the end": lambda gguf: gguf.tensors.append(Tensor("extra", (64, 10**6), b"")),
    }
    for kind in (4, 5, 31, 33, 36, 38, 43, 100, 2**31, 2**32 - 1):
        cases[f"tensor type {kind}"] = _on(gate, type=kind)
    for offset in (1, 16, 31, 32, 2**20, 2**40, 2**63, 2**64 - 32):
        cases[f"tensor at {offset}"] = _on(gate, offset=offset)
    return cases


# -- random damage -----------------------------------------------------------------------


def mutations(count: int, seed: int = 1) -> Iterator[tuple[int, bytes]]:
    """
    Random damage to the header: bits flipped, bytes replaced, cut out, doubled; numbers made extreme.

    The same seed gives the same files. Damage of the tensors' contents is not the check's business.
    """
    chance = random.Random(seed)
    goods = [_bytes("bpe"), _bytes("spm")]
    ends = [good.index(b"blk.0.attn_norm") + 2000 for good in goods]
    for number in range(count):
        which = chance.randrange(2)
        data = bytearray(goods[which])
        for _ in range(chance.choice((1, 1, 1, 2, 4, 16))):
            _damage(data, ends[which], chance)
        yield number, bytes(data)


EXTREMES = [
    struct.pack(f"<{form}", value)
    for form, value in [
        *[("B", 0), ("B", 255), ("H", 0xFFFF), ("I", 0), ("I", 2**31), ("I", 2**32 - 1), ("i", -1)],
        *[("Q", 0), ("Q", 2**63), ("Q", 2**64 - 1), ("q", 2**62), ("f", NAN), ("f", -1.0), ("d", INFINITE)],
    ]
]


def _damage(data: bytearray, end: int, chance: random.Random) -> None:
    # Half of the blows fall on the part before the vocabulary, where the shape stands.
    place = chance.randrange(min(end, 900)) if chance.random() < 0.5 else chance.randrange(end)
    kind = chance.randrange(6)
    if kind == 0:
        data[place] ^= 1 << chance.randrange(8)
    elif kind == 1:
        data[place] = chance.randrange(256)
    elif kind == 2:
        extreme = chance.choice(EXTREMES)
        data[place : place + len(extreme)] = extreme
    elif kind == 3:
        del data[place : place + chance.choice((1, 2, 8, 64))]
    elif kind == 4:
        other = chance.randrange(end)
        data[place : place + 8] = data[other : other + 8]
    else:
        data[place:place] = data[place : place + chance.choice((1, 4, 8, 40))]
