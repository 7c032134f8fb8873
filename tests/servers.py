"""
Web servers for tests of downloads, on 127.0.0.1: one that fails as told, one shaped like the hub.

    with FaultyServer(data) as server:
        url = server.add(Fault(drops=[0.37]))        # the first connection ends after 37 % of the file
"""

from __future__ import annotations

import hashlib
import json
import socket
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit


@dataclass
class Fault:
    """
    How one address misbehaves; lists go by request, their last entry stays.

    `drops` is the share of the file after which a connection ends, `etags` what each answer is called,
    `statuses` what it answers instead of a file, `flip` the byte whose lowest bit is wrong, `length` what
    is added to Content-Length, `redirect` where it sends everybody, `chunked` leaves the length out.
    """

    drops: list[float | None] = field(default_factory=lambda: [None])
    etags: list[str] = field(default_factory=lambda: ['"one"'])
    statuses: list[int] = field(default_factory=lambda: [200])
    flip: int | None = None
    length: int = 0
    redirect: str = ""
    ignore_range: bool = False
    ignore_if_range: bool = False
    chunked: bool = False
    hold: int | None = None  # bytes after which nothing more comes until `go_on` is set
    go_on: threading.Event = field(default_factory=threading.Event)
    requests: list[str | None] = field(default_factory=list)  # the Range of each
    sent: int = 0

    def of(self, values: list) -> object:
        """This request's entry of a list."""
        return values[min(len(self.requests) - 1, len(values) - 1)]


class FaultyServer:
    """Serves one file's bytes at as many addresses as are added, each with its own fault."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.sha256 = hashlib.sha256(data).hexdigest()
        self.faults: dict[str, Fault] = {}
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self._answer))
        self._server.daemon_threads = True
        self.address = f"http://127.0.0.1:{self._server.server_port}"

    def add(self, fault: Fault, name: str = "model.gguf") -> str:
        """A new address that has this fault."""
        path = f"/{len(self.faults)}/{name}"
        self.faults[path] = fault
        return self.address + path

    def __enter__(self) -> FaultyServer:
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _answer(self, request: BaseHTTPRequestHandler) -> None:
        fault = self.faults.get(urlsplit(request.path).path)
        if fault is None:
            request.send_error(404)
            return
        wanted = request.headers.get("Range")
        fault.requests.append(wanted)
        if fault.redirect:
            request.send_response(302)
            request.send_header("Location", fault.redirect)
            request.send_header("Content-Length", "0")
            request.end_headers()
            return
        status, etag = int(str(fault.of(fault.statuses))), str(fault.of(fault.etags))
        if status != 200:
            request.send_response(status)
            if status == 416:
                request.send_header("Content-Range", f"bytes */{len(self.data)}")
            request.send_header("Content-Length", "0")
            request.end_headers()
            return
        start = self._start(request, fault, etag, wanted)
        if start >= len(self.data):
            request.send_response(416)
            request.send_header("Content-Range", f"bytes */{len(self.data)}")
            request.send_header("Content-Length", "0")
            request.end_headers()
            return
        self._send(request, fault, etag, start)

    def _start(self, request: BaseHTTPRequestHandler, fault: Fault, etag: str, wanted: str | None) -> int:
        known = request.headers.get("If-Range")
        if not wanted or fault.ignore_range or (known not in (None, etag) and not fault.ignore_if_range):
            return 0
        return int(wanted.removeprefix("bytes=").split("-")[0])

    def _send(self, request: BaseHTTPRequestHandler, fault: Fault, etag: str, start: int) -> None:
        data = bytearray(self.data)
        if fault.flip is not None:
            data[fault.flip] ^= 1
        request.send_response(206 if start else 200)
        request.send_header("ETag", etag)
        if start:
            request.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        if not fault.chunked:
            request.send_header("Content-Length", str(len(data) - start + fault.length))
        request.send_header("Connection", "close")
        request.end_headers()
        drop = fault.of(fault.drops)
        end = len(data) if drop is None else max(start, int(len(data) * float(str(drop))))
        for place in range(start, end, 65536):
            if fault.hold is not None and place >= fault.hold:
                fault.go_on.wait(60)
            block = bytes(data[place : min(end, place + 65536)])
            request.wfile.write(block)
            fault.sent += len(block)


class HubServer:
    """
    A server with the addresses of huggingface.co that a download of a model asks for.

    `files` are the right bytes by repository and name; `wrong` names are served with a bit turned, called
    by the right SHA-256. While `open` is not set, no byte of a file is sent.
    """

    def __init__(self, files: dict[str, dict[str, bytes]], wrong: frozenset[str] = frozenset()) -> None:
        self.files, self.wrong = files, wrong
        self.asked: list[tuple[str, str]] = []
        self.open = threading.Event()
        self.open.set()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self._answer))
        self._server.daemon_threads = True
        self.address = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> HubServer:
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def downloads(self) -> list[str]:
        """The files whose bytes were asked for, in order."""
        return [path for method, path in self.asked if method == "GET" and "/resolve/" in path]

    def _answer(self, request: BaseHTTPRequestHandler) -> None:
        path = urlsplit(request.path).path
        self.asked.append((request.command, path))
        words = path.strip("/").split("/")
        if words[:2] == ["api", "models"] and (repo := "/".join(words[2:4])) in self.files:
            self._describe(request, repo)
        elif len(words) >= 5 and words[2] == "resolve" and (repo := "/".join(words[:2])) in self.files:
            self._file(request, repo, "/".join(words[4:]))
        else:
            self._refuse(request)

    def _refuse(self, request: BaseHTTPRequestHandler) -> None:
        request.send_response(404)
        request.send_header("X-Error-Code", "RepoNotFound")
        request.send_header("Content-Length", "0")
        request.end_headers()

    def _describe(self, request: BaseHTTPRequestHandler, repo: str) -> None:
        siblings = [
            {
                "rfilename": name,
                "size": len(data),
                "blobId": "0" * 40,
                "lfs": {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 130},
            }
            for name, data in self.files[repo].items()
        ]
        body = json.dumps({"_id": "1", "id": repo, "modelId": repo, "sha": "1" * 40, "private": False,
                           "tags": [], "downloads": 0, "siblings": siblings}).encode()  # fmt: skip
        request.send_response(200)
        request.send_header("Content-Type", "application/json")
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        request.wfile.write(body)

    def _file(self, request: BaseHTTPRequestHandler, repo: str, name: str) -> None:
        data = self.files[repo].get(name)
        if data is None:
            request.send_response(404)
            request.send_header("X-Error-Code", "EntryNotFound")
            request.send_header("Content-Length", "0")
            request.end_headers()
            return
        etag = hashlib.sha256(data).hexdigest()
        if name in self.wrong:
            data = data[:-1] + bytes([data[-1] ^ 1])
        wanted = request.headers.get("Range")
        start = int(wanted.removeprefix("bytes=").split("-")[0]) if wanted else 0
        request.send_response(206 if wanted else 200)
        for header, value in {
            "X-Repo-Commit": "1" * 40, "ETag": f'"{etag}"', "X-Linked-ETag": f'"{etag}"',
            "X-Linked-Size": str(len(data)), "Content-Length": str(len(data) - start),
            "Accept-Ranges": "bytes", "Content-Type": "application/octet-stream",
        }.items():  # fmt: skip
            request.send_header(header, value)
        if wanted:
            request.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        request.end_headers()
        if request.command == "GET":
            self.open.wait(60)
            request.wfile.write(data[start:])


def _handler(answer: object) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            try:
                answer(self)  # type: ignore[operator]
            except (BrokenPipeError, ConnectionResetError):
                pass
            self.close_connection = True

        def end_headers(self) -> None:
            self.send_header("Connection", "close")  # else a client may try the connection once more
            super().end_headers()

        do_HEAD = do_GET  # noqa: N815

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    return Handler


def closed_port() -> int:
    """A port on which nothing listens."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])
