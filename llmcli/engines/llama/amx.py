"""
Keeps llama.cpp from Intel's AMX units, which crash it where GCC 12 compiled it.

Measured with llama-cpp-python 0.3.36, built by GCC 12.2 on a Xeon with AMX: the first
decode of 16 tokens or more ends in SIGSEGV at `ldtilecfg`. The tile configuration is built on the
stack, and the compiler drops all of its stores but the first 8 bytes, since the intrinsic says it reads only
those. A build cannot be asked for its compiler, so AMX stays off unless LLMCLI_AMX=1.
"""

from __future__ import annotations

import ctypes
import os
import sys

SMALL_STACK = 4096


class _Stack(ctypes.Structure):
    """stack_t of sigaltstack(2) on Linux."""

    _fields_ = (("address", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))


_MEMORY = ctypes.create_string_buffer(SMALL_STACK)  # the kernel keeps its address: it lives as long as we do


def keep_off() -> None:
    """
    Make the kernel refuse AMX to this process; call it before llama.cpp is used.

    The kernel grants the tile registers only where a signal's stack could hold them (Linux,
    Documentation/arch/x86/xstate.rst): with an alternative stack of 4 KiB it says no, and ggml goes
    without. Nothing here runs on that stack.
    """
    if not sys.platform.startswith("linux") or os.environ.get("LLMCLI_AMX") == "1":
        return
    stack = _Stack(ctypes.addressof(_MEMORY), 0, SMALL_STACK)
    ctypes.CDLL(None).sigaltstack(ctypes.byref(stack), None)
