"""
Write docs/commands.md from the commands' own help: `python docs/reference.py`.

tests/cli/test_reference.py fails when the page and the commands differ. Options that text commands share are
printed once, with the first of them.
"""

from __future__ import annotations

import io
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

PAGE = Path(__file__).parent / "commands.md"
SHARED = ("Model", "Sampling", "Input", "Output", "Rows")  # sections of a text command's help
FULL = "summarize"  # the text command whose help is printed whole
WIDTH = "80"

TOP = """\
# Command reference

Written by `python docs/reference.py` from `--help`; do not edit. What the exit codes mean stands at the end.
"""

EXIT_CODES = """\
## Exit codes

| code | meaning |
|---|---|
| 0 | done |
| 1 | a bug in llmcli |
| 2 | usage: the command line is wrong |
| 3 | a batch finished, and some of its rows or texts failed |
| 4 | the model file is missing, invalid, changed during the run, or has the wrong checksum |
| 5 | the input exceeds the context window |
| 65 | a file that cannot be read as its format |
| 66 | no such input |
| 69 | a server or the network does not answer |
| 70 | the engine crashed |
| 73 | an output cannot be created |
| 74 | reading or writing failed: disk full, standard output closed |
| 75 | locked by another process, or stopped and resumable: run the same line again |
| 76 | the answer cannot be used: JSON cut or invalid, degenerate text, a server that broke the protocol |
| 77 | permission refused |
| 78 | a bad configuration file or template |
| 130, 141, 143 | ended by Ctrl-C, by a closed pipe, by SIGTERM |

An error is one line on standard error, cause then remedy; results alone go to standard output.
"""


def page() -> str:
    """The whole page."""
    os.environ["COLUMNS"] = WIDTH
    return TOP + "".join(_entries()) + "\n" + EXIT_CODES


def _entries() -> Iterator[str]:
    from llmcli import registry
    from llmcli.cli.main import COMMANDS

    yield _entry([])
    templates = [found.name for found in registry.list_templates(Path(__file__).parent)]
    for name in sorted({*templates, *COMMANDS}, key=lambda name: (name != FULL, name)):
        text = _help([name])
        yield _entry([name])
        for subcommand in _subcommands(text):
            yield _entry([name, subcommand])


def _entry(words: list[str]) -> str:
    text = _help(words)
    if words and words != [FULL] and "\nRows (" in text:
        text = _without_shared(text)
    return f"\n## {' '.join(['llm', *words])}\n\n```text\n{text.rstrip()}\n```\n"


def _without_shared(text: str) -> str:
    kept = []
    shared = False
    for block in text.split("\n\n"):
        if block.startswith((*SHARED, "Other")):
            if not shared:
                kept.append(f"Options shared by all text commands: see llm {FULL}.")
            shared = True
        else:
            kept.append(block)
    return "\n\n".join(kept)


def _subcommands(text: str) -> list[str]:
    if "\nCommands:\n" not in text:
        return []
    lines = text.split("\nCommands:\n")[1].split("\n\n")[0].splitlines()
    return [line.split()[0] for line in lines if line.startswith("  ") and line[2] != " "]


def _help(words: list[str]) -> str:
    from llmcli.cli.environment import Environment
    from llmcli.cli.main import run

    out = io.BytesIO()
    with tempfile.TemporaryDirectory() as empty:
        env = Environment(stdin=io.BytesIO(), stdout=out, stderr=io.BytesIO(), cwd=Path(empty))
        code = run([*words, "--help"], env)
    if code:
        raise SystemExit(f"llm {' '.join(words)} --help exits {code}: {env.stderr.getvalue().decode()}")  # type: ignore[attr-defined]
    return out.getvalue().decode()


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
