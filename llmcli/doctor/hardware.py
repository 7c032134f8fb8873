"""
Graphics processors in this machine, found without llama.cpp, and the line that installs it for each.

The lines are those of llama-cpp-python's README (github.com/abetlen/llama-cpp-python, "Supported
backends"). Only the ones marked `tested` were run for this project.
"""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys
from pathlib import Path

from msgspec import Struct

REINSTALL = "pip install --force-reinstall --no-cache-dir llama-cpp-python"
# The flags keep GCC from dropping what AMX reads: llmcli/engines/llama/amx.py.
SOUND_AMX = f'CXXFLAGS="-fno-tree-dse -fno-dse" {REINSTALL}'


class Backend(Struct, frozen=True):
    """A way to build llama.cpp."""

    name: str
    flags: str
    tested: bool = False

    @property
    def install(self) -> str:
        """The one line that installs llama.cpp with it."""
        return f'CMAKE_ARGS="{self.flags}" {REINSTALL}'


CUDA = Backend("CUDA", "-DGGML_CUDA=on")
METAL = Backend("Metal", "-DGGML_METAL=on")
ROCM = Backend("ROCm", "-DGGML_HIP=on")
VULKAN = Backend("Vulkan", "-DGGML_VULKAN=on")


class Gpu(Struct, frozen=True):
    """One graphics processor, and the back end that drives it."""

    name: str
    backend: Backend


def gpus() -> list[Gpu]:
    """What there is; empty where nothing is found."""
    found = _nvidia() or _amd()
    if sys.platform == "darwin" and platform.machine() == "arm64":
        found = [Gpu("Apple GPU", METAL)]
    return found


def _nvidia() -> list[Gpu]:
    tool = shutil.which("nvidia-smi")
    if tool:
        try:
            done = subprocess.run(
                [tool, "--query-gpu=name,memory.total", "--format=csv,noheader"],
                stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", timeout=20,
            )  # fmt: skip
            names = [line.strip() for line in done.stdout.splitlines() if line.strip()]
            if done.returncode == 0 and names:
                return [Gpu(name, CUDA) for name in names]
        except (OSError, subprocess.TimeoutExpired):
            pass
    present = Path("/proc/driver/nvidia/version").exists() or Path("/dev/nvidia0").exists()
    return [Gpu("an NVIDIA GPU", CUDA)] if present else []


def _amd() -> list[Gpu]:
    if Path("/dev/kfd").exists():
        return [Gpu("an AMD GPU", ROCM)]
    for vendor in Path("/sys/class/drm").glob("card*/device/vendor"):
        try:
            if vendor.read_text().strip() in ("0x1002", "0x8086"):  # AMD, Intel
                return [Gpu("a graphics processor", VULKAN)]
        except OSError:
            continue
    return []
