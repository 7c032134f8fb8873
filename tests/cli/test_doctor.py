"""`llm doctor` tells the truth."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from ggufs import tiny

from llmcli.doctor import hardware
from llmcli.doctor.probe import Engine


@pytest.fixture
def doctor(call, work: Path, monkeypatch: pytest.MonkeyPatch):
    """What `llm doctor --json` finds, by area and name; without the speed reading."""
    monkeypatch.chdir(work)

    def ask(code: int = 0, **variables: str) -> dict[str, dict]:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        said = call("doctor", "--json", "--no-speed")
        assert said.code == code, said.err
        return {f"{one['area']}: {one['name']}": one for one in json.loads(said.out)["findings"]}

    return ask


def test_a_sound_installation_has_no_problem(doctor):
    found = doctor()

    assert not [one for one in found.values() if one["level"] == "problem"]
    assert found["llama.cpp: build"]["value"].startswith("llama-cpp-python")
    assert found["machine: cores"]["data"] >= 1
    assert "a whole GGUF" in found["model: default"]["value"]


def test_it_reads_like_a_list(call):
    ran = call("doctor", "--no-speed")

    assert ran.code == 0
    for said in ("installed\n", "llama.cpp\n", "CPU features: ", "folders\n", "model\n"):
        assert said in ran.out


def test_the_speed_is_read_from_the_model(call):
    ran = call("doctor", "--json")
    [speed] = [one for one in json.loads(ran.out)["findings"] if one["name"] == "speed"]

    assert speed["data"]["read"] > 0
    assert speed["data"]["write"] > 0


def test_a_missing_model_is_a_problem_with_its_exit_code(doctor):
    found = doctor(4, LLMCLI_MODEL="qwen3-0.6b")

    assert found["model: default"]["level"] == "problem"
    assert found["model: default"]["remedy"] == "llm models pull qwen3-0.6b"


def test_a_broken_model_is_a_problem(doctor, work: Path):
    tiny().write(work / "m.gguf").write_bytes(b"GGUF")

    assert doctor(4, LLMCLI_MODEL="./m.gguf")["model: default"]["level"] == "problem"


def test_a_model_without_a_chat_template_is_a_problem(doctor, work: Path):
    tiny(template=None).write(work / "m.gguf")

    assert doctor(4, LLMCLI_MODEL="./m.gguf")["model: chat template"]["level"] == "problem"


def test_broken_settings_are_a_problem(doctor, home: Path):
    (home / "config").mkdir(parents=True)
    (home / "config/config.yaml").write_text("modle: x\n")
    found = doctor(78)

    assert "config.yaml:1: unknown key 'modle'" in found["settings: config.yaml"]["value"]
    assert found["settings: config.yaml"]["remedy"] == "did you mean model?"


def test_what_is_odd_is_noted_all_at_once(doctor, home: Path):
    """A tool of that name on PATH is how an NVIDIA GPU shows itself."""
    (home / "data").mkdir(parents=True)
    (home / "data").chmod(0o755)
    (home / "bin").mkdir()
    for name, says in (("llm", "another"), ("nvidia-smi", "NVIDIA Test 9000, 24576 MiB")):
        (home / "bin" / name).write_text(f"#!/bin/sh\necho '{says}'\n")
        (home / "bin" / name).chmod(0o755)
    model = "server:http://127.0.0.1:1/v1#x"
    found = doctor(LLMCLI_THREAD="2", PATH=f"{home / 'bin'}:{os.environ['PATH']}", LLMCLI_MODEL=model)
    graphics = found["machine: graphics"]

    assert found["settings: LLMCLI_THREAD"]["remedy"] == "did you mean LLMCLI_THREADS?"
    assert found["folders: data"]["remedy"] == f"chmod 700 {home / 'data'}"
    assert found["installed: llm on PATH"]["level"] == "note"
    assert "is another program" in found["installed: llm on PATH"]["value"]
    assert "not a file" in found["model: default"]["value"]  # a server is not asked
    if graphics["level"] != "ok":  # this llama.cpp uses no GPU
        assert "NVIDIA Test 9000" in graphics["value"]
        assert graphics["remedy"].startswith('CMAKE_ARGS="-DGGML_CUDA=on" pip install')


def test_each_back_end_has_its_line():
    for backend in (hardware.CUDA, hardware.METAL, hardware.ROCM, hardware.VULKAN):
        assert backend.flags in backend.install


def test_features_are_those_that_are_on():
    engine = Engine("", "CUDA : ARCHS = 900 | F16 = 1 | CPU : AVX2 = 1 | AVX512 = 0 | ", True, ())
    assert engine.features == ["F16", "AVX2"]


def test_a_damaged_history_is_a_problem(doctor, home: Path):
    (home / "data").mkdir(parents=True, mode=0o700)
    (home / "data" / "history.db").write_text("no database, for sure" * 100)

    assert doctor(65)["folders: history"]["level"] == "problem"
