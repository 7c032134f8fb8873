"""
What each key does in the message that is typed; all others are prompt-toolkit's, as emacs or vi has them.

prompt-toolkit moves and deletes by code points. Here the cursor stands before or behind what a person sees
as one character (an emoji of several, a flag, a letter with its accents), and the keys that delete one,
replace it or swap it take all of it.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from threading import Lock

from prompt_toolkit.application.current import get_app
from prompt_toolkit.buffer import Buffer
from prompt_toolkit.document import Document
from prompt_toolkit.enums import DEFAULT_BUFFER
from prompt_toolkit.filters import (
    Condition,
    Filter,
    emacs_insert_mode,
    has_focus,
    has_selection,
    vi_insert_mode,
    vi_navigation_mode,
    vi_replace_mode,
)
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.key_binding.bindings.vi import TextObject, create_text_object_decorator
from prompt_toolkit.key_binding.vi_state import InputMode
from prompt_toolkit.keys import Keys
from prompt_toolkit.selection import PasteMode, SelectionType
from wcwidth import grapheme_boundary_before, iter_graphemes

from llmcli.chat.outside import edit_outside
from llmcli.chat.typed import in_open_block


def after(text: str, at: int) -> int:
    """
    Where the character that begins at a place ends.

    >>> after("e\\u0301x", 0), after("👍🏽!", 0), after("", 0)
    (2, 2, 0)
    """
    return at + len(next(iter_graphemes(text, at), ""))


def erased(text: str, at: int) -> int:
    """
    Where Backspace deletes from. In a script without capitals (Arabic, Hindi, Thai) the marks and letters
    that make one character are typed one by one, and are deleted so.

    >>> erased("👍🏽", 2), erased("\u0928\u093f", 2), erased("\u0e19\u0e33", 2)
    (0, 1, 1)
    """
    start = grapheme_boundary_before(text, at)
    typed_apart = unicodedata.category(text[start : start + 1] or " ") == "Lo"
    return at - 1 if typed_apart and _can_be_seen(text[at - 1]) else start


def _can_be_seen(character: str) -> bool:
    """No joiner and no selector of a variant, which shows only in what stands before it."""
    selects = "\ufe00" <= character <= "\ufe0f" or "\U000e0100" <= character <= "\U000e01ef"
    return not selects and unicodedata.category(character) != "Cf"


def without_mouse() -> KeyBindings:
    """A colour's escape sequence passes for a mouse's with prompt-toolkit, which then raises ValueError."""
    keys = KeyBindings()

    @keys.add(Keys.Vt100MouseEvent)
    def _(event: KeyPressEvent) -> None:
        """Nothing: the mouse is the terminal's."""

    return keys


def _pressed_anew(event: KeyPressEvent) -> bool:
    """One undo takes back all that a held key did."""
    return not event.is_repeat


def bindings(complain: Callable[[str], None]) -> KeyBindings:
    """Our keys for the message; while history is searched (Ctrl-R) they mean what they always do there."""
    keys = without_mouse()
    typing = has_focus(DEFAULT_BUFFER)
    outside = Lock()  # held while an editor runs

    @keys.add("enter", filter=typing)
    def _(event: KeyPressEvent) -> None:
        """Send, or begin a new line inside an open block."""
        buffer = event.current_buffer
        if in_open_block(buffer.text):
            buffer.insert_text("\n")
        else:
            buffer.validate_and_handle()

    @keys.add("escape", "enter", filter=typing)
    @keys.add("c-j", filter=typing)
    def _(event: KeyPressEvent) -> None:
        """Begin a new line."""
        event.current_buffer.insert_text("\n")

    @keys.add("c-g", filter=typing)
    async def _(event: KeyPressEvent) -> None:
        """Write the message in $EDITOR."""
        with outside:
            await edit_outside(event.current_buffer, complain)

    @keys.add("<sigint>", filter=Condition(outside.locked))
    def _(event: KeyPressEvent) -> None:
        """Nothing: that Ctrl-C was for the editor, or what it runs."""

    @keys.add("c-c", filter=typing)
    def _(event: KeyPressEvent) -> None:
        """Put the line away, where the arrow key finds it; at an empty prompt, tell the loop."""
        buffer = event.current_buffer
        if buffer.text:
            buffer.append_to_history()
            buffer.reset()
        else:
            event.app.exit(exception=KeyboardInterrupt, style="class:aborting")

    _add_deletions(keys, typing & ~has_selection & (emacs_insert_mode | vi_insert_mode))
    _add_swap(keys, typing & emacs_insert_mode)
    _add_vi_commands(keys, typing & ~has_selection & vi_navigation_mode)
    _add_vi_replacing(keys, typing & vi_replace_mode)
    _add_vi_text_objects(keys, typing)
    return keys


def _add_deletions(keys: KeyBindings, inserting: Filter) -> None:
    """Backspace and Delete."""
    has_text = Condition(lambda: bool(get_app().current_buffer.text))

    @keys.add("backspace", filter=inserting, save_before=_pressed_anew)
    def _(event: KeyPressEvent) -> None:
        """Delete the character before the cursor."""
        buffer = event.current_buffer
        for _ in range(max(event.arg, 0)):
            at = buffer.cursor_position
            buffer.delete_before_cursor(at - erased(buffer.text, at))

    @keys.add("delete", filter=inserting, save_before=_pressed_anew)
    @keys.add("c-d", filter=inserting & emacs_insert_mode & has_text, save_before=_pressed_anew)
    def _(event: KeyPressEvent) -> None:
        """Delete the character under the cursor."""
        buffer = event.current_buffer
        for _ in range(max(event.arg, 0)):
            buffer.delete(after(buffer.text, buffer.cursor_position) - buffer.cursor_position)


def _add_swap(keys: KeyBindings, inserting: Filter) -> None:
    """Emacs' Ctrl-T."""

    @keys.add("c-t", filter=inserting)
    def _(event: KeyPressEvent) -> None:
        """Swap the characters before and under the cursor; at the end of a line, the two before it."""
        buffer = event.current_buffer
        text, at = buffer.text, buffer.cursor_position
        end = at if text[at : at + 1] in ("", "\n") or not at else after(text, at)
        middle = grapheme_boundary_before(text, end)
        start = grapheme_boundary_before(text, middle)
        swapped = text[middle:end] + text[start:middle]
        buffer.document = Document(text[:start] + swapped + text[end:], end)


def _add_vi_commands(keys: KeyBindings, commanding: Filter) -> None:
    """What vi's normal mode does with single characters."""

    @keys.add("x", filter=commanding)
    def _(event: KeyPressEvent) -> None:
        """Cut the characters under the cursor and behind it."""
        if cut := _cut(event):
            event.app.clipboard.set_text(cut)

    @keys.add("s", filter=commanding)
    def _(event: KeyPressEvent) -> None:
        """Cut them, and type others."""
        event.app.clipboard.set_text(_cut(event))
        event.app.vi_state.input_mode = InputMode.INSERT

    @keys.add("X", filter=commanding)
    def _(event: KeyPressEvent) -> None:
        """Cut the characters before the cursor."""
        buffer, cut = event.current_buffer, ""
        for _ in range(max(event.arg, 0)):
            if buffer.document.cursor_position_col:
                at = buffer.cursor_position
                cut = buffer.delete_before_cursor(at - grapheme_boundary_before(buffer.text, at)) + cut
        if cut:
            event.app.clipboard.set_text(cut)

    @keys.add("r", Keys.Any, filter=commanding)
    def _(event: KeyPressEvent) -> None:
        """Put another character in the place of each."""
        buffer = event.current_buffer
        at = buffer.cursor_position
        cut = _cut(event)
        buffer.insert_text(event.data * len(list(iter_graphemes(cut))))
        buffer.cursor_position = max(at, buffer.cursor_position - 1)

    @keys.add("p", filter=commanding)
    def _(event: KeyPressEvent) -> None:
        """Paste behind the character under the cursor."""
        buffer, data = event.current_buffer, event.app.clipboard.get_data()
        if data.type is not SelectionType.CHARACTERS or not data.text:
            buffer.paste_clipboard_data(data, PasteMode.VI_AFTER, event.arg)
            return
        text, at, pasted = buffer.text, buffer.cursor_position, data.text * event.arg
        start = at if text[at : at + 1] in ("", "\n") else after(text, at)
        text = text[:start] + pasted + text[start:]
        buffer.document = Document(text, grapheme_boundary_before(text, start + len(pasted)))


def _add_vi_replacing(keys: KeyBindings, replacing: Filter) -> None:
    """What is typed after vi's R."""

    @keys.add(Keys.Any, filter=replacing)
    def _(event: KeyPressEvent) -> None:
        """Put a character in the place of the one under the cursor, or what belongs to it behind it."""
        buffer = event.current_buffer
        before = buffer.document.text_before_cursor
        if grapheme_boundary_before(before + event.data, len(before) + 1) == len(before):
            _cut(event)
        buffer.insert_text(event.data)


def _add_vi_text_objects(keys: KeyBindings, typing: Filter) -> None:
    """What vi's operators take of one character: dl, ch, y3l."""
    text_object = create_text_object_decorator(keys)
    for key in ("l", " ", "right", "h", "left"):
        text_object(key, filter=typing, no_move_handler=True, no_selection_handler=True)(
            _before if key in ("h", "left") else _behind
        )


def _behind(event: KeyPressEvent) -> TextObject:
    """The characters under the cursor and behind it, within the line."""
    text, at = event.current_buffer.text, event.current_buffer.cursor_position
    end = at
    for _ in range(event.arg):
        end = end if text[end : end + 1] == "\n" else after(text, end)
    return TextObject(end - at)


def _before(event: KeyPressEvent) -> TextObject:
    """The characters before the cursor, within the line."""
    text, at = event.current_buffer.text, event.current_buffer.cursor_position
    start = at
    for _ in range(event.arg):
        start = start if text[:start].endswith("\n") else grapheme_boundary_before(text, start)
    return TextObject(start - at)


def _cut(event: KeyPressEvent) -> str:
    """Delete as many characters as were asked for, within the line."""
    buffer, cut = event.current_buffer, ""
    for _ in range(max(event.arg, 0)):
        if buffer.document.current_char not in ("", "\n"):
            cut += buffer.delete(after(buffer.text, buffer.cursor_position) - buffer.cursor_position)
    return cut


class WholeCharacters:
    """Keeps the cursor out of a character of several code points, whatever key moved it there."""

    def __init__(self, buffer: Buffer) -> None:
        self._edited_to = (buffer.text, buffer.cursor_position)
        self._last = buffer.cursor_position
        buffer.on_text_changed += self._edited
        buffer.on_cursor_position_changed += self._moved

    def _edited(self, buffer: Buffer) -> None:
        """While a character is typed, code point by code point, the cursor may well stand in one."""
        self._last = buffer.cursor_position
        self._edited_to = (buffer.text, self._last)

    def _moved(self, buffer: Buffer) -> None:
        text, at, forward = buffer.text, buffer.cursor_position, buffer.cursor_position > self._last
        self._last = at
        start = grapheme_boundary_before(text, at + 1)
        if start < at < len(text) and (text, at) != self._edited_to:
            buffer.cursor_position = after(text, start) if forward else start
