"""A reading of how fast a model is here: two seconds of reading and writing, through the engine itself."""

from __future__ import annotations

import itertools
import time

from msgspec import Struct

from llmcli import engines
from llmcli.engines.base import Engine, EngineOptions
from llmcli.messages import Completion, Prompt, Sampling
from llmcli.models.resolve import ModelFile

SECONDS = 2.0
LONGEST_ANSWER = 24  # tokens
WORDS = "The report says that the new station opens in spring and that the old one stays until then. "


class Speed(Struct, frozen=True):
    """Tokens a second; `load` in seconds."""

    load: float
    read: float
    write: float


def measure(model: ModelFile, options: EngineOptions, seconds: float = SECONDS) -> Speed:
    """
    Load a model and have it read and write for about so long; raises what the engine raises.

    Begins with a short text and doubles it while there is time, so that a slow machine is not asked too
    much. The last text is the reading.
    """
    begun = time.perf_counter()
    engine = engines.open_engine(model.name, options, model)
    try:
        engine.count_tokens([WORDS])
        load = time.perf_counter() - begun
        room = min(engine.info.context or 512, 1024)
        until = time.perf_counter() + seconds
        times, read, write = 1, 0.0, 0.0
        for round_ in itertools.count():
            start = time.perf_counter()
            read, write, tokens = _round(engine, f"{round_} " + WORDS * times, round_)
            took = time.perf_counter() - start
            if time.perf_counter() + 2 * took > until:
                break
            if tokens * 2 + LONGEST_ANSWER < room:
                times *= 2
    finally:
        engine.close()
    return Speed(load, read, write)


def _round(engine: Engine, text: str, seed: int) -> tuple[float, float, int]:
    """One text read and answered: tokens read a second, tokens written a second, tokens of the text."""
    start = first = end = time.perf_counter()
    answer = Completion("")
    for item in engine.stream(
        Prompt(raw=text), Sampling(temperature=0.8, seed=seed, max_tokens=LONGEST_ANSWER)
    ):
        end = time.perf_counter()
        if isinstance(item, Completion):
            answer = item
        elif first == start:
            first = end
    first = first if first > start else end
    read = (answer.usage.prompt - answer.usage.cached) / max(first - start, 1e-6)
    written = max(0, answer.usage.answer - 1) / max(end - first, 1e-6) if end > first else 0.0
    return read, written, answer.usage.prompt
