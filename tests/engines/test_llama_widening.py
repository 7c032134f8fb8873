"""Copies in wider numbers: by llama.cpp's own reading q8_0 says the same, float16 the same rounded."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

import llama_cpp
import numpy as np
import pytest
from engines.conftest import ask
from ggufs import tiny
from llama_cpp._ggml import libggml

from llmcli import machine
from llmcli.engines.base import EngineOptions
from llmcli.engines.llama import widening
from llmcli.engines.llama.copies import (
    F16_KINDS,
    F16_WITH,
    F16_WITHOUT,
    WIDENED,
    WIDENED_WITH_AMX,
    loadable,
)
from llmcli.engines.llama.engine import LlamaEngine
from llmcli.engines.llama.library import LoadError
from llmcli.engines.llama.loading import SMALL, load_message
from llmcli.models import gguf
from llmcli.models.gguf_reader import read_header
from llmcli.models.resolve import ModelFile

PLENTY = 1 << 40
Q5_0_FILE, IQ4_NL_FILE = 8, 25  # llama_ftype, llama.h: all matrices of one type
FILE_TYPES = {"q4_1": 3, "q8_0": 7, "q5_0": 8, "q5_1": 9, "bf16": 32}
AVX2 = frozenset({"avx2", "f16c"})
HERE = machine.cpu_flags()
halves = pytest.mark.skipif(
    not HERE >= F16_WITH or bool(HERE & F16_WITHOUT), reason="this processor gains nothing"
)


def values(kind: str, blocks: bytes, count: int) -> np.ndarray:
    """What llama.cpp reads in such blocks: `count` float32."""
    out = np.empty(count, np.float32)
    read = libggml["ggml_bf16_to_fp32_row" if kind == "bf16" else f"dequantize_row_{kind}"]
    read.argtypes = [ctypes.c_char_p, ctypes.c_void_p, ctypes.c_int64]
    read(blocks, out.ctypes.data, count)
    return out


def quantised(folder: Path, file_type: int, source: Path | None = None) -> Path:
    source = source or tiny("qwen2", layers=2).write(folder / "f32.gguf")
    target = folder / "small.gguf"
    options = llama_cpp.llama_model_quantize_default_params()
    options.ftype, options.pure = file_type, True
    done = llama_cpp.llama_model_quantize(os.fsencode(source), os.fsencode(target), ctypes.byref(options))
    assert done == 0
    return target


@pytest.mark.parametrize(
    ("kind", "convert", "size"),
    [("q5_0", widening.from_q5_0, 22), ("iq4_nl", widening.from_iq4_nl, 18)],
)
def test_every_block_says_the_same(kind, convert, size):
    chance = np.random.default_rng(1)
    blocks = chance.integers(0, 256, (5000, size), np.uint8)
    blocks[:, :2] = chance.normal(size=5000).astype(np.float16).view(np.uint8).reshape(-1, 2)
    wide = convert(blocks)

    assert wide.shape == (5000, widening.WIDE)
    expected = values(kind, blocks.tobytes(), 5000 * 32)
    assert len(np.unique(expected)) > 10_000
    assert (values("q8_0", wide.tobytes(), 5000 * 32) == expected).all()


@pytest.mark.parametrize(("file_type", "narrow"), [(Q5_0_FILE, "Q5_0"), (IQ4_NL_FILE, "IQ4_NL")])
def test_a_whole_file_is_the_same_model(tmp_path, file_type, narrow):
    source = quantised(tmp_path, file_type)
    before = read_header(source)
    with widening.widened(str(source), "q8_0", WIDENED_WITH_AMX, PLENTY, threads=2) as copy:
        assert copy is not None
        after = read_header(Path(copy))
        data, wide = source.read_bytes()[before.data_offset :], Path(copy).read_bytes()[after.data_offset :]

    assert before.metadata.keys() == after.metadata.keys()
    assert {tensor.type for tensor in before.tensors} > {narrow}
    for old, new in zip(before.tensors, after.tensors, strict=True):
        assert (old.name, old.shape) == (new.name, new.shape)
        was, now = data[old.offset :][: old.size], wide[new.offset :][: new.size]
        if old.type != narrow:
            assert (old.type, was) == (new.type, now)
            continue
        assert new.type == "Q8_0"
        assert (values(narrow.lower(), was, old.elements) == values("q8_0", now, old.elements)).all(), (
            old.name
        )


@pytest.mark.parametrize("kind", sorted(F16_KINDS))
def test_the_layers_become_float16_rounded_once(tmp_path, kind):
    source = quantised(tmp_path, FILE_TYPES[kind])
    before = read_header(source)
    with widening.widened(str(source), "f16", F16_KINDS, PLENTY, threads=2) as copy:
        assert copy is not None
        after = read_header(Path(copy))
        data, wide = source.read_bytes()[before.data_offset :], Path(copy).read_bytes()[after.data_offset :]

    halved = 0
    for old, new in zip(before.tensors, after.tensors, strict=True):
        was, now = data[old.offset :][: old.size], wide[new.offset :][: new.size]
        assert (old.name, old.shape) == (new.name, new.shape)
        if old.type != kind.upper() or not widening.HALVED.fullmatch(old.name):
            assert (old.type, was) == (new.type, now)
            continue
        halved += 1
        expected = values(kind, was, old.elements).astype(np.float16)
        assert new.type == "F16"
        assert (np.frombuffer(now, np.float16) == expected).all(), old.name
    assert halved == 12  # six matrices in each of two layers


def test_the_copy_is_gone_when_the_model_is_loaded(tmp_path):
    source = quantised(tmp_path, Q5_0_FILE)
    with widening.widened(str(source), "q8_0", WIDENED, PLENTY, threads=1) as copy:
        assert Path(str(copy)).stat().st_size > 0
    assert not Path(str(copy)).exists()


def test_nothing_is_copied_without_gain_or_room(tmp_path):
    narrow, full = quantised(tmp_path, Q5_0_FILE), tmp_path / "f32.gguf"
    for path, room, kinds in (
        (full, PLENTY, WIDENED),
        (narrow, PLENTY, {"iq4_nl"}),
        (narrow, narrow.stat().st_size, WIDENED),
    ):
        with widening.widened(str(path), "q8_0", kinds, room, threads=1) as copy:
            assert copy is None


def test_a_file_that_becomes_shorter_is_not_loaded(tmp_path):
    source = quantised(tmp_path, Q5_0_FILE)
    with source.open("r+b") as file:
        file.truncate(source.stat().st_size - 100)
    with (
        pytest.raises(LoadError, match="shorter"),
        widening.widened(str(source), "q8_0", WIDENED, PLENTY, threads=1),
    ):
        pass


@pytest.mark.skipif("avx2" not in machine.cpu_flags(), reason="this processor gains nothing")
def test_the_engine_runs_the_copy_and_answers_as_without(tmp_path):
    model = ModelFile("small", quantised(tmp_path, Q5_0_FILE))
    prompts = [ask("a b c d e f g h i j k l m n o p")] * 2
    told, answers = [], []
    for texts in ("many", "one"):
        engine = LlamaEngine(model, EngineOptions(threads=1, texts=texts))
        told.append("q5_0 as q8_0" in engine.where)
        answers.append([answer for _, answer in engine.score(prompts, ["a", "b"])])
        engine.close()

    assert told == [True, False]
    for with_copy, without in zip(*answers, strict=True):
        assert with_copy.probabilities == pytest.approx(without.probabilities, abs=1e-2)


@halves
def test_a_model_with_values_above_the_largest_float16_still_gives_labels(tmp_path):
    source = tiny("qwen2", layers=2).write(tmp_path / "f32.gguf")
    header, data = read_header(source), bytearray(source.read_bytes())
    for name, factor in (("blk.0.ffn_up.weight", 2.0**16), ("blk.0.ffn_down.weight", 2.0**-6)):
        tensor = next(tensor for tensor in header.tensors if tensor.name == name)
        start = header.data_offset + tensor.offset
        values = np.frombuffer(data, np.float32, tensor.elements, start)
        values *= np.float32(factor)
    source.write_bytes(data)
    engine = LlamaEngine(
        ModelFile("large values", quantised(tmp_path, FILE_TYPES["q8_0"], source)),
        EngineOptions(threads=1, texts="many", only_labels=True),
    )
    told = engine.where
    answers = [answer for _, answer in engine.score([ask("a b c d e f g h")], ["a", "b"])]
    engine.close()

    assert "(layers as f16)" in told
    assert sum(answers[0].probabilities) == pytest.approx(1)


@halves
def test_labels_are_the_same_together_alone_and_with_other_labels_before(tmp_path):
    model = ModelFile("small", quantised(tmp_path, Q5_0_FILE))
    prompts = [ask("a b c d e f g h i j k l m n o p"), ask("b c d"), ask("p o n m l k")]
    told, answers = [], []
    for texts, sequential in (("many", False), ("many", True), ("one", True)):
        options = EngineOptions(threads=1, texts=texts, sequential=sequential, only_labels=True)
        engine = LlamaEngine(model, options)
        told.append("(layers as f16)" in engine.where)
        found = dict(engine.score(prompts, ["a", "b"]))
        answers.append([found[number].probabilities for number in range(len(prompts))])
        engine.close()

    assert told == [True, True, True]
    assert answers[1] == answers[2]
    for together, alone in zip(answers[0], answers[1], strict=True):
        assert together == pytest.approx(alone, abs=2e-3)


@pytest.mark.parametrize(
    ("usable", "only_labels", "on_gpu", "words"),
    [
        (AVX2, True, False, " (layers as f16)"),
        (AVX2, False, False, " (q5_0 as q8_0)"),
        (AVX2 | {"avx_vnni"}, True, False, " (q5_0 as q8_0)"),
        (AVX2 | {"avx512_vnni"}, True, False, " (q5_0 as q8_0)"),
        (AVX2 | {"avx512_vnni", "amx_int8"}, True, False, " (q5_0 as q8_0)"),
        (frozenset({"avx2"}), True, False, " (q5_0 as q8_0)"),
        (AVX2, True, True, ""),
        (frozenset(), True, False, ""),
    ],
)
def test_the_processor_decides_which_copy_is_loaded(tmp_path, usable, only_labels, on_gpu, words):
    path = quantised(tmp_path, Q5_0_FILE)
    options = EngineOptions(texts="many", only_labels=only_labels)
    load = load_message(ModelFile("small", path), gguf.check(path), options, started=0.0)
    with loadable(load, usable, on_gpu, report=print) as file:
        assert file.words == words
        assert (file.path == str(path)) is (words == "")
        assert file.mapped is (words != " (q5_0 as q8_0)")


@pytest.mark.parametrize(
    ("options", "worth"),
    [
        (EngineOptions(texts="many"), {"amx_int8", "avx2"}),
        (EngineOptions(texts="many", parallel=1), {"amx_int8"}),
        (EngineOptions(texts="some"), {"amx_int8"}),
        (EngineOptions(texts="one"), set()),
        (EngineOptions(texts="many", sequential=True), set()),
    ],
)
def test_what_is_asked_decides_which_processors_gain(tmp_path, options, worth):
    path = quantised(tmp_path, Q5_0_FILE)
    told = load_message(ModelFile("small", path), gguf.check(path), options, started=0.0)

    assert set(told.widen_with) == worth


@pytest.mark.parametrize(
    ("options", "small", "large"),
    [
        (EngineOptions(texts="many", only_labels=True), True, True),
        (EngineOptions(texts="many", only_labels=True, sequential=True), True, False),
        (EngineOptions(texts="some", only_labels=True), True, False),
        (EngineOptions(texts="one", only_labels=True), True, False),
        (EngineOptions(texts="many"), False, False),
    ],
)
def test_float16_is_for_many_labels_and_any_of_a_small_model(tmp_path, options, small, large):
    path = quantised(tmp_path, Q5_0_FILE)
    header = gguf.check(path)

    assert load_message(ModelFile("small", path), header, options, started=0.0).as_f16 is small
    os.truncate(path, SMALL + 1)
    assert load_message(ModelFile("large", path), header, options, started=0.0).as_f16 is large


@pytest.mark.parametrize(("rows", "widened"), [(3, False), (2000, True)])
@pytest.mark.skipif("avx2" not in machine.cpu_flags(), reason="this processor gains nothing")
def test_only_many_rows_pay_for_a_later_start(llm, tmp_path, rows, widened):
    model = quantised(tmp_path, Q5_0_FILE)
    (tmp_path / "rows.csv").write_text("text\n" + "a b c d\n" * rows)
    command = ("title", "rows.csv", "-m", model, "-v", "--limit", "3", "--max-tokens", "8")
    done = llm(*command, cwd=tmp_path, env={"LLMCLI_AMX": "0"})

    assert "context of" in done.stderr
    assert ("q5_0 as q8_0" in done.stderr) is widened


@halves
@pytest.mark.parametrize(
    ("command", "halved"),
    [(("sentiment",), True), (("summarize", "--extract"), True), (("title", "--max-tokens", "8"), False)],
)
def test_only_what_writes_nothing_reads_float16(llm, tmp_path, command, halved):
    text = "a b c d. e f g h. i j k l. " * 8
    done = llm(*command, "-m", quantised(tmp_path, Q5_0_FILE), "-v", stdin=text)

    assert "context of" in done.stderr
    assert ("layers as f16" in done.stderr) is halved
