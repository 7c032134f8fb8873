"""
Record the screens of docs/chat.md: type into a real terminal (tmux), keep what it shows as SVG.

    python docs/screens/record.py        # needs tmux; writes docs/screens/*.svg

The replies are demo.yaml's, so the pictures show the program, not a model.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.text import Text

HERE = Path(__file__).parent
WAIT = 60  # seconds, for a machine that has other things to do

SCENES: dict[str, tuple[int, int, list[str], list[tuple[str, str]]]] = {
    # name: columns, rows, options, (what is typed, what is then waited for)
    "chat": (
        80, 34, [],
        [("How do I bake sourdough bread?\r", "first half.*\n\n>"), ("/re", "/regen")],
    ),
    "room": (
        80, 24, ["--context", "110"],
        [
            ("My kitchen is cold. What do I do?\r", "clock.\n\n>"),
            ("How will I know that it has risen enough to be baked?\r", "(?s)clock.*clock.\n\n>"),
            ("And a very wet dough, does it rise slower?\r", "(?s)clock.*clock.*clock.\n\n>"),
            ("And if I leave it in the fridge for two days?\r", "go back"),
            ("d\r", "(?s)dropped.*clock"),
        ],
    ),
    "narrow": (
        20, 16, [],
        [("Is my kitchen too cold?\r", "clock"), ("/undo\r", "taken back")],
    ),
}  # fmt: skip


def tmux(*args: str) -> str:
    """Run tmux on a server of our own."""
    return subprocess.run(["tmux", "-L", "screens", *args], capture_output=True, text=True, check=True).stdout


def record(name: str) -> None:
    """Play one scene and write its picture."""
    columns, rows, options, script = SCENES[name]
    with tempfile.TemporaryDirectory() as home:
        folders = [f"LLMCLI_{kind}_DIR={home}/{kind.lower()}" for kind in ("CONFIG", "DATA", "CACHE")]
        command = [sys.executable, "-m", "llmcli", "chat", "-m", f"scripted:{HERE / 'demo.yaml'}", *options]
        size = ["-x", str(columns), "-y", str(rows)]
        start = ["env", "TERM=xterm-256color", f"PYTHONPATH={HERE.parent.parent}", *folders, *command]
        tmux("new-session", "-d", "-s", name, *size, *start)
        try:
            wait_for("(?m)^>", name)
            for typed, wanted in script:
                tmux("send-keys", "-t", name, "-l", typed)
                wait_for(wanted, name)
            time.sleep(2)
            captured = tmux("capture-pane", "-t", name, "-p", "-e")
            draw(captured, name, columns, " ".join(["llm chat", *options]))
        finally:
            tmux("kill-session", "-t", name)


def wait_for(wanted: str, name: str) -> None:
    """Wait until the screen shows something."""
    end = time.monotonic() + WAIT
    while not re.search(wanted, tmux("capture-pane", "-t", name, "-p", "-S", "-")):
        if time.monotonic() > end:
            sys.exit(f"{name}: {wanted!r} did not come:\n{tmux('capture-pane', '-t', name, '-p')}")
        time.sleep(0.2)


def draw(captured: str, name: str, columns: int, title: str) -> None:
    """What tmux captured as an SVG that fetches no font."""
    with open(os.devnull, "w") as nowhere:  # noqa: PTH123
        console = Console(
            record=True, width=columns, file=nowhere, force_terminal=True, color_system="truecolor"
        )
        for line in captured.rstrip("\n").split("\n"):
            console.print(Text.from_ansi(line), soft_wrap=True)
    svg = re.sub(r"@font-face \{.*?\}", "", console.export_svg(title=title, unique_id=name), flags=re.DOTALL)
    svg = svg.replace("Fira Code, monospace", "ui-monospace, Menlo, Consolas, monospace")
    (HERE / f"{name}.svg").write_text("\n".join(line.rstrip() for line in svg.splitlines()) + "\n")


if __name__ == "__main__":
    for one in sys.argv[1:] or SCENES:
        record(one)
