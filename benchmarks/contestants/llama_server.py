"""
llama-server, built by build_llama.py, with 16 clients that keep their connections.
"""

from __future__ import annotations

import http.client
import json
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from typing import Any

import texts
from build_llama import programs, work_folder

from contestants.task import Measured, Task

CLIENTS = 16


class Contestant:
    """A server for each task; its command line goes to standard error."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._slots = task.slots

    def close(self) -> None:
        """The server ends with its task."""

    @contextmanager
    def _server(self, slots: int, context: int) -> Iterator[int]:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        command = [str(programs(work_folder())["llama-server"]), "-m", str(self._task.model)]
        command += ["-np", str(slots), "-cb", "--cache-prompt", "-c", str(slots * context), "--no-ui"]
        command += ["-t", str(self._task.threads), "-tb", str(self._task.threads)]
        print(" ".join(command), file=sys.stderr)
        with tempfile.TemporaryFile() as log:
            where = ["--host", "127.0.0.1", "--port", str(port)]
            process = subprocess.Popen([*command, *where], stdout=log, stderr=log)
            try:
                self._wait_until_up(process, port)
                yield port
            finally:
                process.terminate()
                process.wait()

    def _wait_until_up(self, process: subprocess.Popen[bytes], port: int) -> None:
        while process.poll() is None:
            try:
                with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=10)) as connection:
                    connection.request("GET", "/health")
                    if connection.getresponse().status == 200:
                        return
            except OSError:
                pass
            time.sleep(0.01)
        raise SystemExit(f"llama-server ended with {process.returncode}")

    def _complete(self, port: int, prompts: Sequence[str], tokens: int) -> list[dict[str, Any]]:
        """All prompts, by 16 clients; what the server answered to each."""
        share: list[list[str]] = [list(prompts[client::CLIENTS]) for client in range(CLIENTS)]

        def client(mine: list[str]) -> list[dict[str, Any]]:
            with closing(http.client.HTTPConnection("127.0.0.1", port)) as connection:
                return [_post(connection, "/completion", _completion(prompt, tokens)) for prompt in mine]

        with ThreadPoolExecutor(CLIENTS) as pool:
            return [
                answer for answers in pool.map(client, [part for part in share if part]) for answer in answers
            ]

    def labels(self) -> Measured:
        warm, rows = (texts.rendered(self._task.model, prompts) for prompts in self._task.labels())
        with self._server(self._slots, 512) as port:
            self._complete(port, warm, 1)
            return len(rows), self._time(port, rows, 1)[1]

    def _time(self, port: int, prompts: Sequence[str], tokens: int) -> tuple[list[dict[str, Any]], float]:
        begun = time.perf_counter()
        answers = self._complete(port, prompts, tokens)
        return answers, time.perf_counter() - begun

    def generate(self, count: int) -> Measured:
        warm, rows = (texts.rendered(self._task.model, prompts) for prompts in self._task.writing(count))
        with self._server(self._slots, 512) as port:
            self._complete(port, warm, 2)
            answers, seconds = self._time(port, rows, self._task.answer)
        return sum(answer["tokens_predicted"] for answer in answers), seconds

    def long(self) -> Measured:
        warm, others = (texts.rendered(self._task.model, prompts) for prompts in self._task.long())
        with self._server(self._slots, self._task.words * 2) as port:
            self._complete(port, warm, 1)
            answers, seconds = self._time(port, others, 1)
        return sum(answer["tokens_evaluated"] for answer in answers), seconds

    def turn(self) -> Measured:
        messages: list[dict[str, str]] = []
        seconds = 0.0
        with self._server(1, 4096) as port:
            for said in texts.turns(self._task.turns):
                messages.append({"role": "user", "content": said})
                seconds, text = self._stream(port, messages)
                messages.append({"role": "assistant", "content": text})
        return 1, seconds

    def _stream(self, port: int, messages: list[dict[str, str]]) -> tuple[float, str]:
        """Seconds to the first piece of an answer, and the answer."""
        body = {"messages": messages, "max_tokens": self._task.answer, "temperature": 0, "stream": True}
        with closing(http.client.HTTPConnection("127.0.0.1", port)) as connection:
            begun = time.perf_counter()
            connection.request("POST", "/v1/chat/completions", json.dumps(body))
            seconds, pieces = 0.0, []
            for line in connection.getresponse():
                if not line.startswith(b"data: {"):
                    continue
                delta = json.loads(line[6:])["choices"]
                piece = delta[0]["delta"].get("content") if delta else None
                if piece:
                    seconds = seconds or time.perf_counter() - begun
                    pieces.append(piece)
        return seconds, "".join(pieces)

    def start(self) -> Measured:
        prompt = texts.rendered(self._task.model, self._task.labels()[1][:1])[0]
        begun = time.perf_counter()
        with (
            self._server(1, 512) as port,
            closing(http.client.HTTPConnection("127.0.0.1", port)) as connection,
        ):
            _post(connection, "/completion", _completion(prompt, 1))
            return 1, time.perf_counter() - begun


def _completion(prompt: str, tokens: int) -> dict[str, Any]:
    return {"prompt": prompt, "n_predict": tokens, "temperature": 0, "cache_prompt": True, "ignore_eos": True}


def _post(connection: http.client.HTTPConnection, path: str, body: dict[str, Any]) -> dict[str, Any]:
    connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
    answer: dict[str, Any] = json.loads(connection.getresponse().read())
    if "error" in answer:
        raise SystemExit(f"llama-server: {answer['error']}")
    return answer
