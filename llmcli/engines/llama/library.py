"""
llama.cpp, seen from Python: a model, its vocabulary, a context, a batch.

The one file that touches llama_cpp, and it runs in the engine's child process
only: most mistakes here end the process, not in an exception. Thin wrappers over the
low-level API with the field's names; no policy.
"""

from __future__ import annotations

import codecs
import ctypes
import sys
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import llama_cpp
import numpy as np
from llama_cpp import llama_cpp as lib
from llama_cpp._ggml import libggml

Array = np.ndarray[Any, np.dtype[Any]]

KV_TYPES = {"f32": 0, "f16": 1, "q4_0": 2, "q4_1": 3, "q5_0": 6, "q5_1": 7, "q8_0": 8}
LOG_WARN = 3  # ggml_log_level (ggml.h): 1 debug, 2 info, 3 warn, 4 error, 5 continuation
LOG_ERROR = 4
# What llama_decode says of a decode that we have aborted: no fault, and nobody's last words.
LINES_OF_AN_ABORT = (
    "failed with error 1",
    "compute status: 1",
    "removing memory module entries",
    "failed to decode, ret = 2",
)


class LoadError(Exception):
    """llama.cpp refused a file or a setting; the text is its last word on it."""


def build() -> str:
    """Which llama.cpp this is, as far as it says."""
    return f"llama-cpp-python {llama_cpp.__version__} (llama.cpp {lib.llama_version().decode()})"


def system_info() -> str:
    """The CPU features and back ends that llama.cpp was built with."""
    return str(lib.llama_print_system_info().decode("utf-8", "replace"))


@dataclass(frozen=True)
class Device:
    """A place where llama.cpp can compute; memory in bytes."""

    name: str
    description: str
    gpu: bool
    free: int
    total: int


def devices() -> list[Device]:
    """Every device that llama.cpp sees, the CPU included."""
    ggml = libggml
    ggml.ggml_backend_dev_count.restype = ctypes.c_size_t
    ggml.ggml_backend_dev_get.restype = ctypes.c_void_p
    ggml.ggml_backend_dev_get.argtypes = [ctypes.c_size_t]
    for name in ("ggml_backend_dev_name", "ggml_backend_dev_description"):
        getattr(ggml, name).restype = ctypes.c_char_p
        getattr(ggml, name).argtypes = [ctypes.c_void_p]
    ggml.ggml_backend_dev_type.argtypes = [ctypes.c_void_p]
    size_p = ctypes.POINTER(ctypes.c_size_t)
    ggml.ggml_backend_dev_memory.argtypes = [ctypes.c_void_p, size_p, size_p]
    found = []
    for index in range(ggml.ggml_backend_dev_count()):
        device = ggml.ggml_backend_dev_get(index)
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        ggml.ggml_backend_dev_memory(device, ctypes.byref(free), ctypes.byref(total))
        kind = ggml.ggml_backend_dev_type(device)  # ggml-backend.h: 0 CPU, 1 GPU, 2 integrated GPU
        found.append(
            Device(
                ggml.ggml_backend_dev_name(device).decode("utf-8", "replace"),
                ggml.ggml_backend_dev_description(device).decode("utf-8", "replace"),
                kind in (1, 2),
                free.value,
                total.value,
            )
        )
    return found


def supports_gpu() -> bool:
    """Whether this build can put layers on a GPU."""
    return bool(lib.llama_supports_gpu_offload())


class Log:
    """
    llama.cpp's log: the last lines kept, warnings and errors passed to standard error.

    Standard error is the parent's file; when the process aborts, that is where it
    finds the last words.
    """

    def __init__(self) -> None:
        self.lines: deque[str] = deque(maxlen=200)
        self._level = 0
        self._callback = lib.llama_log_callback(self._write)
        lib.llama_log_set(self._callback, ctypes.c_void_p(0))

    def _write(self, level: int, text: bytes, _data: object) -> None:
        if level != 5:
            self._level = level
        line = text.decode("utf-8", "replace").rstrip("\n")
        if not line.strip(". "):
            return
        if any(words in line for words in LINES_OF_AN_ABORT):
            return
        self.lines.append(line)
        if self._level in (LOG_WARN, LOG_ERROR):
            sys.stderr.write(line + "\n")
            sys.stderr.flush()

    def last_error(self) -> str:
        """The most telling of the last lines."""
        telling = [line for line in self.lines if "error" in line.lower() or "fail" in line.lower()]
        lines = telling or list(self.lines)
        return lines[0].strip() if lines else "no reason given"


class Model:
    """A loaded GGUF and its vocabulary."""

    def __init__(
        self,
        path: str,
        log: Log,
        *,
        gpu_layers: int = 0,
        no_space_prefix: bool = False,
        progress: Callable[[float], None] | None = None,
    ) -> None:
        params = lib.llama_model_default_params()
        params.n_gpu_layers = gpu_layers
        if no_space_prefix:
            overrides = (lib.llama_model_kv_override * 2)()
            overrides[0].tag = lib.LLAMA_KV_OVERRIDE_TYPE_BOOL
            overrides[0].key = b"tokenizer.ggml.add_space_prefix"
            overrides[0].value.val_bool = False
            params.kv_overrides = overrides
        if progress is not None:
            report = progress

            def on_progress(fraction: float, _data: object) -> bool:
                report(fraction)
                return True

            self._progress = lib.llama_progress_callback(on_progress)
            params.progress_callback = self._progress
        log.lines.clear()
        self._model = lib.llama_model_load_from_file(path.encode(), params)
        if not self._model:
            raise LoadError(log.last_error())
        self._log = log
        self._vocab = lib.llama_model_get_vocab(self._model)
        self.vocab_size = int(lib.llama_vocab_n_tokens(self._vocab))
        self.context_train = int(lib.llama_model_n_ctx_train(self._model))
        self.recurrent = bool(lib.llama_model_is_recurrent(self._model))
        self.hybrid = bool(lib.llama_model_is_hybrid(self._model))
        self.encoder = bool(lib.llama_model_has_encoder(self._model))
        self.window = int(lib.llama_model_n_swa(self._model))
        self.layers = int(lib.llama_model_n_layer(self._model))
        self.bos = int(lib.llama_vocab_bos(self._vocab))
        self.eos = int(lib.llama_vocab_eos(self._vocab))
        self.eot = int(lib.llama_vocab_eot(self._vocab))
        self.add_bos = bool(lib.llama_vocab_get_add_bos(self._vocab))
        self.sentencepiece = int(lib.llama_vocab_type(self._vocab)) == lib.LLAMA_VOCAB_TYPE_SPM
        self.adapters: list[tuple[Any, float]] = []
        self._pieces: dict[int, bytes] = {}
        self._buffer = (ctypes.c_char * 256)()

    @property
    def parameters(self) -> int:
        """How many weights it has."""
        return int(lib.llama_model_n_params(self._model))

    @property
    def size(self) -> int:
        """Bytes of all tensors."""
        return int(lib.llama_model_size(self._model))

    def description(self) -> str:
        """Architecture, size class and quantisation, in llama.cpp's words."""
        buffer = ctypes.create_string_buffer(256)
        lib.llama_model_desc(self._model, buffer, 256)
        return buffer.value.decode("utf-8", "replace")

    def meta(self, key: str) -> str | None:
        """A metadata value as text."""
        for size in (4096, 1 << 20):
            buffer = ctypes.create_string_buffer(size)
            length = lib.llama_model_meta_val_str(self._model, key.encode(), buffer, size)
            if length < 0:
                return None
            if length < size:
                return buffer.value.decode("utf-8", "replace")
        return None

    def chat_template(self) -> str | None:
        """The chat template in the file, or None."""
        found = lib.llama_model_chat_template(self._model, None)
        return found.decode("utf-8", "replace") if found else None

    def load_adapter(self, path: str, scale: float) -> None:
        """Load a LoRA adapter, used by every context made afterwards."""
        self._log.lines.clear()
        adapter = lib.llama_adapter_lora_init(self._model, path.encode())
        if not adapter:
            raise LoadError(self._log.last_error())
        self.adapters.append((adapter, scale))

    def tokenize(self, text: str, *, special: bool = False) -> list[int]:
        """
        Token ids of a text as it stands: nothing added, control tokens only with `special`.

        Needs a thread with a large stack: the regular expressions of some
        vocabularies recurse once per character of an unbroken run.
        """
        if not text:
            return []
        data = text.encode()
        size = len(data) + 8
        ids = (ctypes.c_int32 * size)()
        count = lib.llama_tokenize(self._vocab, data, len(data), ids, size, False, special)
        if count < 0:
            ids = (ctypes.c_int32 * -count)()
            count = lib.llama_tokenize(self._vocab, data, len(data), ids, -count, False, special)
        return list(ids[:count])

    def piece(self, token: int, *, special: bool = False) -> bytes:
        """The whole text of a token, in bytes: it may be a part of a character, or longer than a line."""
        key = token if not special else ~token
        known = self._pieces.get(key)
        if known is not None:
            return known
        buffer, size = self._buffer, 256
        length = lib.llama_token_to_piece(self._vocab, token, buffer, size, 0, special)
        if length < 0:  # llama-cpp-python's own detokenizer drops these
            size = -length
            buffer = (ctypes.c_char * size)()
            length = lib.llama_token_to_piece(self._vocab, token, buffer, size, 0, special)
        found = bytes(buffer.raw[:length])
        self._pieces[key] = found
        return found

    def token_text(self, token: int) -> str:
        """A token's text as it stands in the vocabulary."""
        if not 0 <= token < self.vocab_size:
            return ""
        found = lib.llama_vocab_get_text(self._vocab, token)
        return found.decode("utf-8", "replace") if found else ""

    def special_tokens(self) -> dict[int, int]:
        """Id → attributes of every control and user-defined token."""
        wanted = lib.LLAMA_TOKEN_ATTR_CONTROL | lib.LLAMA_TOKEN_ATTR_USER_DEFINED
        attribute, vocab = lib.llama_vocab_get_attr, self._vocab
        found = ((token, attribute(vocab, token)) for token in range(self.vocab_size))
        return {token: bits for token, bits in found if bits & wanted}

    @cached_property
    def unwritten(self) -> list[int]:
        """The control tokens that have no text in an answer and do not end it."""
        special = self.special_tokens()
        return [t for t, bits in special.items() if is_control(bits) and not self.ends_generation(t)]

    def ends_generation(self, token: int) -> bool:
        """Whether the model means to stop with this token."""
        return bool(lib.llama_vocab_is_eog(self._vocab, token))

    def free(self) -> None:
        """Give the memory back."""
        lib.llama_model_free(self._model)


def is_control(attributes: int) -> bool:
    """Whether a token's attributes make it a control token."""
    return bool(attributes & lib.LLAMA_TOKEN_ATTR_CONTROL)


def strips(attributes: int) -> tuple[bool, bool]:
    """Whether a token takes the white space on its left, and on its right, with it."""
    return bool(attributes & lib.LLAMA_TOKEN_ATTR_LSTRIP), bool(attributes & lib.LLAMA_TOKEN_ATTR_RSTRIP)


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
    """The shape of a context: `cells` tokens of KV cache, `sequences` at most, decodes of `batch` tokens."""

    cells: int
    sequences: int
    batch: int
    threads: int
    unified: bool = True
    flash_attention: bool | None = None
    kv_type: str | None = None


class Context:
    """A KV cache with its compute graph. Not for two threads at once."""

    def __init__(self, model: Model, settings: ContextSettings, abort: AbortSwitch, log: Log) -> None:
        params = lib.llama_context_default_params()
        params.n_ctx = settings.cells
        params.n_batch = settings.batch
        params.n_ubatch = settings.batch
        params.n_seq_max = settings.sequences
        params.n_threads = settings.threads
        params.n_threads_batch = settings.threads
        params.kv_unified = settings.unified
        params.swa_full = True
        params.no_perf = True
        params.abort_callback = abort.function
        params.abort_callback_data = abort.data
        if settings.flash_attention is not None:
            params.flash_attn_type = int(settings.flash_attention)
        if settings.kv_type is not None:
            params.type_k = params.type_v = KV_TYPES[settings.kv_type]
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

    def state(self, sequence: int) -> bytes:
        """What the cache holds of a sequence, to be given to `set_state`; empty where it cannot be had."""
        size = lib.llama_state_seq_get_size(self._context, sequence)
        buffer = (ctypes.c_uint8 * size)()
        written = lib.llama_state_seq_get_data(self._context, buffer, size, sequence)
        return bytes(buffer) if written == size else b""

    def set_state(self, sequence: int, state: bytes) -> bool:
        """
        Let a sequence be what `state` gave; False, and an empty sequence, where it does not fit.

        llama.cpp believes what it reads: only what came from `state`, of the same model and settings.
        """
        buffer = (ctypes.c_uint8 * len(state)).from_buffer_copy(state)
        done = bool(lib.llama_state_seq_set_data(self._context, buffer, len(state), sequence) == len(state))
        if not done:
            self.clear(sequence)
        return done

    def free(self) -> None:
        """Give the memory back."""
        lib.llama_free(self._context)


class Batch:
    """Tokens to evaluate together: of any sequences, each at its position."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
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
        return self.capacity - self.count

    def clear(self) -> None:
        """Begin anew."""
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


class Sampler:
    """
    llama.cpp's own sampler chain: top-k, top-p, min-p, temperature, draw.

    top-k comes first: top-p alone over a vocabulary of 152k costs 15–19 ms a token.
    """

    def __init__(self, *, temperature: float, top_k: int, top_p: float, min_p: float, seed: int) -> None:
        self._chain = lib.llama_sampler_chain_init(lib.llama_sampler_chain_default_params())
        if temperature <= 0:
            lib.llama_sampler_chain_add(self._chain, lib.llama_sampler_init_greedy())
            return
        lib.llama_sampler_chain_add(self._chain, lib.llama_sampler_init_top_k(top_k))
        if top_p < 1:
            lib.llama_sampler_chain_add(self._chain, lib.llama_sampler_init_top_p(top_p, 1))
        if min_p > 0:
            lib.llama_sampler_chain_add(self._chain, lib.llama_sampler_init_min_p(min_p, 1))
        lib.llama_sampler_chain_add(self._chain, lib.llama_sampler_init_temp(temperature))
        lib.llama_sampler_chain_add(self._chain, lib.llama_sampler_init_dist(seed & 0xFFFFFFFF))

    def choose(self, candidates: Candidates) -> int:
        """Draw one of the candidates; which one stands in `candidates` afterwards."""
        lib.llama_sampler_apply(self._chain, ctypes.byref(candidates.struct))
        return candidates.selected()

    def free(self) -> None:
        """Give the memory back."""
        lib.llama_sampler_free(self._chain)


class Grammar:
    """A GBNF grammar as a filter on candidates. The text must be validated before it comes here."""

    def __init__(self, model: Model, gbnf: str) -> None:
        self._sampler = lib.llama_sampler_init_grammar(model._vocab, gbnf.encode(), b"root")
        if not self._sampler:
            raise LoadError("the grammar cannot be used")

    def filter(self, candidates: Candidates) -> None:
        """Take away what the grammar does not allow next (logit minus infinity)."""
        lib.llama_sampler_apply(self._sampler, ctypes.byref(candidates.struct))

    def accept(self, token: int) -> None:
        """Go on by this token, which the grammar allows."""
        lib.llama_sampler_accept(self._sampler, token)

    def free(self) -> None:
        """Give the memory back."""
        lib.llama_sampler_free(self._sampler)


class Candidates:
    """Token ids with their logits, as samplers take them."""

    _dtype = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)])

    def __init__(self, capacity: int) -> None:
        self._data = np.zeros(capacity, self._dtype)
        self._all = np.arange(capacity, dtype=np.int32)
        self._pointer = self._data.ctypes.data_as(ctypes.POINTER(lib.llama_token_data))
        self.struct = lib.llama_token_data_array()

    def fill(self, logits: Array) -> Candidates:
        """Every token of the vocabulary."""
        self._data["id"] = self._all
        self._data["logit"] = logits
        self._reset(len(logits))
        return self

    def only(self, token: int, logit: float) -> Candidates:
        """A single token."""
        self._data[0] = (token, logit, 0)
        self._reset(1)
        return self

    def _reset(self, size: int) -> None:
        self.struct.data = self._pointer  # a sampler may have put its own there
        self.struct.size = size
        self.struct.selected = -1
        self.struct.sorted = False

    def best(self) -> tuple[int, float]:
        """The likeliest candidate and its logit."""
        data = self._data[: self.struct.size]
        index = int(np.argmax(data["logit"]))
        return int(data["id"][index]), float(data["logit"][index])

    def selected(self) -> int:
        """What a sampler chose."""
        return int(self.struct.data[self.struct.selected].id)


class TextBuilder:
    """Token pieces joined to text: a character comes out when its last byte is there, never before."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def add(self, piece: bytes) -> str:
        """The text that this piece completes."""
        return self._decoder.decode(piece)

    def finish(self) -> str:
        """What is left: a replacement character for a cut one."""
        return self._decoder.decode(b"", final=True)
