"""
What llama.cpp says of itself, from a process of its own: loading a broken build can end the process.

The parent calls `ask`; the child is this module's `main`, which prints one JSON object.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

from msgspec import Struct

from llmcli.doctor.hardware import REINSTALL
from llmcli.errors import EngineCrashed

PROGRAM = "import sys; sys.path.pop(0); from llmcli.doctor.probe import main; main()"
SECONDS = 60  # a first CUDA start compiles kernels


class Device(Struct, frozen=True):
    """A place where llama.cpp computes; memory in bytes."""

    name: str
    description: str
    gpu: bool
    free: int
    total: int


class Engine(Struct, frozen=True):
    """
    The installed llama.cpp: its build, its CPU features (`system`, as it prints them), its devices.

    `amx`: whether it may use the processor's AMX units; None where the processor has none.
    """

    build: str
    system: str
    gpu_support: bool
    devices: tuple[Device, ...]
    amx: bool | None = None

    @property
    def features(self) -> list[str]:
        """
        The features that are on, `AVX2` for `AVX2 = 1`.

        >>> Engine("", "CPU : SSE3 = 1 | AVX512 = 0 | REPACK = 1 | ", False, ()).features
        ['SSE3', 'REPACK']
        """
        parts = [part.rpartition(":")[2].strip() for part in self.system.split("|")]
        return [part.removesuffix("= 1").strip() for part in parts if part.endswith("= 1")]


def ask() -> Engine:
    """Start the child and read what it says; EngineCrashed (70) where llama.cpp cannot be loaded."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=SECONDS,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise EngineCrashed(f"llama.cpp does not start: {error}", hint=REINSTALL) from error
    if done.returncode != 0:
        words = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise EngineCrashed(f"llama.cpp does not load: {words}", hint=REINSTALL)
    said = json.loads(done.stdout.strip().splitlines()[-1])
    return Engine(**{**said, "devices": tuple(Device(**device) for device in said["devices"])})


def main() -> None:
    """In the child: print what llama.cpp says."""
    from dataclasses import asdict

    from llmcli.engines.llama import amx, library

    usable = amx.settle()  # as the engine's child does
    said: dict[str, Any] = {
        "build": library.build(),
        "system": library.system_info().strip(),
        "gpu_support": library.supports_gpu(),
        "devices": [asdict(device) for device in library.devices()],
        "amx": usable,
    }
    sys.stdout.write(json.dumps(said) + "\n")
