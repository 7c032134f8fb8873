"""
llama.cpp's own grammar code, in a process that may die.

    with RealGrammars(folder) as real:
        real.walk(gbnf, seed=1)          # {"text": …, "finished": True}: random text that the grammar allows
        real.fits(gbnf, "yes")           # whether the grammar allows exactly this text
    # each gives {"died": signal}, {"hung": seconds} or {"refused": reason} where it came to that

Goes through llmcli.engines.llama.samplers, as the engine's child does.
"""

from __future__ import annotations

import codecs
import json
import random
import select
import subprocess
import sys
from pathlib import Path
from typing import Any

from ggufs import tiny

SECONDS = 20.0
QUOTE = ord('"')  # written more often than its turn: strings should end some time


class RealGrammars:
    """A worker process; a new one is started after a death."""

    def __init__(self, folder: Path) -> None:
        self._model = tiny("llama").write(folder / "grammars.gguf")
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> RealGrammars:
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def walk(self, gbnf: str, seed: int = 0, steps: int = 200) -> dict[str, Any]:
        """Write random tokens that the grammar allows, until it may end or `steps` are done."""
        return self._ask(gbnf=gbnf, seed=seed, steps=steps)

    def fits(self, gbnf: str, text: str) -> dict[str, Any]:
        """Feed a text byte by byte: {"fits": bool, "at": the first byte that is refused}."""
        return self._ask(gbnf=gbnf, text=text)

    def _ask(self, **request: Any) -> dict[str, Any]:
        if self._process is None:
            self._process = self._start()
        process = self._process
        assert process.stdin and process.stdout
        process.stdin.write(json.dumps(request) + "\n")
        process.stdin.flush()
        if not select.select([process.stdout], [], [], SECONDS)[0]:
            self._end()
            return {"hung": SECONDS}
        line = process.stdout.readline()
        if not line:
            signal = -process.wait()
            self._end()
            return {"died": signal}
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _start(self) -> subprocess.Popen[str]:
        command = [sys.executable, __file__, str(self._model)]
        return subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )

    def _end(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            for stream in (self._process.stdin, self._process.stdout):
                if stream:
                    stream.close()
            self._process = None


class _Worker:
    def __init__(self, path: str) -> None:
        from llmcli.engines.llama.library import Log, Model
        from llmcli.engines.llama.samplers import Candidates

        self.model = Model(path, Log())
        self.candidates = Candidates(self.model.vocab_size)

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        from llmcli.engines.llama.library import LoadError
        from llmcli.engines.llama.samplers import Grammar

        try:
            grammar = Grammar(self.model, request["gbnf"])
        except LoadError as error:
            return {"refused": str(error)}
        try:
            if "text" in request:
                return self.fits(grammar, request["text"].encode())
            return self.walk(grammar, random.Random(request["seed"]), request["steps"])
        finally:
            grammar.free()

    def allowed(self, grammar: Any) -> list[int]:
        import numpy as np

        everything = self.candidates.fill(np.zeros(self.model.vocab_size, np.float32))
        grammar.filter(everything)
        logits = everything._data["logit"]
        return [int(token) for token in np.flatnonzero(np.isfinite(logits))]

    def allows(self, grammar: Any, token: int) -> bool:
        one = self.candidates.only(token, 0.0)
        grammar.filter(one)
        return one.best()[1] == 0.0

    def walk(self, grammar: Any, chance: random.Random, steps: int) -> dict[str, Any]:
        special, written = set(self.model.special_tokens()), b""
        for _ in range(steps):
            allowed = self.allowed(grammar)
            ends = [token for token in allowed if self.model.ends_generation(token)]
            plain = [t for t in allowed if t not in special and is_text(written + self.model.piece(t))]
            if ends and (not plain or chance.random() < 0.3):
                grammar.accept(ends[0])
                return {"text": written.decode("utf-8", "replace"), "finished": True}
            if not plain:
                return {"text": written.decode("utf-8", "replace"), "finished": False, "stuck": True}
            token = QUOTE if QUOTE in plain and chance.random() < 0.3 else chance.choice(plain)
            grammar.accept(token)
            written += self.model.piece(token)
        return {"text": written.decode("utf-8", "replace"), "finished": False}

    def fits(self, grammar: Any, text: bytes) -> dict[str, Any]:
        for at, byte in enumerate(text):  # the tiny model's first 256 tokens are the bytes
            if not self.allows(grammar, byte):
                return {"fits": False, "at": at}
            grammar.accept(byte)
        return {"fits": self.allows(grammar, self.model.eos), "at": len(text)}


def is_text(start: bytes) -> bool:
    """Whether UTF-8 can begin so; llama.cpp lets characters pass that are spelt in too many bytes."""
    try:
        codecs.getincrementaldecoder("utf-8")().decode(start[-8:].lstrip(bytes(range(0x80, 0xC0))))
    except UnicodeDecodeError:
        return False
    return True


if __name__ == "__main__":
    worker = _Worker(sys.argv[1])
    for line in sys.stdin:
        print(json.dumps(worker.answer(json.loads(line))), flush=True)
