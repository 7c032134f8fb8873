"""A reading of how fast a model is here: two seconds of reading and writing, through the engine itself."""

from __future__ import annotations

import time

from msgspec import Struct

from llmcli import engines
from llmcli.engines.base import EngineOptions
from llmcli.messages import Completion, Prompt, Sampling
from llmcli.models.resolve import ModelFile

SECONDS = 2.0
WORDS = "The report says that the new station opens in spring and that the old one stays until then. "


class Speed(Struct, frozen=True):
    """Tokens a second; `load` in seconds."""

    load: float
    read: float
    write: float


def measure(model: ModelFile, options: EngineOptions, seconds: float = SECONDS) -> Speed:
    """Load a model and have it read and write for about so long; raises what the engine raises."""
    begun = time.perf_counter()
    engine = engines.open_engine(model.name, options, model)
    try:
        [tokens] = engine.count_tokens([WORDS])
        load = time.perf_counter() - begun
        room = min(engine.info.context or 512, 1024)
        times = max(1, int(room * 0.7) // max(1, tokens))
        read, reading, written, writing = 0, 0.0, 0, 0.0
        round_ = 0
        until = time.perf_counter() + seconds
        while time.perf_counter() < until or not written:
            round_ += 1
            prompt = Prompt(
                raw=f"{round_} " + WORDS * times
            )  # another beginning: nothing is remembered of the last
            start = first = time.perf_counter()
            for item in engine.stream(prompt, Sampling(temperature=0.8, seed=round_, max_tokens=room // 8)):
                if isinstance(item, Completion):
                    read += item.usage.prompt - item.usage.cached
                    written += max(0, item.usage.answer - 1)
                elif first == start:
                    first = time.perf_counter()
            end = time.perf_counter()
            first = first if first > start else end
            reading, writing = reading + first - start, writing + end - first
            if round_ >= 50:
                break
    finally:
        engine.close()
    return Speed(load, read / reading if reading else 0.0, written / writing if writing else 0.0)
