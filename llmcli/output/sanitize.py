"""
Foreign text as a terminal may show it.

A document, a model or a file name can hold escape sequences that clear the screen, write to the
clipboard or forge what was said before. In front of every terminal write they are made visible; to a
pipe or a file text goes unchanged. Works character by character and keeps no state, so a stream
that is cut anywhere, even inside an escape sequence, comes out the same: sanitising the pieces
and joining them equals sanitising the whole.
"""

from __future__ import annotations

import re

# C0 but tab and newline, DEL, C1, the bidirectional embeddings, overrides and isolates, which reorder
# what stands beside them (CVE-2021-42574), and lone surrogates, which cannot be encoded.
_UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_NOT_ONE_LINE = re.compile("[\t\n\u2028\u2029]")


def sanitize(text: str, terminal: bool = True) -> str:
    """
    Text with its control characters shown as visible ones; unchanged when it does not go to a terminal.

    >>> sanitize("\\x1b[2J red \\x9b31m \\u202etxt.exe\\n")
    '␛[2J red \\\\x9b31m <U+202E>txt.exe\\n'
    >>> sanitize("\\x1b[2J", terminal=False)
    '\\x1b[2J'
    """
    return _UNSAFE.sub(_shown, text) if terminal else text


def one_line(text: str) -> str:
    r"""
    A message on one line, whatever file names it quotes; for standard error, a terminal or not.

    >>> one_line("cannot read a\nb\x07")
    'cannot read a\\nb␇'
    """
    return _NOT_ONE_LINE.sub(lambda match: repr(match[0])[1:-1], sanitize(text))


def _shown(match: re.Match[str]) -> str:
    code = ord(match[0])
    if code < 0x20:
        return chr(0x2400 + code)  # Unicode's control pictures: ␛ for ESC
    if code == 0x7F:
        return "␡"
    if code <= 0x9F:
        return f"\\x{code:02x}"
    return f"<U+{code:04X}>"
