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
from contextlib import AbstractContextManager, nullcontext
from multiprocessing.connection import Connection
from pathlib import Path

from llmcli import machine, paths
from llmcli.engines.llama import amx, wire
from llmcli.engines.llama.chat_template import ChatTemplate
from llmcli.engines.llama.context import KV_TYPES
from llmcli.engines.llama.library import (
    LoadError,
    Log,
    Model,
    build,
    devices,
    layers_that_fit,
    supports_gpu,
    system_info,
)
from llmcli.engines.llama.loading import VNNI
from llmcli.engines.llama.prefix_files import PrefixFiles
from llmcli.engines.llama.requests import (
    CPU_BATCH,
    EXACT_PIECE,
    EXACT_PROMPT,
    GPU_BATCH,
    LARGEST_APART,
    LONGEST_APART,
    SEARCHED_MORE,
    Limits,
    Request,
    too_long,
)
from llmcli.engines.llama.scheduler import Scheduler
from llmcli.engines.llama.thinking import marks_of
from llmcli.engines.llama.tokens import Tokenizer
from llmcli.engines.llama.writer import Writer
from llmcli.errors import LlmError, ModelError, UsageError
from llmcli.messages import Completion, LabelScores, Piece, Prompt, Sampling

# 50,000 unbroken characters need it: some vocabularies' regular expressions recurse per character.
TOKENIZER_STACK = 512 * 1024 * 1024
LONGEST_LABEL = 64
DEFAULT_PARALLEL = 32


def main() -> None:
    """Serve the parent on the file descriptor named on the command line, until it goes away."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's; it cancels on the wire
    unusable = set() if amx.settle() else {"amx_int8"}
    if "VNNI = 1" not in system_info():  # llama.cpp was compiled for any processor
        unusable |= {*VNNI}
    connection = Connection(int(sys.argv[1]))
    Child(connection, machine.cpu_flags() - unusable).run()


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
        self._scheduler.run()

    # loading

    def _load(self, load: wire.Load) -> None:
        if load.kv_type not in (None, *KV_TYPES):
            raise UsageError(
                f"{load.kv_type!r} is no type of a KV cache", f"known types: {', '.join(KV_TYPES)}"
            )
        self._model = model = self._load_model(load)
        for path, scale in load.lora:
            try:
                model.load_adapter(path, scale)
            except LoadError as error:
                raise ModelError(f"LoRA adapter {path} cannot be used: {error}") from error
        context = min(load.context or model.context_train, model.context_train)
        cells = max(512, load.memory // max(load.cell_bytes, 1))
        together = self._on_gpu or model.recurrent or model.hybrid or model.window
        batch = GPU_BATCH if self._on_gpu else CPU_BATCH
        self._can_be_alone = not (self._on_gpu or model.recurrent or model.hybrid)
        plain = not self._on_gpu and load.kv_type in (None, "f16", "f32")
        self._limits = Limits(
            context=min(context, cells) if load.context is None else context,
            cells=max(cells, load.context or 0),
            parallel=load.parallel or DEFAULT_PARALLEL,
            threads=load.threads,
            flash_attention=load.flash_attention,
            kv_type=load.kv_type,
            sequential=load.sequential,
            batch=batch,
            longest_apart=0 if together else min(LONGEST_APART, LARGEST_APART // max(load.cell_bytes, 1)),
            heads=load.heads if plain else 0,
            single=load.single,
        )
        self._scheduler = Scheduler(
            model, self._limits, self._log, self._emit, self._report, load.temperature_scale
        )
        self._scheduler.cache.files = files = _prefix_files(load, model)
        self._keeps_fixed = files is not None
        template = self._chat_template(load)
        self._template = template
        self._thinking = load.thinking or {}
        self._marks = marks_of(self._thinking, template.source if template is not None else "")
        self._tokenizer = Tokenizer(model, template, space_prefix=bool(load.space_prefix))
        self._send(
            wire.Loaded(
                self._limits.context, self._limits.parallel, build(), self._where, template is not None
            )
        )

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
            count = layers_that_fit(Path(load.path).stat().st_size, max(gpu.free for gpu in gpus))
        try:
            with self._wider_copy(load, count) as copy:
                model = Model(
                    copy or load.path,
                    self._log,
                    gpu_layers=count,
                    no_space_prefix=load.space_prefix is not None,
                    mapped=copy is None,
                    progress=lambda fraction: self._report(f"loading the model, {fraction:.0%}"),
                )
        except LoadError as error:
            raise ModelError(f"{load.path} cannot be loaded: {error}") from error
        if model.encoder:
            raise ModelError(f"{load.path} is an encoder model, which this program cannot run")
        self._on_gpu = on_gpu = min(count, model.layers + 1)
        place = f"{on_gpu} of {model.layers + 1} layers on {gpus[0].description}" if on_gpu else "CPU"
        self._where = (
            f"{model.description()}{' (q5_0 as q8_0)' if copy else ''}, {place}, "
            f"{load.threads} thread{'s' if load.threads != 1 else ''}"
        )
        return model

    def _wider_copy(self, load: wire.Load, gpu_layers: int) -> AbstractContextManager[str | None]:
        """A context that gives the path of a copy, or None."""
        if self._instructions.isdisjoint(load.widen_with) or gpu_layers:
            return nullcontext()
        from llmcli.engines.llama.widening import widened

        return widened(load.path, machine.free_memory(), load.threads)

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
                    self._scheduler.cancel(message.ids)
            elif isinstance(message, wire.Measure):
                scheduler = self._scheduler
                cache = scheduler.cache
                measured = (cache.decode_seconds, scheduler.busy_seconds, cache.decoded_tokens)
                self._send(wire.Measured(message.id, *measured))
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

    # prompts to requests

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
            counts = tuple(
                len(self._tokenizer.encode(item)) if isinstance(item, Prompt) else self._tokenizer.count(item)
                for item in message.items
            )
            self._send(wire.Counted(message.id, counts))
        elif isinstance(message, wire.Score):
            self._submit(self._score_request(message))
        elif isinstance(message, wire.Ahead):
            if not self._limits.sequential:  # there nothing stays from one prompt to the next
                self._submit(self._ahead_request(message))
        else:
            self._submit(self._generate_request(message))

    def _submit(self, request: Request) -> None:
        """To the scheduler, unless it was cancelled while it was tokenised."""
        with self._queue_lock:
            if request.id in self._queued:
                self._scheduler.submit(request)

    def _score_request(self, message: wire.Score) -> Request:
        prefix = self._thinking.get("answer_prefix") or ""
        if self._marks and not prefix and not (self._template and self._template.can_not_think):
            raise UsageError(
                "this model always thinks before it answers, so where its answer begins is not known",
                "set `thinking: {answer_prefix: …}` for it in models.yaml, or use another model for labels",
            )
        tokens, rests = self._tokenizer.encode_with_answers(message.prompt, message.labels, prefix)
        _see_some(tokens)
        longest = max(len(rest) for rest in rests)
        if longest > LONGEST_LABEL:
            raise UsageError(f"a label is {longest} tokens long", f"at most {LONGEST_LABEL} are scored")
        if len(tokens) + longest > self._limits.context:
            raise too_long(len(tokens) + longest, self._limits.context)
        further = sum(len(rest) - 1 for rest in rests)
        return Request(
            message.id,
            tokens,
            further,
            labels=message.labels,
            rests=rests,
            many=message.many,
            fixed=self._fixed(message.prompt, tokens),
        )

    def _generate_request(self, message: wire.Generate) -> Request:
        tokens = self._tokenizer.encode(message.prompt)
        _see_some(tokens)
        room = self._limits.context - len(tokens)
        wanted = message.sampling.max_tokens
        # An answer needs room too: a quarter of the context, where it may be that long.
        needed = min(wanted or 1, self._limits.context // 4)
        if room < needed:
            raise too_long(len(tokens) + needed, self._limits.context)
        budget = room if wanted is None else min(wanted, room)
        conversation = message.stream and message.prompt.fixed is None
        alone = conversation or self._limits.single or self._limits.sequential
        exact = not message.stream and not self._on_gpu and len(tokens) <= EXACT_PROMPT
        beams = message.sampling.beams if message.sampling.temperature == 0 else 1
        if beams > 1 and wanted is None and self._marks is None:
            budget = min(budget, 2 * len(tokens) + SEARCHED_MORE)
        beside = beams > 1 or (message.many and not self._limits.sequential)
        apart = beside and self._limits.together_apart(len(tokens) + budget, beams) > 0
        if beams > 1 and not apart:
            budget = self._budget_of_beams(len(tokens), budget, wanted, beams)
        inside = self._opened(message.prompt)  # renders the chat template, which belongs to this thread
        return Request(
            message.id,
            tokens,
            budget,
            make_writer=lambda limit: self._writer(message.prompt, message.sampling, limit, inside),
            stream=message.stream,
            many=message.many,
            stable=0 if message.many else self._tokenizer.stable(message.prompt, tokens),
            fixed=self._fixed(message.prompt, tokens),
            piece=EXACT_PIECE if exact else GPU_BATCH,
            apart=apart,
            alone=self._can_be_alone and (apart or alone) and beams == 1,
            beams=beams,
            wrote=self._tokenizer.remember,
        )

    def _budget_of_beams(self, tokens: int, budget: int, wanted: int | None, beams: int) -> int:
        """Tokens of an answer whose beams share one cache."""
        limits = self._limits
        room = (limits.cells - tokens) // beams
        states = limits.parallel if self._scheduler.cache.whole_only else beams
        if beams > states or room < (wanted or 1):
            raise UsageError(f"there is no room for {beams} beams of this text", "use fewer --beams")
        return min(budget, room)

    def _ahead_request(self, message: wire.Ahead) -> Request:
        tokens = self._tokenizer.coming(message.prompt)
        _see_some(tokens)
        room = self._limits.context - len(tokens)
        if room < 1:
            raise too_long(len(tokens) + 1, self._limits.context)
        budget = min(message.max_tokens or room, room)
        return Request(message.id, tokens, budget, alone=self._can_be_alone, ahead=True)

    def _fixed(self, prompt: Prompt, tokens: list[int]) -> int:
        return min(self._tokenizer.fixed(prompt, tokens), len(tokens) - 1) if self._keeps_fixed else 0

    def _opened(self, prompt: Prompt) -> bool:
        """Whether the chat template itself has opened the thinking."""
        if self._marks is None or self._template is None or prompt.raw is not None or prompt.continue_last:
            return False
        header = self._template.header(prompt.messages, thinking=prompt.thinking)
        return header.rstrip().endswith(self._marks.open)

    def _writer(self, prompt: Prompt, sampling: Sampling, budget: int, inside: bool) -> Writer:
        constrained = sampling.grammar is not None
        return Writer(
            self._model,
            prompt,
            sampling,
            budget=budget,
            candidates=self._scheduler.candidates,
            marks=None if constrained or prompt.raw is not None else self._marks,
            inside=inside,
            gbnf=sampling.grammar,
        )


def _see_some(tokens: list[int]) -> None:
    if not tokens:
        raise UsageError("the prompt is empty", "give it some text")


def _prefix_files(load: wire.Load, model: Model) -> PrefixFiles | None:
    """Where prefixes are kept, if they are: what runs with --sequential depends on its row alone."""
    if not load.prefix_key or load.sequential:
        return None
    # RoPE's settings are the model's, whose hash stands in the key: no option of ours changes them.
    settings = f"kv={load.kv_type} gpu={load.gpu_layers} {build()}"
    folder = paths.cache_dir() / "prefixes"
    return PrefixFiles(folder, f"{load.prefix_key}\n{settings}", load.prefix_bytes, model.parameters)
