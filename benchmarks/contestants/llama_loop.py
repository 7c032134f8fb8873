"""
llama-cpp-python's high-level `Llama`, one prompt after the other; one token stands for a label.

`probable` asks it for that token's log-probabilities, which is what a label with a probability takes there:
it then computes the whole vocabulary's logits for every token.
"""

from __future__ import annotations

import subprocess
import sys
import time
from typing import Any

import texts
from llama_cpp import Llama

from contestants.task import Measured, Task, timed
from llmcli.engines.llama import amx


class Contestant:
    """A `Llama` for each task, its context as small as the task allows."""

    def __init__(self, task: Task) -> None:
        amx.settle()
        self._task = task

    def close(self) -> None:
        """Nothing to give back; the process ends."""

    def _llama(self, context: int, probable: bool = False) -> Llama:
        threads = self._task.threads
        return Llama(
            str(self._task.model),
            n_ctx=context,
            n_threads=threads,
            n_threads_batch=threads,
            logits_all=probable,
            verbose=False,
        )

    def _ask(self, llama: Any, prompt: str, tokens: int, logprobs: int | None = None) -> int:
        answer = llama.create_completion(prompt, max_tokens=tokens, temperature=0.0, logprobs=logprobs)
        return int(answer["usage"]["completion_tokens"])

    def labels(self, probable: bool = False) -> Measured:
        llama = self._llama(512, probable)
        warm, rows = (texts.rendered(self._task.model, prompts) for prompts in self._task.labels())
        logprobs = 20 if probable else None
        for prompt in warm:
            self._ask(llama, prompt, 1, logprobs)
        return len(rows), timed(self._ask(llama, prompt, 1, logprobs) for prompt in rows)[1]

    def generate(self, count: int) -> Measured:
        llama = self._llama(512)
        warm, rows = (texts.rendered(self._task.model, prompts) for prompts in self._task.writing(count))
        for prompt in warm:
            self._ask(llama, prompt, 2)
        counts, seconds = timed(self._ask(llama, prompt, self._task.answer) for prompt in rows)
        return sum(counts), seconds

    def long(self) -> Measured:
        llama = self._llama(self._task.words * 2)
        warm, others = (texts.rendered(self._task.model, prompts) for prompts in self._task.long())
        for prompt in warm:
            self._ask(llama, prompt, 1)
        tokens = sum(len(llama.tokenize(prompt.encode(), special=True)) for prompt in others)
        return tokens, timed(self._ask(llama, prompt, 1) for prompt in others)[1]

    def turn(self) -> Measured:
        llama = self._llama(4096)
        messages: list[dict[str, str]] = []
        seconds = 0.0
        for said in texts.turns(self._task.turns):
            messages.append({"role": "user", "content": said})
            begun = time.perf_counter()
            seconds, pieces = 0.0, []
            for chunk in llama.create_chat_completion(
                messages, stream=True, max_tokens=self._task.answer, temperature=0.0
            ):
                piece = chunk["choices"][0]["delta"].get("content")
                if piece:
                    seconds = seconds or time.perf_counter() - begun
                    pieces.append(piece)
            messages.append({"role": "assistant", "content": "".join(pieces)})
        return 1, seconds

    def start(self) -> Measured:
        prompt = texts.rendered(self._task.model, self._task.labels()[1][:1])[0]
        program = (
            "import sys; from llmcli.engines.llama import amx; amx.settle(); from llama_cpp import Llama; "
            "llama = Llama(sys.argv[1], n_ctx=512, n_threads=int(sys.argv[2]), verbose=False); "
            "print(llama.create_completion(sys.argv[3], max_tokens=1, temperature=0.0)['choices'][0]['text'])"
        )
        command = [sys.executable, "-c", program, str(self._task.model), str(self._task.threads), prompt]
        begun = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        return 1, time.perf_counter() - begun
