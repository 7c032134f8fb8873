"""JSON as we write it: Unicode, strict, whatever half characters a text or a file's name holds."""

from __future__ import annotations

import json
import re
from typing import Any

SURROGATES = re.compile("[\ud800-\udfff]")


def to_json(value: Any) -> str:
    r"""
    Compact enough to read, strict: no NaN, and half a surrogate pair (a file name's odd byte) escaped.

    >>> print(to_json({"source": "caf\udce9.txt"}))
    {"source": "caf\udce9.txt"}
    """
    try:
        made = json.dumps(value, ensure_ascii=False, allow_nan=False, default=str)
    except ValueError:
        made = json.dumps(value, ensure_ascii=False, default=str)
    return made if made.isascii() else SURROGATES.sub(lambda half: f"\\u{ord(half[0]):04x}", made)
