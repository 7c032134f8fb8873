"""
The message in $EDITOR: written to a file, changed by another program, read back.

prompt-toolkit's own way ends in a traceback where that file is gone or is no UTF-8.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

from prompt_toolkit.application import run_in_terminal
from prompt_toolkit.buffer import Buffer
from prompt_toolkit.document import Document

from llmcli.output.json_text import printable

EDITORS = ("editor", "nano", "vi")  # where neither $VISUAL nor $EDITOR says


async def edit_outside(buffer: Buffer, complain: Callable[[str], None]) -> None:
    """Let the user's editor change the text; it stays as it was where that fails."""
    try:
        text = await run_in_terminal(lambda: _edited(buffer.text), in_executor=True)
    except (OSError, ValueError) as error:
        reason = f"error: the editor's text cannot be had: {error}"
        await run_in_terminal(lambda: complain(reason))
    else:
        buffer.document = Document(text, len(text))


def _edited(text: str) -> str:
    """What the editor leaves; the text itself where it ends with an error. Raises OSError, ValueError."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "message.md")
        file.write_text(printable(text), "utf-8")
        if subprocess.call([*_editor(), str(file)]):
            return text
        return file.read_text("utf-8", errors="replace").removesuffix("\n")


def _editor() -> list[str]:
    """Its command line. Raises OSError where there is none, ValueError for quotes that do not close."""
    named = os.environ.get("VISUAL") or os.environ.get("EDITOR")
    if named:
        return shlex.split(named)
    found = next(filter(None, map(shutil.which, EDITORS)), None)
    if found is None:
        raise OSError("no editor is installed ($EDITOR names one)")
    return [found]
