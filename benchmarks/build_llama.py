"""
Build llama-server, llama-bench and llama-batched-bench from the llama.cpp that llama-cpp-python ships.

    python benchmarks/build_llama.py [--source FOLDER] [--jobs 2]

The source package of the installed llama-cpp-python is fetched with pip (or an unpacked llama.cpp is
given with --source), so that the rivals are the same llama.cpp as ours. Everything goes to a folder outside
the repository, is built once, and at low priority. Needs cmake and a C++ compiler.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import tarfile
from importlib.metadata import version
from pathlib import Path

from llmcli.engines.llama import amx

TARGETS = ("llama-server", "llama-bench", "llama-batched-bench")
OPTIONS = {
    "CMAKE_BUILD_TYPE": "Release",
    "LLAMA_BUILD_TESTS": "OFF",
    "LLAMA_BUILD_EXAMPLES": "OFF",
    "LLAMA_BUILD_APP": "OFF",
    "LLAMA_USE_PREBUILT_UI": "OFF",  # else it is fetched from the network
    "LLAMA_OPENSSL": "OFF",
}
# The rivals go without AMX where ours does; where ours has it, set the CXXFLAGS that it was built with.
NO_AMX = "-mno-amx-tile -mno-amx-int8 -mno-amx-bf16"


def work_folder() -> Path:
    """Where models and programs of the benchmarks are kept: a cache, outside the repository."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("LLMCLI_BENCH_DIR") or Path(cache) / "llmcli-benchmarks")


def programs(folder: Path) -> dict[str, Path]:
    """The built programs, by name; those that are missing are left out."""
    found = {name: folder / "llama.cpp" / "bin" / name for name in TARGETS}
    return {name: path for name, path in found.items() if path.exists()}


def fetch(folder: Path) -> Path:
    """The source of the installed version's llama.cpp, fetched with pip and unpacked."""
    name = f"llama_cpp_python-{version('llama-cpp-python')}"
    source = folder / "source" / name / "vendor" / "llama.cpp"
    if source.exists():
        return source
    wanted = f"llama-cpp-python=={version('llama-cpp-python')}"
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary", "llama-cpp-python"]
    subprocess.run([*command, "-d", str(folder / "source"), wanted], check=True)
    with tarfile.open(next((folder / "source").glob(f"{name}.tar.gz"))) as archive:
        archive.extractall(folder / "source", filter="data")
    return source


def build(source: Path, folder: Path, jobs: int) -> dict[str, Path]:
    """Configure and build what is missing; gives the programs by name."""
    out = folder / "llama.cpp"
    options = [f"-D{name}={value}" for name, value in OPTIONS.items()]
    if platform.machine() == "x86_64" and not (amx.present() and amx.works()):
        options += [f"-DCMAKE_C_FLAGS={NO_AMX}", f"-DCMAKE_CXX_FLAGS={NO_AMX}"]
    subprocess.run(["cmake", "-S", str(source), "-B", str(out), *options], check=True)
    command = ["nice", "cmake", "--build", str(out), "-j", str(jobs), "--target", *TARGETS]
    subprocess.run(command, check=True)
    return programs(folder)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--source", type=Path, help="an unpacked llama.cpp")
    parser.add_argument("--jobs", type=int, default=2)
    given = parser.parse_args()
    here = work_folder()
    here.mkdir(parents=True, exist_ok=True)
    for path in build(given.source or fetch(here), here, given.jobs).values():
        print(path)
