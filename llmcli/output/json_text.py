"""JSON as we write it: Unicode, strict, whatever half characters a text or a file's name holds."""

from __future__ import annotations

import json
import re
from typing import Any

SURROGATES = re.compile("[\ud800-\udfff]")


def printable(text: str) -> str:
    """A text that is UTF-8: a lone surrogate becomes U+FFFD."""
    return text if text.isascii() else SURROGATES.sub("\ufffd", text)


def printable_json(value: Any) -> Any:
    """The same for every text in a value of JSON, where escapes can be halves of characters."""
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, list):
        return [printable_json(one) for one in value]
    if isinstance(value, dict):
        return {printable(key): printable_json(one) for key, one in value.items()}
    return value


def to_json(value: Any, indent: int | None = None) -> str:
    r"""
    Compact enough to read, strict: no NaN, and half a surrogate pair (a file name's odd byte) escaped.

    >>> print(to_json({"source": "caf\udce9.txt"}))
    {"source": "caf\udce9.txt"}
    """
    try:
        made = json.dumps(value, ensure_ascii=False, allow_nan=False, default=str, indent=indent)
    except ValueError:
        made = json.dumps(value, ensure_ascii=False, default=str, indent=indent)
    return made if made.isascii() else SURROGATES.sub(lambda half: f"\\u{ord(half[0]):04x}", made)
