"""Broken model files through the whole command: a right answer, or one line with 4 or 70, soon."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from malformed import FIT, corpus, mutations

LABELS = ("positive", "neutral", "negative")
PATIENCE = 60  # seconds by the clock, for what waits and does nothing
SECONDS = 5  # of the processor, ours and the child's: what others do on the machine does not count


def busy() -> float:
    """Processor seconds of this process and of the children that have ended."""
    return sum(os.times()[:4])


def verdict(call, path: Path) -> int:
    """The exit code of a label asked of this file, after a look at what was said."""
    before, began = busy(), time.monotonic()
    said = call("sentiment", "-m", str(path), "--text", "It is fine.", "--threads", "1")
    if said.code == 0:
        assert said.out.strip() in LABELS
    else:
        assert said.code in (4, 70), said.err
        assert said.out == ""
        assert said.err.startswith("llm: error: ")
        assert said.err.count("\n") == 1
        assert "Traceback" not in said.err
    assert busy() - before < SECONDS
    assert time.monotonic() - began < PATIENCE
    return said.code


FEW = ("empty", "html", "cut at 50 %", "513 layers", "epsilon NaN", "duplicate token", "tensor twice",
       "SPM without byte tokens", "alignment 16", "name not UTF-8")  # fmt: skip


@pytest.mark.parametrize("name", FEW)
def test_a_broken_model_is_one_line_and_exit_4(name: str, call, tmp_path: Path):
    path = tmp_path / "broken.gguf"
    path.write_bytes(dict(corpus())[name])

    assert verdict(call, path) == 4


@pytest.mark.slow
def test_every_broken_model_is_one_line(call, tmp_path: Path):
    path = tmp_path / "broken.gguf"
    for name, data in corpus():
        path.write_bytes(data)
        code = verdict(call, path)
        assert code == 4 or name in FIT, name


# A few in the suite, with the slow ones 5,000: each through a child of its own, which is more than one
# that lives on could show.
@pytest.mark.parametrize(
    ("count", "seed"),
    [(25, 11), *(pytest.param(100, seed, marks=pytest.mark.slow) for seed in range(100, 150))],
)
def test_damaged_models_give_an_answer_or_one_line(call, tmp_path: Path, count: int, seed: int):
    path = tmp_path / "damaged.gguf"
    for _, data in mutations(count, seed=seed):
        path.write_bytes(data)
        verdict(call, path)
