"""
The name of a model behind a server, `http://127.0.0.1:8080/v1#name`, taken apart. Opens nothing.
"""

from __future__ import annotations

from ipaddress import ip_address
from urllib.parse import urlsplit

from msgspec import Struct

from llmcli.errors import UsageError

EXAMPLE = "for example -m server:http://127.0.0.1:8080/v1#name"


class Reference(Struct, frozen=True):
    """A server's base URL (without a slash at its end), its host, and a model's name or ""."""

    url: str
    host: str
    model: str = ""

    @property
    def root(self) -> str:
        """Scheme, host and port alone: where llama-server and vLLM keep what OpenAI has not."""
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.netloc}"

    @property
    def is_local(self) -> bool:
        """Whether the server runs on this machine, so that nothing leaves it."""
        if self.host == "localhost":
            return True
        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return False


def parse(text: str) -> Reference:
    """
    The parts of `URL#model`; a URL without a path gets the customary /v1.

    >>> parse("http://127.0.0.1:8080#qwen").url, parse("https://example.org/api/v1/").model
    ('http://127.0.0.1:8080/v1', '')

    Raises UsageError.
    """
    url, _, model = text.partition("#")
    try:
        parts = urlsplit(url)
        _ = parts.port  # raises ValueError for what is no number
    except ValueError:
        raise UsageError(f"not the URL of a server: {url!r}", hint=EXAMPLE) from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UsageError(f"not the URL of a server: {url!r}", hint=EXAMPLE)
    if parts.username is not None or parts.password is not None:
        raise UsageError("a server's URL may hold no password", hint="its key is read from LLMCLI_API_KEY")
    if parts.query:
        raise UsageError(f"a server's URL may hold no query: {url!r}", hint=EXAMPLE)
    path = parts.path.rstrip("/") or "/v1"
    return Reference(f"{parts.scheme}://{parts.netloc}{path}", parts.hostname, model.strip())
