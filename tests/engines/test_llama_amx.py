"""Intel's AMX units: tried once for a build of llama.cpp, and used where they work."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llmcli.engines.llama import amx


def verdicts(cache: Path) -> list[bool]:
    return [json.loads(file.read_bytes())["note"] for file in (cache / "amx").glob("*.json")]


def test_the_trial_is_made_once_and_an_answer_comes_whatever_it_says(llm, llm_env):
    tried = {"LLMCLI_AMX": ""}
    first = llm("sentiment", "--text", "I love it.", env=tried)
    said = verdicts(Path(llm_env["LLMCLI_CACHE_DIR"]))
    second = llm("sentiment", "--text", "I love it.", env=tried)

    assert (first.code, first.stdout) == (0, "positive\n") == (second.code, second.stdout)
    assert len(said) == amx.present()
    assert said == verdicts(Path(llm_env["LLMCLI_CACHE_DIR"]))


@pytest.mark.skipif(not amx.present(), reason="this processor has no AMX")
def test_the_doctor_says_whether_it_is_used_and_what_would_help(llm):
    off = llm("doctor", env={"LLMCLI_AMX": "0"})

    assert "Intel AMX" in off.stdout and "is not used" in off.stdout
    assert "-fno-tree-dse" in off.stdout


def test_the_switch_skips_the_trial(monkeypatch, tmp_path):
    monkeypatch.setenv("LLMCLI_CACHE_DIR", str(tmp_path))
    for said, expected in (("1", True), ("0", False)):
        monkeypatch.setenv("LLMCLI_AMX", said)
        assert amx.works() is expected

    assert [] == verdicts(tmp_path)
