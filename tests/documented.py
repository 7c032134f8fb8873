"""
What a Markdown page shows: its files, and its commands with their output.

`python tests/documented.py README.md` runs the page's commands and writes their output into it: for when
the built-in model, or a message, has changed.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

ROOT = Path(__file__).parent.parent
NOT_CHECKED = "output not checked here"

_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_FILE = re.compile(r"# file: (\S+)\n")


def section(page: str, title: str) -> str:
    """The part of a page under a heading of the second level."""
    return page.split(f"\n## {title}\n")[1].split("\n## ")[0]


def files(page: str) -> dict[str, str]:
    """The blocks that begin with `# file: NAME`, by name."""
    blocks = (text for _, text in _BLOCK.findall(page))
    return {name[1]: text[name.end() :] for text in blocks if (name := _FILE.match(text))}


def commands(page: str) -> list[tuple[str, str]]:
    """Each `$ command` of the console blocks that is to be run, with the output shown under it."""
    shown = (pair for kind, text in _BLOCK.findall(page) if kind == "console" for pair in _pairs(text))
    return [pair for pair in shown if NOT_CHECKED not in pair[0]]


def write_files(page: str, folder: Path) -> None:
    """Put the page's files, and the examples that it reads, into a folder."""
    shutil.copytree(ROOT / "docs" / "examples", folder / "docs" / "examples", dirs_exist_ok=True)
    for name, text in files(page).items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def output_of(command: str, folder: Path, env: Mapping[str, str]) -> str:
    """What a line of shell prints, errors too."""
    path = f"{Path(sys.executable).parent}:{env['PATH']}"
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=folder,
        env={**env, "PATH": path, "LC_ALL": "C.UTF-8"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    return done.stdout.decode()


def _pairs(text: str) -> Iterator[tuple[str, str]]:
    for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        command, _, output = part.partition("\n")
        yield command, output


def _rewritten(page: str, folder: Path, env: Mapping[str, str]) -> str:
    def block(match: re.Match[str]) -> str:
        if match[1] != "console":
            return match[0]
        lines = []
        for command, output in _pairs(match[2]):
            shown = output if NOT_CHECKED in command else output_of(command, folder, env)
            lines.append(f"$ {command}\n{shown}")
        return f"```console\n{''.join(lines)}```"

    return _BLOCK.sub(block, page)


if __name__ == "__main__":
    chosen = Path(sys.argv[1])
    text = chosen.read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory() as empty:
        write_files(text, Path(empty))
        own = {f"LLMCLI_{name}_DIR": f"{empty}/home/{name}" for name in ("CONFIG", "DATA", "CACHE")}
        chosen.write_text(_rewritten(text, Path(empty), {**os.environ, **own}), encoding="utf-8")
