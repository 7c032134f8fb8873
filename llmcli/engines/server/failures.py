"""
What a server's refusal means: an HTTP status and an error body as one LlmError.

Servers word it in their own ways (OpenAI and vLLM, llama-server, llama-cpp-python's); what they
have in common is looked for here and nowhere else.
"""

from __future__ import annotations

import json
import re
from typing import Any

from msgspec import Struct

from llmcli.errors import (
    BackendUnreachable,
    InputTooLong,
    LlmError,
    ModelError,
    PermissionRefused,
    UnusableAnswer,
)
from llmcli.output.json_text import printable_json

_TOO_LONG = re.compile(
    r"maximum context length|exceeds? (?:the )?(?:available )?context|context[ _](?:window|size)", re.I
)
_CONTEXT = re.compile(r"(?:maximum context length is|context window of|context size \()\s*(\d+)", re.I)
_TOKENS = [  # the prompt's own tokens first, what was asked for in all last
    re.compile(pattern, re.I)
    for pattern in (
        r"\((\d+) in (?:the messages|your prompt)",
        r"has (\d+) input tokens",
        r"resulted in (\d+) tokens",
        r"requested (\d+) tokens",
    )
]


class Refused(UnusableAnswer):
    """The server refused the request as it was worded; another wording may pass."""


class _Body(Struct, frozen=True):
    message: str = ""
    code: str = ""
    tokens: int = 0
    context: int = 0


def error_for(status: int, body: bytes, url: str, has_key: bool) -> LlmError:
    """The error that a reply with this status and body is."""
    told = _read(body)
    what = f"{url}: {status} {told.message}".strip()
    if told.code in ("context_length_exceeded", "exceed_context_size_error") or _TOO_LONG.search(
        told.message
    ):
        return _too_long(told)
    if status in (401, 402, 403):
        hint = "check LLMCLI_API_KEY" if has_key else "set LLMCLI_API_KEY to the server's key"
        return PermissionRefused(f"{url} refuses access: {status} {told.message}".strip(), hint)
    if status == 404 and (told.code == "model_not_found" or "model" in told.message.lower()):
        return ModelError(what, hint="name another model after the # of the server's URL")
    if status == 404:
        return Refused(what or "not found", hint="the URL of most servers ends in /v1")
    # llama-cpp-python's server says 500 for a request that it does not understand.
    if status >= 500 and re.search(r"validation error|not supported", told.message):
        return Refused(what)
    if status in (408, 425, 429) or status >= 500:
        return BackendUnreachable(what, hint="too many requests" if status == 429 else "")
    return Refused(what)


def error_in_stream(event: dict[str, Any], url: str) -> LlmError | None:
    """The error that an event of a stream is, if it is one."""
    error = event.get("error")
    if error is None:
        return None
    code = error.get("code") if isinstance(error, dict) else None
    status = code if isinstance(code, int) and 400 <= code < 600 else 500
    return error_for(status, json.dumps(event).encode(), url, has_key=True)


def _too_long(told: _Body) -> InputTooLong:
    numbers = told.tokens and told.context
    return InputTooLong(
        f"the text is {told.tokens:,} tokens and the server's context is {told.context:,}"
        if numbers
        else f"the text exceeds the server's context: {told.message}",
        hint=f"use --context {told.context} to have it split, or --truncate"
        if told.context
        else "use --truncate",
        tokens=told.tokens,
        context=told.context,
    )


def _read(body: bytes) -> _Body:
    """Message, code and numbers of an error body, whatever its shape."""
    try:
        value = printable_json(json.loads(body))
    except (ValueError, RecursionError):
        return _Body(_short(body.decode("utf-8", "replace")))
    if not isinstance(value, dict):
        return _Body(_short(str(value)))
    error = value.get("error", value)
    if not isinstance(error, dict):
        return _Body(_short(str(error)))
    message = str(error.get("message") or error.get("detail") or "")
    code = str(error.get("code") or "")
    kind = str(error.get("type") or "")
    context = _CONTEXT.search(message)
    tokens = next((found for pattern in _TOKENS if (found := pattern.search(message))), None)
    return _Body(
        message=_short(message),
        code=kind if kind == "exceed_context_size_error" else code,
        tokens=_number(error.get("n_prompt_tokens")) or int(tokens[1] if tokens else 0),
        context=_number(error.get("n_ctx")) or int(context[1] if context else 0),
    )


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= 200 else text[:199] + "…"


def _number(value: Any) -> int:
    return value if isinstance(value, int) and 0 < value < 2**53 else 0
