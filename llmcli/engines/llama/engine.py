"""
The local engine, the parent's side: prompts to a child process that holds the model.

Starts the child before anything else is done, checks the file's header before the child
may load it, and sees to it that no death of the child is the end of llm.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from llmcli.engines.base import EngineInfo, EngineOptions
from llmcli.engines.llama import wire
from llmcli.engines.llama.calls import Call, Died
from llmcli.engines.llama.constraints import checked, constrained
from llmcli.engines.llama.loading import load_message
from llmcli.engines.llama.process import ChildProcess
from llmcli.errors import EngineCrashed, LlmError, ModelError
from llmcli.messages import Completion, LabelScores, Piece, Prompt, Sampling
from llmcli.models import gguf
from llmcli.models.checksum import sha256_of
from llmcli.models.resolve import ModelFile

DELETED = (0, 0, 0, 0)
LOADINGS = 3
"""How often in a row a model that has been loaded is loaded anew: each of these children may die too."""


@dataclass(eq=False)
class _Loading:
    """One child's loading of the model: `done` when it said how that went, or died."""

    done: threading.Event = field(default_factory=threading.Event)
    result: wire.Loaded | LlmError | None = None


class Stream:
    """A generator that another thread may close: a running one refuses, so it is asked to end by itself."""

    def __init__(
        self, items: Generator[Piece | Completion, None, None], ask_to_end: Callable[[], None]
    ) -> None:
        self._items = items
        self._ask_to_end = ask_to_end

    def __iter__(self) -> Iterator[Piece | Completion]:
        return self

    def __next__(self) -> Piece | Completion:
        return next(self._items)

    def close(self) -> None:
        """Cancel."""
        self._ask_to_end()
        with suppress(ValueError):
            self._items.close()


class LlamaEngine:
    """A GGUF in a child process. Its calls may come from several threads."""

    def __init__(self, model: ModelFile, options: EngineOptions) -> None:
        self._model = model
        self._options = options
        self._ids = itertools.count(1)
        self._lock = threading.RLock()
        self._calls: set[Call] = set()
        self._routes: dict[int, SimpleQueue[Any]] = {}
        self._activity = "starting"
        self._closed = False
        self._obituary = EngineCrashed("the engine died")
        self.epoch = self._last_loaded = 0
        self._start_child()  # imports while we look at the file
        try:
            self._stamps = _stamps(model.parts)
            self._header = gguf.check(model.path)
            for adapter, _ in options.lora:
                gguf.check_adapter(Path(adapter))
        except BaseException:  # Ctrl-C too: nobody else knows of the child yet
            self.close()
            raise
        self._started = time.time() if options.started is None else options.started
        self.send(load_message(self._model, self._header, self._options, self._started), self.epoch)

    # Engine

    @cached_property
    def info(self) -> EngineInfo:
        """Waits for the model to be loaded, and for its file's SHA-256 where that is not remembered."""
        loaded = self._loaded()
        options = self._options
        settings = (
            f"kv={options.kv_type or 'f16'}",
            f"sequential={options.sequential}",
            *(f"lora={sha256_of(Path(path))}:{scale}" for path, scale in options.lora),
        )
        return EngineInfo(
            engine="llama",
            model=self._model.name,
            sha256=sha256_of(self._model.path),
            quantisation=self._header.quantisation,
            context=loaded.context,
            build=loaded.build,
            settings=settings,
            recommended=self._header.recommended_sampling(),
            longest=self._header.context_length or 0,
        )

    @property
    def activity(self) -> str:
        """What it is busy with, for somebody who waits ("loading the model, 40%"), or nothing."""
        return self._activity

    @property
    def where(self) -> str:
        """The model, its layers' place, threads and room, in one line; waits for the model."""
        loaded = self._loaded()
        together = "one text" if loaded.parallel == 1 else f"up to {loaded.parallel} texts"
        return (
            f"{self._model.name}: {loaded.where}, a context of {loaded.context:,} tokens, {together} at once"
        )

    def count_tokens(self, items: Sequence[Prompt | str]) -> list[int]:
        """Tokens of prompts through the chat template, and of texts as they stand."""
        message = self._ask(lambda request: wire.Count(request, tuple(items)))
        assert isinstance(message, wire.Counted)
        return list(message.tokens)

    def read_ahead(self, prompt: Prompt, sampling: Sampling) -> None:
        """Tell the child what comes, and wait for nothing: no answer, no error, no model."""
        self.send(wire.Ahead(next(self._ids), prompt, sampling.max_tokens), self.epoch)

    def stream(self, prompt: Prompt, sampling: Sampling) -> Iterator[Piece | Completion]:
        """Pieces, then the Completion. Another thread may close it, also while this one waits for a piece."""
        inbox = SimpleQueue[Any]()
        return Stream(self._streamed(inbox, prompt, sampling), lambda: inbox.put(None))

    def _streamed(
        self, inbox: SimpleQueue[Any], prompt: Prompt, sampling: Sampling
    ) -> Generator[Piece | Completion, None, None]:
        grammar = constrained(sampling)
        self._loaded()
        request, done = self._open_route(inbox), False
        try:
            epoch = self.epoch
            if not self.send(wire.Generate(request, prompt, grammar, stream=True), epoch):
                inbox.put(Died(epoch))
            while not done:
                item = _next(inbox, epoch)
                if isinstance(item, Died):
                    raise self.revive(item.epoch)
                if item is None:
                    return
                if isinstance(item, wire.Written):
                    yield Piece(item.text, item.thinking)
                    continue
                done = True
                answer = checked(self.answer(item), sampling)
                if isinstance(answer, LlmError):
                    raise answer
                yield answer
        finally:
            self.forget(request)
            if not done:
                self.cancel((request,))

    def generate(
        self, prompts: Iterable[Prompt], sampling: Sampling
    ) -> Iterator[tuple[int, Completion | LlmError]]:
        """Answer every prompt, many at a time."""
        grammar = constrained(sampling)
        self._loaded()

        def ask(number: int, prompt: Prompt, many: bool) -> wire.Generate:
            return wire.Generate(number, prompt, grammar, many=many)

        call = Call(self, prompts, ask, expects_more=True)
        for position, answer in call.results():
            yield position, checked(answer, sampling)

    def score(
        self, prompts: Iterable[Prompt], labels: Sequence[str]
    ) -> Iterator[tuple[int, LabelScores | LlmError]]:
        """Score every label as the answer to every prompt."""
        self._loaded()
        wanted = tuple(labels)
        yield from Call(self, prompts, lambda i, prompt, many: wire.Score(i, prompt, wanted, many)).results()

    @property
    def pid(self) -> int:
        """The process id of the child that lives now."""
        return self._child.pid

    def measure(self) -> wire.Measured:
        """How the child has spent its time; for benchmarks."""
        message = self._ask(wire.Measure)
        assert isinstance(message, wire.Measured)
        return message

    def close(self) -> None:
        """End the child."""
        with self._lock:
            self._closed = True
            self._child.close()

    # for calls

    def register(self, call: Call) -> None:
        """This call is told of deaths."""
        with self._lock:
            self._calls.add(call)

    def unregister(self, call: Call) -> None:
        """This call is over."""
        with self._lock:
            self._calls.discard(call)

    def new_id(self, call: Call) -> int:
        """An id whose answers go to this call."""
        return self._open_route(call.inbox)

    def forget(self, request: int) -> None:
        """What still comes for this id is of no interest."""
        self._routes.pop(request, None)

    def send(self, message: wire.ToChild, epoch: int) -> bool:
        """
        To the child of this epoch; False where it has died.

        Raises UnreadableInput for a text with half a surrogate pair.
        """
        with self._lock:
            child = self._child if epoch == self.epoch else None
        return child is not None and child.send(message)

    def cancel(self, requests: tuple[int, ...]) -> None:
        """These are not wanted any more; with the child that they were sent to, they are gone anyway."""
        self.send(wire.Cancel(requests), self.epoch)

    def answer(self, message: Any) -> Completion | LabelScores | LlmError:
        """What a message means; ModelError where the file was changed under the model."""
        self._check_file()
        if isinstance(message, wire.Answered):
            return message.completion
        if isinstance(message, wire.Scored):
            return message.scores
        assert isinstance(message, wire.Failed), message
        return wire.as_error(message)

    def revive(self, epoch: int) -> EngineCrashed:
        """
        Start a new child in the place of one that died, once for all calls; what killed it.

        Raises ModelError where the model file was changed, which is then the reason,
        and EngineCrashed where the new child cannot load the model.
        """
        reason = self._replace(epoch, "at work")
        self._loaded()
        return reason

    def _replace(self, epoch: int, doing: str) -> EngineCrashed:
        """
        Start a new child for the one of this epoch, which died, unless somebody else has seen to that.

        Gives what killed the last one that was replaced.
        """
        with self._lock:
            if self._closed:
                raise EngineCrashed("the engine is closed")
            if epoch == self.epoch:
                self._obituary = self._child.obituary(doing)
                self._check_file()
                self._child.close()
                # What is mapped of a deleted file stays whole, until it must be loaded.
                try:
                    load = load_message(self._model, self._header, self._options, self._started)
                except OSError as error:
                    raise ModelError(f"{self._model.path} was deleted while it was in use") from error
                self.epoch += 1
                self._start_child()
                self.send(load, self.epoch)
            return self._obituary

    # the child

    def _start_child(self) -> None:
        epoch, loading = self.epoch, _Loading()
        self._loading = loading
        self._child = ChildProcess(lambda message: self._receive(epoch, loading, message))

    def _receive(self, epoch: int, loading: _Loading, message: wire.ToParent | None) -> None:
        """On the listening thread: every message of the child, and None at its end."""
        if message is None:
            loading.done.set()
            self._bury(epoch)
        elif isinstance(message, wire.Progress):
            self._activity = message.text
        elif isinstance(message, wire.Loaded):
            self._activity = ""
            self._last_loaded = epoch
            loading.result = message
            loading.done.set()
        elif isinstance(message, wire.Failed) and message.id == 0:
            loading.result = wire.as_error(message)
            loading.done.set()
        else:
            route = self._routes.get(message.id)
            if route is not None:
                route.put(message)
            if not isinstance(message, wire.Written):
                self._activity = ""

    def _bury(self, epoch: int) -> None:
        """
        Tell everybody who waits for an answer.

        Also where a new child is there already: who asked that one knows by the epoch that it is not meant.
        """
        with self._lock:
            at_work = {id(inbox): inbox for inbox in list(self._routes.values())}
            everybody = at_work | {id(call.inbox): call.inbox for call in self._calls}
        for inbox in everybody.values():
            inbox.put(Died(epoch, alone=len(at_work) == 1))

    def _loaded(self) -> wire.Loaded:
        """
        Wait for the model; raises what kept it from being loaded.

        What kills one child may kill the next before it has loaded, so that one is replaced as well. The very
        first is not: a file that kills whoever loads it is told of at once.
        """
        doing = f"while loading {self._model.path}"
        while True:
            with self._lock:
                child, loading, epoch = self._child, self._loading, self.epoch
            loading.done.wait()
            if isinstance(loading.result, LlmError):
                raise loading.result
            if loading.result is not None:
                return loading.result
            if self._closed:
                raise EngineCrashed("the engine is closed")
            if epoch == 0 or epoch >= self._last_loaded + LOADINGS:
                self._check_file()
                raise child.obituary(doing)
            self._replace(epoch, doing)

    def _open_route(self, inbox: SimpleQueue[Any]) -> int:
        request = next(self._ids)
        self._routes[request] = inbox
        return request

    def _ask(self, make_request: Callable[[int], wire.ToChild]) -> Any:
        """One request, one answer; asked again where the child dies meanwhile, maybe of something else."""
        item = self._ask_once(make_request)
        if isinstance(item, Died):
            self.revive(item.epoch)
            item = self._ask_once(make_request)
        if isinstance(item, Died):
            raise self.revive(item.epoch)
        if isinstance(item, wire.Failed):
            raise wire.as_error(item)
        return item

    def _ask_once(self, make_request: Callable[[int], wire.ToChild]) -> Any:
        self._loaded()
        inbox = SimpleQueue[Any]()
        request, epoch = self._open_route(inbox), self.epoch
        try:
            return _next(inbox, epoch) if self.send(make_request(request), epoch) else Died(epoch)
        finally:
            self.forget(request)

    def _check_file(self) -> None:
        """Notice a model file that was replaced or cut while it is in use."""
        # What is mapped of a deleted file stays whole.
        if any(now not in (then, DELETED) for now, then in zip(_stamps(self._model.parts), self._stamps)):
            raise ModelError(
                f"{self._model.path} was changed while it was in use",
                "run the command again when the file is complete",
            )


def _next(inbox: SimpleQueue[Any], epoch: int) -> Any:
    """What comes for somebody who has asked the child of this epoch; not the deaths of those before it."""
    while True:
        item = inbox.get()
        if not isinstance(item, Died) or item.epoch >= epoch:
            return item


def _stamps(parts: Sequence[Path]) -> list[tuple[int, int, int, int]]:
    stamps = []
    for part in parts:
        try:
            state = part.stat()
        except OSError:
            stamps.append(DELETED)
            continue
        stamps.append((state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns))
    return stamps
