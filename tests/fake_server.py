"""A small real HTTP server that answers as a function says, and remembers what it was asked."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Asked:
    """A request."""

    method: str
    path: str
    headers: dict[str, str]
    body: Any


@dataclass
class Reply:
    """What to send: JSON, raw bytes, or events; `drop` closes the connection after `drop` bytes of them."""

    body: Any = None
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    events: list[Any] | None = None
    drop: int | None = None

    def data(self) -> bytes:
        """The bytes of the body."""
        if self.events is not None:
            lines = [
                event if isinstance(event, str) else f"data: {json.dumps(event)}" for event in self.events
            ]
            return "".join(f"{line}\n\n" for line in lines).encode()
        return self.body if isinstance(self.body, bytes) else json.dumps(self.body).encode()


def chat(text: str, finish: str | None = "stop", **more: Any) -> Reply:
    """A chat completion with this text; `more` goes into the choice."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish, **more}
    return Reply({"choices": [choice], "usage": {"prompt_tokens": 7, "completion_tokens": 3}})


def top(*likely: tuple[str, float]) -> Reply:
    """One token with its top log-probabilities."""
    candidates = [{"token": token, "logprob": logprob} for token, logprob in likely]
    content = [{"token": likely[0][0], "logprob": likely[0][1], "top_logprobs": candidates}]
    return chat(likely[0][0], "length", logprobs={"content": content})


def chunks(*texts: str, finish: str | None = "stop", done: bool = True) -> Reply:
    """A stream of these pieces."""
    events: list[Any] = [{"choices": [{"index": 0, "delta": {"content": text}}]} for text in texts]
    if finish:
        events.append({"choices": [{"index": 0, "delta": {}, "finish_reason": finish}]})
        events.append({"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": len(texts)}})
    return Reply(events=events + (["data: [DONE]"] if done else []))


def error(status: int, message: str = "", headers: dict[str, str] | None = None, **more: Any) -> Reply:
    """An error body as OpenAI words it."""
    return Reply({"error": {"message": message, **more}}, status, headers or {})


Handler = Callable[[Asked], Reply]


class FakeServer:
    """`url` is its base; `asked` what came; `answer` may be replaced at any time."""

    def __init__(self, answer: Handler) -> None:
        self.answer = answer
        self.asked: list[Asked] = []
        self.closed = threading.Event()
        outer = self

        class RequestHandler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True  # else each reply waits 40 ms for an acknowledgement
            wbufsize = -1

            def handle_any(self) -> None:
                size = int(self.headers.get("content-length") or 0)
                sent = self.rfile.read(size)
                body = json.loads(sent) if sent else None
                headers = {name.lower(): value for name, value in self.headers.items()}
                request = Asked(self.command, self.path, headers, body)
                outer.asked.append(request)
                self.send(outer.answer(request))

            do_GET = do_POST = handle_any  # noqa: N815  the names that http.server calls

            def send(self, reply: Reply) -> None:
                data = reply.data()
                self.send_response(reply.status)
                self.send_header("content-length", str(len(data)))
                for name, value in reply.headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(data if reply.drop is None else data[: reply.drop])
                if reply.drop is not None:
                    self.close_connection = True

            def log_message(self, *args: Any) -> None:
                pass

        class Quiet(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *args: Any) -> None:
                outer.closed.set()  # a client that went away

        self._server = Quiet(("127.0.0.1", 0), RequestHandler)
        self.port = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}/v1"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def posted(self, path: str = "/v1/chat/completions") -> list[Any]:
        """The bodies that were posted to a path."""
        return [one.body for one in self.asked if one.method == "POST" and one.path == path]

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()


@contextmanager
def serving(answer: Handler, models: Any = None, others: Handler | None = None) -> Iterator[FakeServer]:
    """
    A server of one model, `tiny`, that answers posts to /v1/… by `answer`, and anything else by
    `others` or with 404.
    """

    def route(asked: Asked) -> Reply:
        if asked.path == "/v1/models":
            return Reply({"data": [{"id": "tiny"}]} if models is None else models)
        if asked.path.startswith("/v1/"):
            return answer(asked)
        return others(asked) if others else error(404, "Not Found")

    server = FakeServer(route)
    try:
        yield server
    finally:
        server.close()
