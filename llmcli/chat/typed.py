"""
From the line that was typed to the message that is meant, and back: blocks, and slashes that are none.
"""

from __future__ import annotations

from llmcli.chat.slash import is_known, literal
from llmcli.output.json_text import printable

BLOCK = '"""'


def message(line: str) -> str:
    """
    What a line says, without the marks of a block; a slash that begins a block, or several lines that are
    no command, is doubled, as in a line that is a message.
    """
    line = printable(line)
    text = without_marks(line)
    as_it_stands = text is not line or ("\n" in text and not is_known(text))
    return literal(text) if as_it_stands else text


def as_line(text: str) -> str:
    '''
    The line that says this message, to be typed anew.

    >>> as_line("hello"), as_line("/etc/hosts"), as_line("/help\\nme")
    ('hello', '//etc/hosts', '"""\\n/help\\nme\\n"""')
    '''
    if "\n" not in text:
        return literal(text)
    return f"{BLOCK}\n{text}\n{BLOCK}" if is_known(text) else text


def without_marks(text: str) -> str:
    '''
    A block's text without the marks around it.

    >>> without_marks('"""\\none\\ntwo\\n"""')
    'one\\ntwo'
    '''
    stripped = text.strip()
    inside = stripped[len(BLOCK) : -len(BLOCK)]
    marked = stripped.startswith(BLOCK) and stripped.endswith(BLOCK) and len(stripped) >= 2 * len(BLOCK)
    return inside.strip("\n") if marked and BLOCK not in inside else text


def in_open_block(text: str) -> bool:
    '''
    Whether a block was begun that is not closed yet.

    >>> in_open_block('"""\\none'), in_open_block('"""one"""')
    (True, False)
    '''
    return text.lstrip().startswith(BLOCK) and text.count(BLOCK) % 2 == 1
