"""
The connection to a server: JSON in, JSON or a stream of events out.

Retries what may pass (429, 5xx, timeouts, a dropped connection) with growing, random pauses and honours
Retry-After; never retries another 4xx. Follows no redirect to another host, so that neither text nor
key goes where the user did not send it. Turns every failure into one LlmError. Knows nothing of prompts.
"""

from __future__ import annotations

import json
import random
import re
import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from email.utils import parsedate_to_datetime
from threading import Event, Lock
from typing import Any
from urllib.parse import urljoin, urlsplit

import httpx
from msgspec import Struct

from llmcli.engines.server.failures import error_for
from llmcli.engines.server.reference import Reference
from llmcli.errors import BackendUnreachable, LlmError, UnusableAnswer, UsageError
from llmcli.output.json_text import printable_json

MAX_BYTES = 64_000_000  # of one reply; far more than any context window
_REDIRECTS = 5

Json = dict[str, Any]


class Patience(Struct, frozen=True):
    """How long to wait for a server; all in seconds. `tries` counts requests, the first one too."""

    tries: int = 5
    first_pause: float = 0.5
    longest_pause: float = 60.0
    connect: float = 10.0
    read: float = 600.0  # a long answer by a slow model comes all at once


class Client:
    """Sends requests, each on a connection of its own; those are kept and used again. Safe among threads."""

    def __init__(self, reference: Reference, key: str, patience: Patience) -> None:
        self._key = key
        self._patience = patience
        # Loading the certificates takes 0.1 s: once for all connections, and not for plain HTTP.
        self._tls = ssl.create_default_context() if reference.url.startswith("https:") else False
        self._proxies = not reference.is_local  # else HTTP_PROXY would see what should not leave this machine
        self._free: list[_Connection] = []
        self._lock = Lock()
        self._closed = False

    def get(self, url: str, tries: int | None = None) -> Any:
        """What is at this URL, as JSON. Raises LlmError."""
        return self._json("GET", url, None, None, tries)

    def post(self, url: str, body: Json, cancel: Cancel | None = None, tries: int | None = None) -> Any:
        """The server's JSON reply. Raises LlmError."""
        return self._json("POST", url, body, cancel, tries)

    def events(self, url: str, body: Json, cancel: Cancel | None = None) -> Iterator[Json]:
        """The server's events as they come (server-sent events, up to [DONE]). Raises LlmError."""
        with self._connection(cancel) as connection:
            reply = self._answered(connection, "POST", url, body, cancel, None, stream=True)
            for line in reply.lines():
                if not line.startswith("data:"):
                    continue
                data = line[5:].strip()
                if data == "[DONE]":
                    return
                yield _object(_decoded(data.encode("utf-8", "replace"), url), url)

    def close(self) -> None:
        """Close the connections that are not in use; the others when their request ends."""
        with self._lock:
            self._closed = True
            free, self._free = self._free, []
        for connection in free:
            connection.close()

    def _json(
        self, method: str, url: str, body: Json | None, cancel: Cancel | None, tries: int | None
    ) -> Any:
        with self._connection(cancel) as connection:
            reply = self._answered(connection, method, url, body, cancel, tries)
            return _decoded(reply.whole(), url)

    @contextmanager
    def _connection(self, cancel: Cancel | None) -> Iterator[_Connection]:
        """A connection for one request; it is used again when the request went well."""
        with self._lock:
            kept = self._free.pop() if self._free else None
        connection = kept or _Connection(self._key, self._patience, self._tls, self._proxies)
        try:
            with cancel.watching(connection) if cancel else _nobody():
                yield connection
        except BaseException:
            connection.close()
            raise
        with self._lock:
            if not self._closed:
                self._free.append(connection)
                return
        connection.close()

    def _answered(
        self,
        connection: _Connection,
        method: str,
        url: str,
        body: Json | None,
        cancel: Cancel | None,
        tries: int | None,
        stream: bool = False,
    ) -> _Reply:
        """
        The first successful reply of several tries; otherwise the last try's error.

        Its body is read, and counts to the try, unless it is a stream: what was shown cannot be taken back.
        """
        pauses = self._pauses()
        for left in reversed(range(tries or self._patience.tries)):
            if cancel:
                cancel.check()
            asked = 0.0
            try:
                reply = _Reply(self._followed(connection, method, url, body), url)
                if reply.is_success and stream:
                    return reply
                text = reply.whole()
                if reply.is_success:
                    return reply
                failure = error_for(reply.status, text, url, bool(self._key))
                asked = reply.asked_pause
            except httpx.HTTPError as error:
                failure = _network_failure(error, url)
            except (httpx.InvalidURL, UnicodeError) as error:
                raise UsageError(f"{url} is no address: {error}") from error
            if not isinstance(failure, BackendUnreachable):
                raise failure
            pause = max(next(pauses), asked)
            if not left or pause > self._patience.longest_pause:
                raise failure
            (cancel.stopped if cancel else Event()).wait(pause)
        raise AssertionError("no tries")

    def _pauses(self) -> Iterator[float]:
        """Growing pauses; random, so that many clients do not come back at the same moment."""
        pause = self._patience.first_pause
        while True:
            yield min(pause, self._patience.longest_pause) * random.uniform(0.5, 1.0)
            pause *= 2

    def _followed(self, connection: _Connection, method: str, url: str, body: Json | None) -> httpx.Response:
        origin = urlsplit(url)[:2]
        for _ in range(_REDIRECTS):
            reply = connection.send(method, url, body)
            if not reply.has_redirect_location:
                return reply
            reply.close()
            try:
                target = urljoin(url, reply.headers["location"])
                elsewhere = urlsplit(target)[:2] != origin
            except ValueError as error:
                raise UnusableAnswer(f"{url} redirects to what is no address: {error}") from error
            if elsewhere:
                raise UnusableAnswer(
                    f"{url} redirects to {urlsplit(target).netloc}, which was not asked for",
                    hint="give that URL itself if you trust it",
                )
            url = target
        raise UnusableAnswer(f"{url} redirects in a circle")


class _Reply:
    """A reply whose headers are here; its body is read once, by `whole` or `lines`."""

    def __init__(self, response: httpx.Response, url: str) -> None:
        self._response = response
        self._url = url
        self._data: bytes | None = None
        self.status = response.status_code
        self.is_success = response.is_success

    def whole(self) -> bytes:
        """The whole body. Raises UnusableAnswer where it is too large, httpx.HTTPError."""
        if self._data is None:
            data = bytearray()
            try:
                for block in self._response.iter_bytes():
                    data += block
                    if len(data) > MAX_BYTES:
                        raise UnusableAnswer(f"{self._url} sent more than {MAX_BYTES // 1_000_000} MB")
            finally:
                self._response.close()
            self._data = bytes(data)
        return self._data

    def lines(self) -> Iterator[str]:
        """The body line by line as it comes. Raises BackendUnreachable where it breaks off."""
        try:
            yield from self._response.iter_lines()
        except httpx.HTTPError as error:
            what = f"{self._url} broke off in the middle of its answer: {_words(error)}"
            raise BackendUnreachable(what) from error
        finally:
            self._response.close()

    @property
    def asked_pause(self) -> float:
        """Seconds that Retry-After asks for, in a number or a date; 0 where it does not."""
        value = self._response.headers.get("retry-after", "").strip()
        try:
            return max(0.0, float(value))
        except ValueError:
            pass
        try:
            return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
        except (ValueError, TypeError, IndexError):
            return 0.0


class _Connection:
    """One connection that is kept open, and that another thread can break off."""

    def __init__(self, key: str, patience: Patience, tls: ssl.SSLContext | bool, proxies: bool) -> None:
        headers = {"accept-encoding": "identity", "user-agent": "llmcli"}
        if key:
            headers["authorization"] = f"Bearer {key}"
        self._client = httpx.Client(
            headers=headers,
            timeout=httpx.Timeout(patience.read, connect=patience.connect),
            limits=httpx.Limits(max_connections=1),
            verify=tls,
            trust_env=proxies,
        )
        self._socket: socket.socket | None = None

    def send(self, method: str, url: str, body: Json | None) -> httpx.Response:
        """Send a request; gives the reply when its headers are here."""
        request = self._client.build_request(
            method,
            url,
            content=None if body is None else json.dumps(body).encode(),
            headers=None if body is None else {"content-type": "application/json"},
            extensions={"trace": self._watch},
        )
        return self._client.send(request, stream=True)

    def break_off(self) -> None:
        """End the request that is under way: the server sees the connection closed and stops working."""
        if self._socket is not None:
            try:
                self._socket.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def close(self) -> None:
        self._client.close()

    def _watch(self, event: str, about: dict[str, Any]) -> None:
        """Remember the socket: httpx has no other way to break off a read that waits in another thread."""
        if event in ("connection.connect_tcp.complete", "connection.start_tls.complete"):
            self._socket = about["return_value"].get_extra_info("socket")


class CancelledError(LlmError):
    """Whoever asked has gone, or closed the engine."""


class Cancel:
    """Breaks off the requests that it watches, from another thread."""

    def __init__(self) -> None:
        self.stopped = Event()
        self._lock = Lock()
        self._connections: set[_Connection] = set()

    def check(self) -> None:
        """Raise CancelledError after `stop`."""
        if self.stopped.is_set():
            raise CancelledError("cancelled")

    def stop(self) -> None:
        """Break off every request under way, and let no other begin."""
        self.stopped.set()
        with self._lock:
            for connection in self._connections:
                connection.break_off()

    @contextmanager
    def watching(self, connection: _Connection) -> Iterator[None]:
        """Break off this connection's request if `stop` comes meanwhile."""
        with self._lock:
            self._connections.add(connection)
        try:
            yield
        finally:
            with self._lock:
                self._connections.discard(connection)


@contextmanager
def _nobody() -> Iterator[None]:
    yield


def _decoded(data: bytes, url: str) -> Any:
    try:
        return printable_json(json.loads(data))
    except (ValueError, RecursionError):
        start = " ".join(data[:60].decode("utf-8", "replace").split())
        raise UnusableAnswer(
            f"{url} did not answer in JSON but: {start}", hint="is it an OpenAI-compatible server?"
        ) from None


def _object(value: Any, url: str) -> Json:
    if not isinstance(value, dict):
        raise UnusableAnswer(f"{url} answered with JSON that is no object")
    return value


def _network_failure(error: httpx.HTTPError, url: str) -> LlmError:
    """69 for what may be a server that is not there; 76 for one that speaks something else than HTTP."""
    if isinstance(error, httpx.TimeoutException):
        return BackendUnreachable(f"{url} does not answer in time", hint="is the server overloaded?")
    if isinstance(error, httpx.ConnectError):
        return BackendUnreachable(f"cannot reach {url}: {_words(error)}", hint="is the server running?")
    if isinstance(error, httpx.ProtocolError) and not re.search("disconnected|closed", str(error)):
        return UnusableAnswer(f"{url} does not speak HTTP: {_words(error)}")
    return BackendUnreachable(f"{url} closed the connection: {_words(error)}")


def _words(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
