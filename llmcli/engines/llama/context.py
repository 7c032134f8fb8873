"""
llama.cpp's context, seen from Python: a KV cache with its compute graph, and the batches it evaluates.

Thin, as `library` is: names and checks, no policy. What a mistake here ends is the child process.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from llama_cpp import llama_cpp as lib

from llmcli.engines.llama.library import Array, LoadError, Log, Model
from llmcli.kv_types import GGML_TYPES


class AbortSwitch:
    """
    Ends a running decode from another thread.

    llama.cpp asks a C function between graph nodes whether to abort. `strlen` of a
    one-byte buffer is such a function: it needs no GIL, and one byte written flips it.
    """

    def __init__(self) -> None:
        self._flag = ctypes.create_string_buffer(2)
        libc = ctypes.CDLL(None)
        self.function = ctypes.cast(libc.strlen, type(lib.llama_context_default_params().abort_callback))
        self.data = ctypes.cast(self._flag, ctypes.c_void_p)

    def set(self) -> None:
        """Abort the decode that is running, and every one until `clear`."""
        self._flag[0] = b"\x01"

    def clear(self) -> None:
        """Let decodes run again."""
        self._flag[0] = b"\x00"


@dataclass(frozen=True)
class ContextSettings:
    """
    The shape of a context: `cells` tokens of KV cache, `sequences` at most, decodes of `batch` tokens.

    Of these llama.cpp takes `together` at a time (n_ubatch; None: all), and lays out its buffers for so many.
    """

    cells: int
    sequences: int
    batch: int
    threads: int
    together: int | None = None
    unified: bool = True
    flash_attention: bool | None = None
    kv_type: str | None = None


class Context:
    """A KV cache with its compute graph. Not for two threads at once."""

    def __init__(self, model: Model, settings: ContextSettings, abort: AbortSwitch, log: Log) -> None:
        params = lib.llama_context_default_params()
        params.n_ctx = settings.cells
        params.n_batch = settings.batch
        params.n_ubatch = settings.together or settings.batch
        params.n_seq_max = settings.sequences
        params.n_threads = settings.threads
        params.n_threads_batch = settings.threads
        params.kv_unified = settings.unified
        # A cache of sliding windows alone would be smaller, but llama.cpp takes no cell anew that two
        # sequences share (llama-kv-cache.cpp, find_slot): forks, which all of this is made of, would fill
        # it. Where memory is short, the context is.
        params.swa_full = True
        params.no_perf = True
        params.abort_callback = abort.function
        params.abort_callback_data = abort.data
        if settings.flash_attention is not None:
            params.flash_attn_type = int(settings.flash_attention)
        if settings.kv_type is not None:
            params.type_k = params.type_v = GGML_TYPES[settings.kv_type]
        log.lines.clear()
        self._context = lib.llama_init_from_model(model._model, params)
        if not self._context:
            raise LoadError(log.last_error())
        self._abort = abort  # llama.cpp reads its memory as long as the context lives
        self.settings = settings
        self.cells = int(lib.llama_n_ctx(self._context))
        self._memory = lib.llama_get_memory(self._context)
        self._vocab_size = model.vocab_size
        if model.adapters:
            kind = lib.llama_adapter_lora_p_ctypes
            adapters = (kind * len(model.adapters))(*(ctypes.cast(a, kind) for a, _ in model.adapters))
            scales = (ctypes.c_float * len(model.adapters))(*(s for _, s in model.adapters))
            if lib.llama_set_adapters_lora(self._context, adapters, len(model.adapters), scales):
                raise LoadError("the LoRA adapter does not fit this model")

    def decode(self, batch: Batch) -> int:
        """
        Evaluate a batch: 0 done, 1 no room in the cache, 2 aborted, below 0 broken.

        Waits for the results: a GPU otherwise computes on behind our back and the
        time shows up where the logits are read.
        """
        code = int(lib.llama_decode(self._context, batch.struct()))
        if code == 0:
            lib.llama_synchronize(self._context)
        return code

    def logits(self, rows: int) -> Array:
        """
        The logits of the last decode, shape (rows, vocabulary), in the order of the batch.

        A view into llama.cpp's memory: gone with the next decode.
        """
        pointer = lib.llama_get_logits(self._context)
        address = ctypes.addressof(pointer.contents)
        count = rows * self._vocab_size
        buffer: Any = (ctypes.c_float * count).from_address(address)
        flat: Array = np.frombuffer(buffer, dtype=np.float32)
        return flat.reshape(rows, self._vocab_size)

    def fork(self, source: int, target: int, length: int) -> None:
        """Let `target` begin with the first `length` tokens of `source`, without computing them."""
        lib.llama_memory_seq_cp(self._memory, source, target, 0, length)

    def fork_whole(self, source: int, target: int) -> None:
        """Let `target` begin as all of `source`: the only fork that recurrent state knows."""
        lib.llama_memory_seq_cp(self._memory, source, target, -1, -1)

    def cut(self, sequence: int, length: int) -> bool:
        """Keep the first `length` tokens of a sequence; False where its state cannot go back."""
        return bool(lib.llama_memory_seq_rm(self._memory, sequence, length, -1))

    def clear(self, sequence: int) -> None:
        """Forget a whole sequence."""
        lib.llama_memory_seq_rm(self._memory, sequence, -1, -1)

    def clear_all(self) -> None:
        """Forget everything."""
        lib.llama_memory_clear(self._memory, True)

    def first_position(self, sequence: int) -> int:
        """The smallest position still in the cache: above 0 only for sliding windows."""
        return int(lib.llama_memory_seq_pos_min(self._memory, sequence))

    def state(self, sequence: int) -> bytearray:
        """What the cache holds of a sequence, to be given to `set_state`; empty where it cannot be had."""
        size = lib.llama_state_seq_get_size(self._context, sequence)
        try:
            state = bytearray(size)
        except MemoryError:
            return bytearray()
        written = lib.llama_state_seq_get_data(self._context, _address(state), size, sequence)
        return state if written == size else bytearray()

    def set_state(self, sequence: int, state: bytes | bytearray) -> bool:
        """
        Let a sequence be what `state` gave; False, and an empty sequence, where it does not fit.

        llama.cpp believes what it reads: only what came from `state`, of the same model and settings.
        """
        read = lib.llama_state_seq_set_data(self._context, _address(state), len(state), sequence)
        done = bool(state) and int(read) == len(state)
        if not done:
            self.clear(sequence)
        return done

    def free(self) -> None:
        """Give the memory back."""
        lib.llama_free(self._context)


def _address(state: bytes | bytearray) -> Any:
    """Where it lies, for C: it may be gigabytes, so no copy."""
    return np.frombuffer(state or b"\0", np.uint8).ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))


class Batch:
    """Tokens to evaluate together: of any sequences, each at its position."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.most = capacity
        self.count = 0
        self.outputs = 0
        self._token = np.zeros(capacity, np.int32)
        self._position = np.zeros(capacity, np.int32)
        self._sequences = np.ones(capacity, np.int32)
        self._ordinals = np.arange(capacity, dtype=np.int32)
        self._sequence = np.zeros(capacity, np.int32)
        self._wanted = np.zeros(capacity, np.int8)
        width = self._sequence.itemsize
        addresses = self._sequence.ctypes.data + width * np.arange(capacity, dtype=np.uintp)
        self._pointers = addresses.astype(np.uintp)
        self._struct = lib.llama_batch()
        self._struct.token = self._token.ctypes.data_as(ctypes.POINTER(ctypes.c_int32))
        self._struct.pos = self._position.ctypes.data_as(ctypes.POINTER(ctypes.c_int32))
        self._struct.n_seq_id = self._sequences.ctypes.data_as(ctypes.POINTER(ctypes.c_int32))
        self._struct.seq_id = ctypes.cast(
            self._pointers.ctypes.data, ctypes.POINTER(ctypes.POINTER(ctypes.c_int32))
        )
        self._struct.logits = self._wanted.ctypes.data_as(ctypes.POINTER(ctypes.c_int8))

    @property
    def room(self) -> int:
        """Tokens that still fit."""
        return self.most - self.count

    def clear(self, most: int | None = None) -> None:
        """Begin anew, with `most` tokens or as many as there can be."""
        self.most = self.capacity if most is None else most
        self.count = 0
        self.outputs = 0

    def add(self, sequence: int, position: int, tokens: Sequence[int], logits: str = "none") -> int:
        """
        Add a run of tokens; `logits` wanted of: "none", "last" or "all" of them.

        Gives the row that the first of these logits has in `Context.logits`.
        """
        start, end = self.count, self.count + len(tokens)
        self._token[start:end] = tokens
        self._position[start:end] = self._ordinals[: len(tokens)] + position
        self._sequence[start:end] = sequence
        self._wanted[start:end] = logits == "all"
        row = self.outputs
        if logits == "last":
            self._wanted[end - 1] = 1
        self.outputs += {"none": 0, "last": 1, "all": len(tokens)}[logits]
        self.count = end
        return row

    def struct(self) -> Any:
        """The C struct, valid until the next change."""
        self._struct.n_tokens = self.count
        return self._struct
