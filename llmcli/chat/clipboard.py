"""
Put a text on the clipboard: by the system's own program, or by asking the terminal (OSC 52).

The escape sequence is ours and its content is base64, so nothing in the text can act on the terminal.
"""

from __future__ import annotations

import base64
import os
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence

from llmcli.errors import InputOutputError

PROGRAMS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("", ("pbcopy",)),
    ("WAYLAND_DISPLAY", ("wl-copy",)),
    ("DISPLAY", ("xclip", "-selection", "clipboard")),
    ("DISPLAY", ("xsel", "--clipboard", "--input")),
    ("WSL_DISTRO_NAME", ("clip.exe",)),
)
"""The variable that must be set, and the program."""

LONGEST_OSC = 74_994
"""Characters; xterm and tmux take 100,000 bytes of base64 at most, less the sequence itself."""


def copy(text: str, ask_terminal: Callable[[str], object], environ: Mapping[str, str] = os.environ) -> str:
    """
    Copy; gives the name of what took the text.

    Over SSH the clipboard is at the other end, so the terminal is asked.
    Raises InputOutputError when nothing takes the text.
    """
    if not environ.get("SSH_TTY"):
        for variable, command in PROGRAMS:
            if (not variable or environ.get(variable)) and shutil.which(command[0]):
                _feed(command, text)
                return command[0]
    if environ.get("TERM", "dumb") == "dumb":
        raise InputOutputError("no clipboard here", hint="/export md FILE writes the conversation to a file")
    data = text.encode("utf-8", "replace")
    if len(data) > LONGEST_OSC:
        raise InputOutputError(
            f"{len(data):,} bytes are too many for the terminal's clipboard", hint="or: /export md FILE"
        )
    ask_terminal(f"\x1b]52;c;{base64.b64encode(data).decode()}\x07")
    return "the terminal"


def _feed(command: Sequence[str], text: str) -> None:
    try:
        subprocess.run(
            command, input=text.encode("utf-8", "replace"), check=True, timeout=5,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError) as error:
        raise InputOutputError(f"cannot copy with {command[0]}: {error}") from error
