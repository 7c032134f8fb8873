"""
Fetching from an address that a stranger may have written: the rules, and one GET that keeps them.

https only, unless LLMCLI_ALLOW_HTTP=1 (a mirror on one's own machine). At most five redirects, each held to
the same rules, never from https down to http. A redirect never leads to a private address, unless the
first address was private itself; the peer that answers is looked at again once it is connected, since
a name can mean another address by then. No cookies, no keys, no compression.
"""

from __future__ import annotations

import ipaddress
import os
import socket
import ssl
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from functools import cache
from urllib.parse import urljoin, urlsplit
from urllib.request import getproxies, proxy_bypass

import httpx

from llmcli import __version__
from llmcli.errors import BackendUnreachable, LlmError, MissingInput, PermissionRefused, UsageError

MAX_REDIRECTS = 5
TIMEOUT = httpx.Timeout(30.0, connect=15.0)  # seconds of silence: a stalled transfer is dropped and resumed
REDIRECTS = frozenset({301, 302, 303, 307, 308})


class TransferError(Exception):
    """The transfer broke off, and another try may go on from where it was."""


def http_allowed() -> bool:
    """Whether plain http and this machine's own addresses are permitted."""
    return os.environ.get("LLMCLI_ALLOW_HTTP", "") not in ("", "0")


def check_url(url: str, what: str = "the address") -> None:
    """UsageError (2) for an address that is not fetched at all."""
    try:
        parts = urlsplit(url)
    except ValueError:  # a bracket that is not closed
        raise UsageError(f"{what} {url!r} is not an https address") from None
    if parts.scheme not in ("https", "http") or not parts.hostname:
        raise UsageError(f"{what} {url!r} is not an https address")
    if parts.scheme == "http" and not http_allowed():
        raise UsageError(
            f"{what} {url!r} is plain http", hint="https, or LLMCLI_ALLOW_HTTP=1 for a mirror of yours"
        )
    if parts.username or parts.password:
        raise UsageError(f"{what} of {parts.hostname} carries a password", hint="leave it out")
    if is_loopback(parts.hostname) and not http_allowed():
        raise UsageError(
            f"{what} {url!r} is this machine", hint="LLMCLI_ALLOW_HTTP=1 permits a mirror of yours"
        )


def is_loopback(host: str) -> bool:
    """
    Whether a host is this machine, by its name alone.

    >>> is_loopback("127.0.0.1"), is_loopback("example.org")
    (True, False)
    """
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def is_private(address: str) -> bool:
    """
    Whether an IP address is not of the public network.

    >>> is_private("10.0.0.1"), is_private("::ffff:127.0.0.1"), is_private("93.184.216.34")
    (True, True, False)
    """
    ip = ipaddress.ip_address(address.split("%")[0])
    mapped = getattr(ip, "ipv4_mapped", None)
    return not (mapped or ip).is_global


def _addresses(host: str) -> list[str]:
    try:
        return [str(ipaddress.ip_address(host))]
    except ValueError:
        pass
    try:
        return sorted({str(info[4][0]) for info in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)})
    except (OSError, UnicodeError) as error:
        raise BackendUnreachable(
            f"cannot find the host {host}", hint="check the address and the network"
        ) from error


def _proxied(url: str) -> bool:
    """Whether a proxy stands between; then names are its business, and the peer is the proxy."""
    parts = urlsplit(url)
    return parts.scheme in getproxies() and not proxy_bypass(parts.hostname or "")


class _Guard:
    """What the addresses of one download may be, given its first one."""

    def __init__(self, url: str) -> None:
        host = urlsplit(url).hostname or ""
        self.https = urlsplit(url).scheme == "https"
        self.proxied = _proxied(url)
        self.private_first = False if self.proxied else any(map(is_private, _addresses(host)))

    def check_redirect(self, source: str, target: str) -> None:
        parts = urlsplit(target)
        refused = None
        if parts.scheme not in ("https", "http") or not parts.hostname:
            refused = "is no web address"
        elif parts.scheme == "http" and (self.https or not http_allowed()):
            refused = "is plain http"
        elif parts.username or parts.password:
            refused = "carries a password"
        elif (
            not self.private_first
            and not _proxied(target)
            and any(map(is_private, _addresses(parts.hostname)))
        ):
            refused = "is a private address"
        if refused:
            raise BackendUnreachable(
                f"{urlsplit(source).hostname} redirects to {target!r}, which {refused}",
                hint="nothing was fetched",
            )

    def check_peer(self, response: httpx.Response, redirected: bool) -> None:
        stream = response.extensions.get("network_stream")
        peer = stream.get_extra_info("server_addr") if stream is not None else None
        if not redirected or self.private_first or not peer or _proxied(str(response.url)):
            return
        if is_private(str(peer[0])):
            raise BackendUnreachable(
                f"{response.url.host} is at a private address", hint="nothing was fetched"
            )


@cache
def _tls() -> ssl.SSLContext:
    """The certificates that are trusted; reading them takes 0.1 s, and a download may connect often."""
    return httpx.create_ssl_context()


@contextmanager
def get(url: str, headers: Mapping[str, str]) -> Iterator[httpx.Response]:
    """
    A GET whose body is not read yet, after redirects; its status is 200, 206 or 416.

    UsageError (2) for a forbidden address, BackendUnreachable (69) for a forbidden redirect or a server that
    refuses, MissingInput (66) for 404, PermissionRefused (77) for 401 and 403; TransferError where another
    try may help.
    """
    check_url(url)
    guard = _Guard(url)
    sent = {"User-Agent": f"llmcli/{__version__}", "Accept": "*/*", "Accept-Encoding": "identity", **headers}
    with httpx.Client(timeout=TIMEOUT, follow_redirects=False, verify=_tls()) as client:
        place = url
        for hop in range(MAX_REDIRECTS + 1):
            try:
                response = client.send(client.build_request("GET", place, headers=sent), stream=True)
            except httpx.HTTPError as error:
                raise TransferError(_words(error)) from error
            except httpx.InvalidURL as error:
                raise BackendUnreachable(f"{place!r} is no address") from error
            with closing(response):
                guard.check_peer(response, redirected=hop > 0)
                if response.status_code not in REDIRECTS:
                    _check_status(response, place)
                    yield response
                    return
                target = urljoin(place, response.headers.get("location", ""))
            guard.check_redirect(place, target)
            client.cookies.clear()
            place = target
    raise BackendUnreachable(f"{url!r} redirects more than {MAX_REDIRECTS} times")


def _check_status(response: httpx.Response, url: str) -> None:
    status = response.status_code
    if status in (200, 206, 416):
        return
    if status in (408, 425, 429, 500, 502, 503, 504):
        raise TransferError(f"the server answers {status}")
    raise _refusal(status, url)


def _refusal(status: int, url: str) -> LlmError:
    if status in (404, 410):
        return MissingInput(f"there is nothing at {url} ({status})", hint="check the address")
    if status in (401, 403, 451):
        return PermissionRefused(f"{urlsplit(url).hostname} refuses {url} ({status})")
    return BackendUnreachable(f"{urlsplit(url).hostname} answers {status} for {url}")


def _words(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
