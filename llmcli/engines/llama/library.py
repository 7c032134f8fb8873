"""
llama.cpp, seen from Python: its devices, its log, a model and its vocabulary.

With `context` and `samplers` the only files that touch llama_cpp, and they run in the engine's
child process only: most mistakes here end the process, not in an exception. Thin wrappers over
the low-level API with the field's names; no policy.
"""

from __future__ import annotations

import ctypes
import sys
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import llama_cpp
import numpy as np
from llama_cpp import llama_cpp as lib
from llama_cpp._ggml import libggml

Array = np.ndarray[Any, np.dtype[Any]]

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


def layers_that_fit(model_bytes: int, layers: int, free: int) -> int:
    """
    How many of a model's layers, its output counted as one, fit into a GPU with a fifth of it to spare.

    >>> [layers_that_fit(12_000_000_000, 25, free * 10**9) for free in (0, 8, 16)]
    [0, 13, 25]
    """
    return min(layers, free * 8 // 10 * layers // max(model_bytes, 1))


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

    _in_use: ClassVar[Log | None] = None  # llama.cpp keeps its address, whoever else has dropped it

    def __init__(self) -> None:
        self.lines: deque[str] = deque(maxlen=200)
        self._level = 0
        self._callback = lib.llama_log_callback(self._write)
        lib.llama_log_set(self._callback, ctypes.c_void_p(0))
        Log._in_use = self

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
        mapped: bool = True,
        progress: Callable[[float], None] | None = None,
    ) -> None:
        params = lib.llama_model_default_params()
        params.n_gpu_layers = gpu_layers
        if not mapped:  # nothing of the file is needed once it is loaded
            params.load_mode = lib.LLAMA_LOAD_MODE_NONE
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
        size = f"{lib.llama_model_n_params(self._model) / 1e6:.3g}M"
        return buffer.value.decode("utf-8", "replace").replace("?B", size)  # of a size it has no class for

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
