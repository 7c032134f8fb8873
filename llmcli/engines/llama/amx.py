"""
Intel's AMX units: used where they work, kept from llama.cpp where they would crash it.

Measured with llama-cpp-python 0.3.36, built by GCC 12.2 on a Xeon with AMX: the first decode of 16 tokens or
more ends in SIGSEGV at `ldtilecfg`. The tile configuration is built on the stack, and the compiler drops all
of its stores but the first 8 bytes, since the intrinsic says it reads only those. Built with
`-fno-tree-dse -fno-dse` it works, and the built-in model reads 2.7 times as many tokens a second. A build
cannot be asked for its compiler, so it is tried, once, in a process of its own that may crash.
LLMCLI_AMX=1 and 0 skip the trial.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from pathlib import Path

from llmcli import machine
from llmcli.models import stamps

SMALL_STACK = 4096

_KIND, _VERSION = "amx", 1
_SECONDS = 60
_TOKENS = 32  # AMX takes decodes of more than one token: all of its tiles' rows, twice
_NEAR = 0.5  # logits: rounding by another kernel, far below what a wrong product makes
_WRONG = 3  # the trial's exit code where it computes, but not rightly
_CRASHES = {-signal.SIGSEGV, -signal.SIGILL, -signal.SIGBUS, -signal.SIGABRT, -signal.SIGFPE}

# As engines/llama/process.py starts its child: the working folder is taken off the path.
_PROGRAM = """
import sys
sys.path = [folder for folder in sys.path if folder]
from llmcli.engines.llama.amx import main
main()
"""


class _Stack(ctypes.Structure):
    """stack_t of sigaltstack(2) on Linux."""

    _fields_ = (("address", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))


_MEMORY = ctypes.create_string_buffer(SMALL_STACK)  # the kernel keeps its address: it lives as long as we do


def settle() -> bool | None:
    """
    Keep AMX off where it is there and does not work; call it before llama.cpp is used.

    Gives whether it may be used; None where the processor has none.
    """
    if not present():
        return None
    usable = works()
    if not usable:
        keep_off()
    return usable


def present() -> bool:
    """Whether this processor has AMX (Linux only: elsewhere llama.cpp does not use it)."""
    return "amx_int8" in machine.cpu_flags()


def works() -> bool:
    """
    Whether the installed llama.cpp may use AMX; tried once for each build, and noted.

    A trial that ends neither well nor in a crash is a no for this time only.
    """
    wanted = os.environ.get("LLMCLI_AMX")
    if wanted in ("0", "1"):
        return wanted == "1"
    try:
        library = _library()
        state = library.stat()
    except OSError:
        return False
    known = stamps.recall(_KIND, _VERSION, library, bool)
    if known is not None:
        return known
    code = _try()
    if code == 0 or code == _WRONG or code in _CRASHES:
        stamps.remember(_KIND, _VERSION, state, code == 0)
    return code == 0


def keep_off() -> None:
    """
    Make the kernel refuse AMX to this process; call it before llama.cpp is used.

    The kernel grants the tile registers only where a signal's stack could hold them (Linux,
    Documentation/arch/x86/xstate.rst): with an alternative stack of 4 KiB it says no, and ggml goes
    without. Nothing may run on that stack: Python's own signal handlers do.
    """
    if sys.platform.startswith("linux"):
        stack = _Stack(ctypes.addressof(_MEMORY), 0, SMALL_STACK)
        ctypes.CDLL(None).sigaltstack(ctypes.byref(stack), None)


def _library() -> Path:
    """The file with llama.cpp's CPU kernels, as this process has loaded it. Raises OSError."""
    import llama_cpp  # noqa: F401  (loads it)

    for line in Path("/proc/self/maps").read_text().splitlines():
        path = line.partition("/")[2]
        if "libggml-cpu" in path:
            return Path("/", path)
    raise FileNotFoundError("libggml-cpu")


def _try() -> int | None:
    """The trial's exit code, below 0 the signal that ended it; None where it did not end."""
    try:
        return subprocess.run(
            [sys.executable, "-c", _PROGRAM],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=_SECONDS,
        ).returncode
    except (OSError, subprocess.TimeoutExpired):
        return None


def main() -> None:
    """The trial: tokens evaluated together, in tiles, against the same one at a time, without."""
    from llmcli.engines.llama.context import AbortSwitch, Batch, Context, ContextSettings
    from llmcli.engines.llama.library import Log, Model
    from llmcli.paths import PACKAGE

    ctypes.CDLL(None).prctl(4, 0)  # PR_SET_DUMPABLE: a crash is expected, and nobody's to look into
    log = Log()
    model = Model(str(PACKAGE / "models" / "starter" / "starter.gguf"), log)
    settings = ContextSettings(cells=2 * _TOKENS, sequences=2, batch=_TOKENS, threads=1)
    context, batch = Context(model, settings, AbortSwitch(), log), Batch(_TOKENS)
    tokens = list(range(300, 300 + _TOKENS))
    batch.add(0, 0, tokens, "all")
    assert context.decode(batch) == 0
    together = context.logits(_TOKENS).copy()
    for position, token in enumerate(tokens):
        batch.clear()
        batch.add(1, position, [token], "last")
        assert context.decode(batch) == 0
        if not abs(context.logits(1)[0] - together[position]).max() < _NEAR:
            sys.exit(_WRONG)
