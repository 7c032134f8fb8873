"""
The engine of a model behind a server: many requests at once, labels by top log-probabilities.

Each request goes out in the wording that this server has taken before; one that it refuses is
worded again, plainer. What is wanted and what comes back is in `protocol`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from queue import SimpleQueue
from threading import Lock, Semaphore, Thread
from typing import Any, TypeVar

import msgspec

import llmcli.engines.server.protocol as protocol
from llmcli.engines.base import EngineInfo, EngineOptions
from llmcli.engines.server.client import Cancel, Client, Patience
from llmcli.engines.server.counting import EXACT, Counter
from llmcli.engines.server.failures import Refused
from llmcli.engines.server.reference import EXAMPLE, Reference
from llmcli.errors import LlmError, ModelError, UnusableAnswer, UsageError
from llmcli.messages import Completion, LabelScores, Message, Piece, Prompt, Sampling

PARALLEL = 4
ASSUMED_CONTEXT = 8192  # tokens; for a server that does not say, and without --context

Json = dict[str, Any]
Answer = TypeVar("Answer")


class ServerEngine:
    """A model behind an OpenAI-compatible server. `reference` says where, `key` opens it."""

    def __init__(
        self, reference: Reference, options: EngineOptions, key: str = "", patience: Patience | None = None
    ) -> None:
        self._reference = reference
        self._options = options
        self._client = Client(reference, key, patience or Patience())
        self._running: set[Cancel] = set()
        self._lock = Lock()
        self._extras = True  # until the server refuses them
        self._format = 0  # the way of asking for JSON that the server takes, see protocol.formats
        self._plain = False  # it takes none of them
        self._top = True  # the server gives top log-probabilities
        listed = self._listed()
        model = reference.model or next(iter(listed), "")
        if not model:
            raise UsageError(f"{reference.url} does not say which model it has", hint=EXAMPLE)
        props = self._props()
        self._takes_grammars = bool(props)
        self.info = EngineInfo(
            engine="server",
            model=model,
            context=options.context or _context(listed.get(model), props) or ASSUMED_CONTEXT,
            build=str(props.get("build_info", "")),
            settings=(reference.url,),
        )
        self._counter = Counter(self._client, reference, model)

    def count_tokens(self, items: Sequence[Prompt | str]) -> list[int]:
        """Tokens of each item; `counting` says where they are exact and where estimated."""
        if len(items) > EXACT:
            return [self._counter.estimated(item) for item in items]
        counts = dict(self._each(items, lambda item, cancel: self._counter.count(item)))
        for count in counts.values():
            if isinstance(count, LlmError):
                raise count
        return [counts[position] for position in range(len(items))]  # type: ignore[misc]

    def read_ahead(self, prompt: Prompt, sampling: Sampling) -> None:
        """Not over the network: a server may charge for what it reads."""

    def stream(self, prompt: Prompt, sampling: Sampling) -> Iterator[Piece | Completion]:
        """Pieces as the server sends them; the last item is the Completion. Raises LlmError."""
        url = self._reference.url + protocol.path_of(prompt)
        writing = protocol.Writing(url)
        body = self._body(prompt, sampling)
        for event in self._worded(
            partial(self._events, url),
            body | {"stream": True},
            protocol.extras_of(prompt, sampling) | {"stream_options": {"include_usage": True}},
            _schema(sampling),
        ):
            yield from writing.pieces(event)
        yield writing.finish()

    def generate(
        self, prompts: Iterable[Prompt], sampling: Sampling
    ) -> Iterator[tuple[int, Completion | LlmError]]:
        """Answer every prompt, several at once, in the order in which answers come."""
        return self._each(prompts, lambda prompt, cancel: self._answer(prompt, sampling, cancel))

    def score(
        self, prompts: Iterable[Prompt], labels: Sequence[str]
    ) -> Iterator[tuple[int, LabelScores | LlmError]]:
        """
        Score the labels for every prompt: by the first token's top log-probabilities where the server gives
        them and they tell the labels apart; else the server chooses one and no probability is known.
        """
        names = tuple(labels)
        return self._each(prompts, lambda prompt, cancel: self._score(prompt, names, cancel))

    @property
    def where(self) -> str:
        """The model's name and the server's address."""
        return f"{self.info.model} at {self._reference.url}"

    def close(self) -> None:
        """Break off what is under way and close the connections."""
        with self._lock:
            running = list(self._running)
        for cancel in running:
            cancel.stop()
        self._client.close()

    # ------------------------------------------------------------ one prompt

    def _answer(self, prompt: Prompt, sampling: Sampling, cancel: Cancel) -> Completion:
        url = self._reference.url + protocol.path_of(prompt)
        extras = protocol.extras_of(prompt, sampling)
        reply = self._worded(
            self._poster(url, cancel), self._body(prompt, sampling), extras, _schema(sampling)
        )
        return protocol.Writing(url).whole(next(reply))

    def _score(self, prompt: Prompt, labels: tuple[str, ...], cancel: Cancel) -> LabelScores:
        if prompt.raw is not None:
            prompt = Prompt((Message("user", prompt.raw),))
        scores, refused = None, False
        if self._top:
            try:
                scores = self._first_token(prompt, labels, cancel)
            except Refused:
                refused = True
        scores = scores or self._choice(prompt, labels, cancel)
        if refused:  # the same prompt passed without log-probabilities: it is these that it does not give
            self._top = False
        return scores

    def _first_token(self, prompt: Prompt, labels: tuple[str, ...], cancel: Cancel) -> LabelScores | None:
        one_token = Sampling(max_tokens=1)
        url = self._reference.url + protocol.path_of(prompt)
        body = self._body(prompt, one_token) | {"logprobs": True, "top_logprobs": protocol.TOP}
        reply = next(
            self._worded(self._poster(url, cancel), body, protocol.extras_of(prompt, one_token), None)
        )
        return protocol.first_token_scores(reply, labels, self._options.temperature_scale)

    def _choice(self, prompt: Prompt, labels: tuple[str, ...], cancel: Cancel) -> LabelScores:
        room = Sampling(max_tokens=32 + 2 * max(map(len, labels)))
        url = self._reference.url + protocol.path_of(prompt)
        extras = protocol.extras_of(prompt, room)
        reply = self._worded(
            self._poster(url, cancel),
            self._body(prompt, room),
            extras,
            protocol.choice_schema(labels),
            plain=True,
        )
        return protocol.chosen_label(protocol.Writing(url).whole(next(reply)), labels)

    def _body(self, prompt: Prompt, sampling: Sampling) -> Json:
        body = protocol.body_of(prompt, self.info.model, sampling)
        if sampling.grammar is not None:
            if not self._takes_grammars:
                raise UsageError(f"{self._reference.url} takes no grammar", hint="use a schema instead")
            body["grammar"] = sampling.grammar
        return body

    def _worded(
        self,
        send: Callable[[Json], Iterator[Any]],
        body: Json,
        extras: Json,
        schema: Json | None,
        plain: bool = False,
    ) -> Iterator[Any]:
        """
        What `send` gives for the first wording of the request that the server takes.

        With the extras and without; a schema in each way of asking for it, from the one that was taken
        before; last, where `plain` allows it, without its schema. Raises the first refusal when all are
        refused.
        """
        styles: list[Json | None] = [None]
        if schema is not None and not (plain and self._plain):
            styles = [*protocol.formats(schema)[self._format :], *([None] if plain else [])]
        refusal: Refused | None = None
        for number, style in enumerate(styles, self._format):
            for more in (extras, {}) if self._extras and extras else ({},):
                worded = body | more | ({"response_format": style} if style else {})
                replies = send(worded)
                try:
                    first = next(replies)
                except Refused as error:
                    refusal = refusal or error
                    continue
                if style is not None:
                    self._format = number
                elif plain:
                    self._plain = True
                if refusal is not None and not more:
                    self._extras = False
                yield first
                yield from replies
                return
        assert refusal is not None
        raise refusal

    def _events(self, url: str, body: Json) -> Iterator[Any]:
        got_one = False
        for event in self._client.events(url, body):
            got_one = True
            yield event
        if not got_one:
            raise UnusableAnswer(f"{url} sent no event", hint="is it an OpenAI-compatible server?")

    def _poster(self, url: str, cancel: Cancel) -> Callable[[Json], Iterator[Any]]:
        def send(body: Json) -> Iterator[Any]:
            yield self._client.post(url, body, cancel)

        return send

    # ---------------------------------------------------------- many prompts

    def _each(
        self, items: Iterable[Any], work: Callable[[Any, Cancel], Answer]
    ) -> Iterator[tuple[int, Answer | LlmError]]:
        """
        Do `work` on items, several at once; items are drawn by whoever is free to work on them.

        At most `parallel` answers wait to be taken. Closing the iterator breaks off what is under way.
        """
        parallel = 1 if self._options.sequential else self._options.parallel or PARALLEL
        desk = _Desk(items, work, parallel)
        with self._lock:
            self._running.add(desk.cancel)
        try:
            yield from desk.answers()
        finally:
            desk.stop()
            with self._lock:
                self._running.discard(desk.cancel)

    # --------------------------------------------------------------- opening

    def _listed(self) -> dict[str, Json]:
        """The models that the server lists, by name; none where it has no list."""
        try:
            reply = self._client.get(f"{self._reference.url}/models", tries=2)
        except (Refused, ModelError):
            return {}
        data = reply.get("data") if isinstance(reply, dict) else None
        if not isinstance(data, list):
            raise UnusableAnswer(
                f"{self._reference.url}/models is no list of models",
                hint="is it an OpenAI-compatible server?",
            )
        return {str(one["id"]): one for one in data if isinstance(one, dict) and "id" in one}

    def _props(self) -> Json:
        """What a llama-server tells of itself; nothing from any other server."""
        try:
            reply = self._client.get(f"{self._reference.root}/props", tries=1)
        except LlmError:
            return {}
        return reply if isinstance(reply, dict) and "default_generation_settings" in reply else {}


class _Desk:
    """Threads that take items one by one, and the answers that they lay down."""

    def __init__(self, items: Iterable[Any], work: Callable[[Any, Cancel], Answer], parallel: int) -> None:
        self.cancel = Cancel()
        self._items = enumerate(items)
        self._work = work
        self._drawing = Lock()
        self._room = Semaphore(2 * parallel)  # items drawn and not yet taken as answers
        self._done: SimpleQueue[tuple[int, Any] | BaseException | None] = SimpleQueue()
        self._threads = [
            Thread(target=self._run, name="server request", daemon=True) for _ in range(parallel)
        ]

    def answers(self) -> Iterator[tuple[int, Any]]:
        """(position, answer) in the order in which they are ready."""
        for thread in self._threads:
            thread.start()
        working = len(self._threads)
        while working:
            done = self._done.get()
            if isinstance(done, BaseException):
                raise done
            if done is None:
                working -= 1
                continue
            self._room.release()
            yield done

    def stop(self) -> None:
        """Break off the requests; the threads end when they notice."""
        self.cancel.stop()
        for _ in self._threads:
            self._room.release()

    def _run(self) -> None:
        try:
            while True:
                self._room.acquire()
                with self._drawing:
                    drawn = None if self.cancel.stopped.is_set() else next(self._items, None)
                if drawn is None:
                    break
                position, item = drawn
                try:
                    answer: Any = self._work(item, self.cancel)
                except LlmError as error:
                    answer = error
                self._done.put((position, answer))
            self._done.put(None)
        except BaseException as error:  # of the items' source, or ours: the one who reads answers gets it
            self._done.put(error)


def _schema(sampling: Sampling) -> Json | None:
    if sampling.schema is None:
        return None
    schema: Json = msgspec.json.decode(sampling.schema)
    return schema


def _context(listed: Json | None, props: Json) -> int:
    """The context window in tokens that a llama-server or vLLM tells; 0 from any other server."""
    told = props.get("default_generation_settings")
    context = told.get("n_ctx") if isinstance(told, dict) else None
    context = context or (listed or {}).get("max_model_len")
    return context if isinstance(context, int) and context > 0 else 0
