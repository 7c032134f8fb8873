"""
What every test may use: the installed command, and replies for the scripted engine.

Tests type into the doors. `llm` runs the program as a user does; `script` writes what the model will say.
"""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

# A busy machine is no failure: no deadline for one example. `derandomize`: a run repeats.
settings.register_profile("llmcli", deadline=None, derandomize=True)
settings.load_profile("llmcli")

# Hundreds of processes start here, and each would compile the program anew.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# Answers to the last digit, on every processor: tests/engines/test_llama_amx.py looks at these units.
AMX = os.environ.setdefault("LLMCLI_AMX", "0")

LLM = Path(sys.executable).parent / "llm"


@dataclass(frozen=True)
class Ran:
    """A finished command: exit code (negative: the signal), and its streams as text and as bytes."""

    code: int
    stdout: str
    stderr: str
    stdout_bytes: bytes
    stderr_bytes: bytes


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Where the command under test keeps its files: home/config, home/data, home/cache; not made yet."""
    return tmp_path / "home"


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """The folder in which the command under test runs."""
    folder = tmp_path / "work"
    folder.mkdir()
    return folder


@pytest.fixture
def llm_env(home: Path) -> dict[str, str]:
    """The environment of the command under test: this machine's, but for what would change its answers."""
    ours = ("LLMCLI_", "NO_COLOR", "FORCE_COLOR", "COLUMNS", "RAY_ADDRESS", "PYTHONPATH")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    folders = {f"LLMCLI_{name.upper()}_DIR": str(home / name) for name in ("config", "data", "cache")}
    return {**kept, **folders, "HOME": str(home), "LLMCLI_AMX": AMX}


def _obey_modes() -> None:
    """Before a program starts: the modes of files hold for root too. (Linux; elsewhere, test as a user.)"""
    if os.geteuid() == 0:
        process = ctypes.CDLL(None, use_errno=True)
        for capability in (1, 2):  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
            if process.prctl(24, capability, 0, 0, 0):  # PR_CAPBSET_DROP
                raise OSError(ctypes.get_errno(), "prctl")


@pytest.fixture
def llm(llm_env: dict[str, str], work: Path) -> Callable[..., Ran]:
    """
    Run the installed `llm`: `llm("sentiment", "--text", "Nice.", stdin="", env={"LLMCLI_MODEL": "x"})`.

    Standard input is empty unless it is given; `env` adds to the environment. `powerless` takes from root
    what would let it read and write where the modes of files forbid it.
    """

    def run(
        *args: str | Path,
        stdin: str | bytes = b"",
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        timeout: float = 60,
        powerless: bool = False,
    ) -> Ran:
        done = subprocess.run(
            [LLM, *map(str, args)],
            input=stdin.encode() if isinstance(stdin, str) else stdin,
            capture_output=True,
            cwd=cwd or work,
            env={**llm_env, **(env or {})},
            timeout=timeout,
            preexec_fn=_obey_modes if powerless else None,
        )
        texts = (stream.decode("utf-8", "surrogateescape") for stream in (done.stdout, done.stderr))
        return Ran(done.returncode, *texts, done.stdout, done.stderr)

    return run


@pytest.fixture
def script(tmp_path: Path) -> Callable[..., str]:
    """
    Write a script and give the model's name for it: `llm("title", "-m", script(default="A title"), …)`.

    The keys are those of llmcli/engines/scripted.py.
    """

    def write(name: str = "script.json", **keys: Any) -> str:
        path = tmp_path / name
        path.write_text(json.dumps(keys), encoding="utf-8")
        return f"scripted:{path}"

    return write


@pytest.fixture
def asked(tmp_path: Path) -> Callable[[], list[dict[str, Any]]]:
    """What a script with `log="asked.jsonl"` was asked so far: kind, prompt, messages, sampling or labels."""

    def read() -> list[dict[str, Any]]:
        log = tmp_path / "asked.jsonl"
        return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []

    return read
