"""
Whether a model is loaded as it is or as a copy that this processor reads faster, and as which.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Set
from contextlib import contextmanager
from dataclasses import dataclass

from llmcli import machine
from llmcli.engines.llama import amx, wire
from llmcli.engines.llama.library import system_info

COMPILED = {"avx2": "AVX2", "f16c": "F16C", "avx_vnni": "AVX_VNNI", "avx512_vnni": "AVX512_VNNI"}
"""Instructions by Linux's names and by llama.cpp's. AVX-512 and VNNI are never without AVX2."""
F16_KINDS = {"q4_1", "q5_0", "q5_1", "q8_0", "bf16"}
F16_WITH, F16_WITHOUT = {"avx2", "f16c"}, {"avx_vnni", "avx512_vnni", "amx_int8"}
"""
What is read faster as float16, with which instructions, and with which not: VNNI and AMX multiply bytes.

Two cores of an EPYC with AVX2, decodes of 256 tokens, four layers of Llama 3.2 1B's width, tokens a second:
float16 340 and 342, q4_1 137 and 123, q5_1 123 and 105, q5_0 202 and 148, q8_0 228 and 240, bf16 243 and
246, but iq4_nl 287 and 320, q5_K 338 and 369, q6_K no fewer than float16, q4_K and q4_0 a tenth fewer. One
token at a time Qwen2.5-0.5B reads 22 a second as float16, as q8_0 35.
"""
WIDENED = {"q5_0"}
WIDENED_WITH_AMX = {"q5_0", "iq4_nl"}
"""What is read faster as q8_0: AMX has no kernel for either, without it llama.cpp has one for iq4_nl."""


@dataclass(frozen=True)
class Loadable:
    """What llama.cpp is to load: a path, whether it may be mapped into memory, and what is said of it."""

    path: str
    mapped: bool = True
    words: str = ""


def usable_instructions() -> frozenset[str]:
    """The processor's instructions that llama.cpp can use. AMX is tried: call it before llama.cpp is used."""
    unusable = set() if amx.settle() else {"amx_int8"}
    built = system_info()  # llama.cpp may have been compiled for any processor
    unusable |= {flag for flag, name in COMPILED.items() if f"{name} = 1" not in built}
    if "LLAMAFILE = 1" not in built:  # its matrix products are what makes float16 fast
        unusable |= {"f16c"}
    return machine.cpu_flags() - unusable


@contextmanager
def loadable(
    load: wire.Load, usable: Set[str], on_gpu: bool, report: Callable[[str], None]
) -> Iterator[Loadable]:
    """The model's file, or a copy in memory that is there until it is loaded. Raises LoadError."""
    as_f16 = load.as_f16 and usable >= F16_WITH and usable.isdisjoint(F16_WITHOUT)
    as_q8_0 = bool(usable & set(load.widen_with))
    if on_gpu or not (as_f16 or as_q8_0):
        yield Loadable(load.path)
        return
    from llmcli.engines.llama.widening import widened

    free, threads = machine.free_memory(), load.threads
    if as_f16:
        report("copying the model as f16")
        with widened(load.path, "f16", F16_KINDS, free // 3, threads) as copy:  # half is for the KV cache
            if copy is not None:
                yield Loadable(copy, words=" (layers as f16)")
                return
    if as_q8_0:
        kinds = WIDENED_WITH_AMX if "amx_int8" in usable else WIDENED
        # llama.cpp copies q8_0 once more, into a layout of its own.
        with widened(load.path, "q8_0", kinds, free // 4, threads) as copy:
            if copy is not None:
                yield Loadable(copy, mapped=False, words=" (q5_0 as q8_0)")
                return
    yield Loadable(load.path)
