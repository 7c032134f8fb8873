"""
What every engine promises: a loaded model that counts, writes and scores.

An engine is one module (or folder) in this package, found by its name; it has a
function `open_engine(reference, options) -> Engine`. See CONTRIBUTING, "add an engine".
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal, Protocol

from msgspec import Struct

from llmcli.errors import LlmError
from llmcli.messages import Completion, LabelScores, Piece, Prompt, Sampling


class EngineOptions(Struct, frozen=True):
    """
    How a model is loaded; None means "choose well for this machine".

    `context` is in tokens per sequence, `parallel` counts sequences decoded
    together, `gpu_layers` is a number, "auto" (all that fit) or "all"; `kv_type` is a ggml
    type name (f16, q8_0); each LoRA is a path and a scale. `sequential` trades speed for answers
    that depend on the row alone. `thinking` is what models.yaml says of the model's thinking
    marks, `temperature_scale` what it says of the calibration of its label probabilities. `started`
    (seconds since 1970) is "now" for a chat template that writes the date: a resumed job keeps its first
    day; None is the moment the engine is opened. `prefix_cache` is how many bytes on disk may hold what
    templates put before a text, evaluated (Prompt.fixed). `texts` says how many to expect: with one, an
    early start is worth more than speed; with many, the speed of long decodes more than that of short ones.
    `only_labels`: nothing will be written, so the speed of reading is all that counts.
    """

    context: int | None = None
    parallel: int | None = None
    threads: int | None = None
    gpu_layers: int | Literal["auto", "all"] = "auto"
    kv_type: str | None = None
    flash_attention: bool | None = None
    lora: tuple[tuple[str, float], ...] = ()
    sequential: bool = False
    chat_template: str | None = None
    thinking: dict[str, Any] | None = None
    temperature_scale: float = 1.0
    started: float | None = None
    prefix_cache: int = 0
    texts: Literal["one", "some", "many"] = "some"
    only_labels: bool = False


class EngineInfo(Struct, frozen=True):
    """
    Who answers: enough to reproduce a result, and part of every row's key.

    `recommended` are the fields of Sampling that the model's maker recommends for free writing; no part of
    a key, for who draws with them has them in the sampling. `longest` is the longest context that the
    model can have, 0 where nobody knows.
    """

    engine: str
    model: str
    sha256: str = ""
    quantisation: str = ""
    context: int = 0
    build: str = ""
    settings: tuple[str, ...] = ()
    recommended: dict[str, Any] = {}
    longest: int = 0


class Engine(Protocol):
    """
    A loaded model, ready to answer.

    `generate` and `score` draw prompts lazily, as many as they can work on, and give
    (position, answer) in the order answers finish; one prompt's failure is that position's
    LlmError, and the others go on. Closing an iterator cancels its requests. Several
    calls may be under way at once, from several threads.
    """

    @property
    def info(self) -> EngineInfo:
        """Name, hash, quantisation, context window and build of the model."""
        ...

    @property
    def activity(self) -> str:
        """What it is busy with, for somebody who waits ("loading the model, 40%"), or nothing."""
        ...

    @property
    def where(self) -> str:
        """What answers and where it runs, in one line; waits for the model."""
        ...

    def count_tokens(self, items: Sequence[Prompt | str]) -> list[int]:
        """Tokens of each item: a prompt through the chat template, a text as it stands."""
        ...

    def read_ahead(self, prompt: Prompt, sampling: Sampling) -> None:
        """
        A conversation goes on with this prompt, of whose last message only the beginning is known yet.

        Returns at once; an engine that can evaluates what is sure while nobody asks it anything.
        """
        ...

    def stream(self, prompt: Prompt, sampling: Sampling) -> Iterator[Piece | Completion]:
        """Pieces as they are written; the last item is the Completion."""
        ...

    def generate(
        self, prompts: Iterable[Prompt], sampling: Sampling
    ) -> Iterator[tuple[int, Completion | LlmError]]:
        """Answer every prompt."""
        ...

    def score(
        self, prompts: Iterable[Prompt], labels: Sequence[str]
    ) -> Iterator[tuple[int, LabelScores | LlmError]]:
        """Score every label as the answer to every prompt."""
        ...

    def close(self) -> None:
        """End the engine and free the model."""
        ...
