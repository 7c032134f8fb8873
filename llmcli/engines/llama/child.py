"""
The process that holds the model: what arrives on the wire goes to the scheduler, answers go back.

Three threads. The reader takes messages off the wire and ends the process when
the parent's end closes, also in the middle of a decode. The tokenizer, on a large
stack, turns prompts into tokens. The main thread decodes.
"""

from __future__ import annotations

import datetime
import os
import queue
import signal
import sys
import threading
import traceback
from multiprocessing.connection import Connection

from llmcli import paths
from llmcli.engines.llama import wire
from llmcli.engines.llama.chat_template import ChatTemplate
from llmcli.engines.llama.copies import loadable, usable_instructions
from llmcli.engines.llama.lanes import Lanes
from llmcli.engines.llama.library import (
    LoadError,
    Log,
    Model,
    build,
    devices,
    layers_that_fit,
    supports_gpu,
)
from llmcli.engines.llama.prefix_files import PrefixFiles
from llmcli.engines.llama.preparing import Requests
from llmcli.engines.llama.requests import (
    CPU_BATCH,
    GPU_BATCH,
    LARGEST_APART,
    LONGEST_APART,
    Limits,
    Request,
)
from llmcli.engines.llama.scheduler import Scheduler
from llmcli.engines.llama.tokens import Tokenizer
from llmcli.errors import LlmError, ModelError, UsageError
from llmcli.kv_types import GGML_TYPES
from llmcli.messages import Completion, LabelScores, Piece

# 50,000 unbroken characters need it: some vocabularies' regular expressions recurse per character.
TOKENIZER_STACK = 512 * 1024 * 1024
DEFAULT_PARALLEL = 32
UNQUANTISED = (None, "f16", "f32")


def main() -> None:
    """Serve the parent on the file descriptor named on the command line, until it goes away."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's; it cancels on the wire
    instructions = usable_instructions()
    Child(Connection(int(sys.argv[1])), instructions).run()


class Child:
    """One loaded model and its three threads."""

    def __init__(self, connection: Connection, instructions: frozenset[str]) -> None:
        self._connection = connection
        self._instructions = instructions
        self._sending = threading.Lock()
        self._work: queue.SimpleQueue[wire.ToChild] = queue.SimpleQueue()
        self._tokenized = threading.Event()
        self._queued: set[int] = set()  # ids that the tokenizer has, or will have
        self._queue_lock = threading.Lock()
        self._log = Log()

    def run(self) -> None:
        """Load, then answer for ever."""
        try:
            load = wire.decode_to_child(self._connection.recv_bytes())
        except EOFError:
            os._exit(0)
        assert isinstance(load, wire.Load)
        reader = threading.Thread(target=self._read, daemon=True)
        reader.start()
        try:
            self._load(load)
        except LlmError as error:
            self._send(wire.failed(0, error))
            return
        threading.stack_size(TOKENIZER_STACK)
        threading.Thread(target=self._tokenize, daemon=True).start()
        threading.stack_size(0)
        self.lanes.run()

    # loading

    def _load(self, load: wire.Load) -> None:
        if load.kv_type not in (None, *GGML_TYPES):
            raise UsageError(
                f"{load.kv_type!r} is no type of a KV cache", f"known types: {', '.join(GGML_TYPES)}"
            )
        if load.flash_attention is False and load.kv_type not in UNQUANTISED:
            raise UsageError(
                f"a KV cache of {load.kv_type} needs flash attention",
                "leave out --kv-type, or set flash_attention to yes",
            )
        self._model = model = self._load_model(load)
        for path, scale in load.lora:
            try:
                model.load_adapter(path, scale)
            except LoadError as error:
                raise ModelError(f"LoRA adapter {path} cannot be used: {error}") from error
        context = min(load.context or model.context_train, model.context_train)
        memory = load.memory
        if self._on_gpu:  # with the weights there; of a cache for some layers only, part lies elsewhere
            memory = min(memory, max(device.free for device in devices() if device.gpu) * 8 // 10)
        cells = max(512, memory // max(load.cell_bytes, 1))
        whole = bool(self._on_gpu or model.recurrent or model.hybrid)
        longest = min(LONGEST_APART, LARGEST_APART // max(load.cell_bytes, 1))
        batch = GPU_BATCH if self._on_gpu else CPU_BATCH
        plain = not self._on_gpu and load.kv_type in UNQUANTISED
        parallel = load.parallel or DEFAULT_PARALLEL
        lanes = 1 if whole else min(load.lanes, parallel)
        self._limits = Limits(
            context=min(context, cells) if load.context is None else context,
            cells=max(cells // lanes, load.context or 0),
            parallel=-(-parallel // lanes),
            threads=max(1, load.threads // lanes),
            flash_attention=load.flash_attention,
            kv_type=load.kv_type,
            sequential=load.sequential,
            batch=batch,
            longest_apart=0 if whole or model.window else longest,
            heads=load.heads if plain else 0,
            single=load.single,
        )
        self.lanes = Lanes(
            [
                Scheduler(model, self._limits, self._log, self._emit, self._report, load.temperature_scale)
                for _ in range(lanes)
            ]
        )
        self.lanes.first.cache.files = files = _prefix_files(load, model, self._copied)
        template = self._chat_template(load)
        self._requests = Requests(
            model,
            self._limits,
            self.lanes.first,
            template,
            Tokenizer(model, template, space_prefix=bool(load.space_prefix)),
            load.thinking or {},
            keeps_fixed=files is not None,
            can_be_alone=not whole,
            on_gpu=bool(self._on_gpu),
        )
        self._send(wire.Loaded(self._limits.context, parallel, build(), self._where, template is not None))

    def _load_model(self, load: wire.Load) -> Model:
        gpus = [device for device in devices() if device.gpu]
        layers = load.gpu_layers
        asked = layers == "all" or (isinstance(layers, int) and layers > 0)
        if asked and not (supports_gpu() and gpus):
            raise UsageError(
                "the GPU was asked for, but llama.cpp "
                + ("finds none" if supports_gpu() else "was built without GPU support here"),
                "llm doctor tells how to install it for a GPU",
            )
        count = 999 if layers == "all" else layers if isinstance(layers, int) else 0
        if layers == "auto" and gpus:
            count = layers_that_fit(load.model_bytes, load.layers + 1, max(gpu.free for gpu in gpus))
        try:
            with loadable(load, self._instructions, on_gpu=count > 0, report=self._report) as file:
                model = Model(
                    file.path,
                    self._log,
                    gpu_layers=count,
                    no_space_prefix=load.space_prefix is not None,
                    mapped=file.mapped,
                    progress=lambda fraction: self._report(f"loading the model, {fraction:.0%}"),
                )
        except LoadError as error:
            raise ModelError(f"{load.path} cannot be loaded: {error}") from error
        if model.encoder:
            raise ModelError(f"{load.path} is an encoder model, which this program cannot run")
        self._copied = file.words
        self._on_gpu = on_gpu = min(count, model.layers + 1)
        place = f"{on_gpu} of {model.layers + 1} layers on {gpus[0].description}" if on_gpu else "CPU"
        self._where = (
            f"{model.description()}{file.words}, {place}, "
            f"{load.threads} thread{'s' if load.threads != 1 else ''}"
        )
        return model

    def _chat_template(self, load: wire.Load) -> ChatTemplate | None:
        source = load.chat_template or self._model.chat_template()
        if not source:
            return None
        return ChatTemplate(
            source,
            bos=self._model.token_text(self._model.bos),
            eos=self._model.token_text(self._model.eos),
            started=datetime.datetime.fromtimestamp(load.started),
            thinking_off=(load.thinking or {}).get("off"),
        )

    # the wire

    def _read(self) -> None:
        """Pass messages on; the end of the connection is the end of this process."""
        while True:
            try:
                message = wire.decode_to_child(self._connection.recv_bytes())
            except (EOFError, OSError):
                os._exit(0)
            if isinstance(message, wire.Cancel):
                with self._queue_lock:
                    self._queued.difference_update(message.ids)
                if self._tokenized.is_set():  # else nothing can have come further
                    self.lanes.cancel(message.ids)
            elif isinstance(message, wire.Measure):
                self._send(wire.Measured(message.id, *self.lanes.measured()))
            else:
                assert not isinstance(message, wire.Load)
                with self._queue_lock:
                    self._queued.add(message.id)
                self._work.put(message)

    def _send(self, message: wire.ToParent) -> None:
        try:
            with self._sending:
                self._connection.send_bytes(wire.encode(message))
        except OSError:
            os._exit(0)

    def _report(self, text: str) -> None:
        self._send(wire.Progress(text))

    def _emit(self, request: int, item: Piece | Completion | LabelScores | LlmError) -> None:
        if isinstance(item, Piece):
            self._send(wire.Written(request, item.text, item.thinking))
        elif isinstance(item, Completion):
            self._send(wire.Answered(request, item))
        elif isinstance(item, LabelScores):
            self._send(wire.Scored(request, item))
        else:
            self._send(wire.failed(request, item))

    # the tokenizer's thread

    def _tokenize(self) -> None:
        self._tokenized.set()
        while True:
            message = self._work.get()
            assert isinstance(message, (wire.Generate, wire.Score, wire.Count, wire.Ahead))
            if message.id not in self._queued:
                continue
            try:
                self._prepare(message)
            except LlmError as error:
                self._send(wire.failed(message.id, error))
            except Exception:
                # Only where it happened, not with what: a traceback's values may be somebody's text.
                place = "".join(traceback.format_tb(sys.exc_info()[2])[-1:]).strip().replace("\n", " ")
                self._send(wire.failed(message.id, LlmError(f"our bug while preparing a prompt: {place}")))
            with self._queue_lock:
                self._queued.discard(message.id)

    def _prepare(self, message: wire.Generate | wire.Score | wire.Count | wire.Ahead) -> None:
        if isinstance(message, wire.Count):
            self._send(wire.Counted(message.id, self._requests.counts(message)))
        elif isinstance(message, wire.Score):
            self._submit(self._requests.score(message))
        elif isinstance(message, wire.Ahead):
            if not self._limits.sequential:  # there nothing stays from one prompt to the next
                self._submit(self._requests.ahead(message))
        else:
            self._submit(self._requests.generate(message))

    def _submit(self, request: Request) -> None:
        """To the scheduler, unless it was cancelled while it was tokenised."""
        with self._queue_lock:
            if request.id in self._queued:
                self.lanes.submit(request)


def _prefix_files(load: wire.Load, model: Model, copied: str) -> PrefixFiles | None:
    """Where prefixes are kept, if they are: what runs with --sequential depends on its row alone."""
    if not load.prefix_key or load.sequential:
        return None
    # RoPE's settings are the model's, whose hash stands in the key: no option of ours changes them.
    settings = f"kv={load.kv_type} gpu={load.gpu_layers} {build()}{copied}"
    folder = paths.cache_dir() / "prefixes"
    return PrefixFiles(folder, f"{load.prefix_key}\n{settings}", load.prefix_bytes, model.parameters)
