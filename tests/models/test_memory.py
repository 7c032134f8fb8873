"""The estimate of memory against what llama.cpp says that it takes."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from ggufs import tiny, write_hollow

from llmcli.models import gguf, memory

# Loads a model without the processor's own layout of the weights, and makes contexts of some lengths and
# numbers of sequences. Prints what llama.cpp logged: of the model, then of each context.
PROGRAM = """
import json, sys
import llama_cpp as lib
lines, logs = [], []
@lib.llama_log_callback
def log(level, text, data):
    lines.append(text.decode("utf-8", "replace"))
lib.llama_log_set(log, None)
lib.llama_backend_init()
settings = lib.llama_model_default_params()
settings.use_extra_bufts = False
settings.n_gpu_layers = 0
model = lib.llama_model_load_from_file(sys.argv[1].encode(), settings)
logs.append("".join(lines))
for length, sequences in json.loads(sys.argv[2]):
    lines.clear()
    context = lib.llama_context_default_params()
    context.n_ctx, context.n_seq_max, context.swa_full = length, sequences, True
    made = lib.llama_init_from_model(model, context)
    assert made
    logs.append("".join(lines))
    lib.llama_free(made)
print(json.dumps(logs))
"""
SHAPES = {
    "Qwen2.5 0.5B": ("qwen2", 151_936, {"layers": 24, "width": 896, "heads": 14, "kv_heads": 2,
                                       "feed_forward": 4864, "context": 32_768}),
    "Llama 3.2 1B": ("llama", 128_256, {"layers": 16, "width": 2048, "heads": 32, "kv_heads": 8,
                                       "feed_forward": 8192, "context": 131_072}),
    "Gemma 3 1B": ("gemma3", 262_144, {"layers": 26, "width": 1152, "heads": 4, "kv_heads": 1,
                                      "head_size": 256, "feed_forward": 6912, "context": 32_768}),
}  # fmt: skip


CONTEXTS = ((4096, 1), (16_384, 8))
"""Tokens, and sequences."""


def logged(path: Path) -> list[int]:
    """Bytes of model, KV and compute buffers with each of the contexts, as llama.cpp logs them."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(path), json.dumps(CONTEXTS)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-500:]
    model, *contexts = map(_buffers, json.loads(done.stdout.splitlines()[-1]))
    return [model + context for context in contexts]


def _buffers(log: str) -> int:
    sizes = re.findall(r"(?:model|KV|RS|compute) buffer size\s*=\s*([0-9.]+) MiB", log)
    return int(sum(map(float, sizes)) * 2**20)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if "Llama" in name else ()) for name in SHAPES]
)
def test_the_estimate_is_within_a_tenth_of_what_llama_cpp_takes(name: str, tmp_path: Path, monkeypatch):
    pytest.importorskip("llama_cpp")
    monkeypatch.setenv("LLMCLI_CACHE_DIR", str(tmp_path / "cache"))
    architecture, words, sizes = SHAPES[name]
    path = write_hollow(tmp_path / "hollow.gguf", architecture, words, **sizes)

    header = gguf.check(path)
    for (context, sequences), there in zip(CONTEXTS, logged(path)):
        guessed = memory.estimate(header, context, sequences).total
        assert 0.9 < guessed / there < 1.1, (context, guessed, there)


@pytest.fixture
def header(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("LLMCLI_CACHE_DIR", str(tmp_path / "cache"))
    return lambda architecture="llama", **sizes: gguf.check(
        tiny(architecture, **sizes).write(tmp_path / "m.gguf")
    )


def test_a_smaller_kv_type_takes_less(header):
    model = header(context=4096)

    assert memory.estimate(model, 4096, kv_type="q8_0").kv < memory.estimate(model, 4096).kv * 0.54


def test_the_longest_context_is_the_models_own_where_there_is_room(header):
    assert memory.largest_context(header(context=3000), 10**12) == 3000


def test_the_longest_context_shrinks_with_the_memory(header):
    model = header(context=65_536)
    sizes = [memory.largest_context(model, budget) for budget in (10**12, 10**7, 5 * 10**6, 10**6, 0)]

    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] == 0
    for size, budget in zip(sizes, (10**12, 10**7, 5 * 10**6)):
        assert memory.estimate(model, size).total <= budget


def test_a_recurrent_model_takes_no_more_for_a_longer_context(header):
    model = header("mamba")

    assert memory.estimate(model, 256).kv == memory.estimate(model, 512).kv > 0


def test_only_the_layers_of_a_hybrid_that_attend_keep_keys(header):
    assert (
        memory.estimate(header("lfm2", layers=8), 512).kv
        < memory.estimate(header("llama", layers=8), 512).kv * 0.6
    )
