"""
A typist for the chat: types into prompt-toolkit's pipe, reads what the screen shows.

A transcript is a file: the scripted engine's replies, `---`, and then what is typed
(`>>> `) and what is shown. Keys that are no letters are written <C-j>, <Up>, <paste>…</paste>.
"""

from __future__ import annotations

import io
import os
import re
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import yaml
from prompt_toolkit import PromptSession
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output import DummyOutput

from llmcli.chat import repl
from llmcli.chat.conversation import Conversation
from llmcli.chat.editor import Editor
from llmcli.chat.history import History
from llmcli.chat.screen import Screen
from llmcli.chat.signals import Signals
from llmcli.chat.talk import Doors, Talk
from llmcli.engines.scripted import Script, ScriptedEngine
from llmcli.messages import Sampling

KEYS = {
    "<C-c>": "\x03", "<C-d>": "\x04", "<C-D>": "\x04", "<C-g>": "\x07", "<C-j>": "\n", "<C-r>": "\x12",
    "<C-a>": "\x01", "<C-f>": "\x06", "<C-t>": "\x14", "<C-w>": "\x17", "<M-Enter>": "\x1b\r",
    "<Enter>": "\r", "<Tab>": "\t",
    "<Up>": "\x1b[A", "<Down>": "\x1b[B", "<Left>": "\x1b[D", "<Right>": "\x1b[C", "<S-Right>": "\x1b[1;2C",
    "<Esc>": "\x1b", "<BS>": "\x7f", "<Del>": "\x1b[3~", "<LF>": "\n",
    "<paste>": "\x1b[200~", "</paste>": "\x1b[201~",
}  # fmt: skip
TYPED = ">>> "
ENDS_PROMPT = ("<C-c>", "<C-d>")

VOLATILE = [
    (re.compile(r"\d+\.\d+ tokens/s"), "N tokens/s"),
    (re.compile(r"\d+\.\d+ s\b"), "N s"),
    (re.compile(r"\d{4}-\d\d-\d\d( \d\d:\d\d)?"), "DATE"),
    (re.compile(r"^session +(?=\d)", re.M), "session      "),
]


def keystrokes(line: str) -> str:
    """A transcript's line as a keyboard sends it; Enter follows, unless a key already ended the prompt."""
    sent = "".join(KEYS.get(part) or _quickly(part) for part in re.split(r"(</?[A-Za-z-]+>)", line))
    return sent if line.endswith(ENDS_PROMPT) else sent + "\r"


def _quickly(text: str) -> str:
    """A word is typed, a sentence pasted: prompt-toolkit takes 3 ms for each key."""
    return text if len(text) < 6 or "\x1b" in text else f"\x1b[200~{text}\x1b[201~"


class MarkedEditor(Editor):
    """An editor that notes where on the screen each line was typed."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.typed: list[str] = []
        self.marks: list[int] = []

    def _type(self, session: PromptSession[str], **settings: Any) -> str:
        try:
            text = super()._type(session, **settings)
            self.typed.append(text)
            return text
        finally:
            self.marks.append(len(self.talk.screen.stream.getvalue()))


@dataclass
class Chat:
    """What came of a typed conversation."""

    talk: Talk
    typed: list[str]
    shown: list[str]
    code: int
    before: str = ""

    @property
    def all(self) -> str:
        """Everything that was shown."""
        return self.before + "".join(self.shown)


@dataclass
class Typist:
    """Chats with a scripted engine, one after the other, on one history."""

    folder: Path
    width: int = 80
    plain: bool = False
    colour: bool = False
    dumb: bool = False
    history: Path | None = None
    copied: list[str] = field(default_factory=list)

    def chat(
        self, *lines: str, session: str = "", first: str = "", system: str = "", resume: bool = False,
        sampling: Sampling = Sampling(temperature=0.7), keys: str = "emacs", seed: int | None = 1,  # noqa: B008
        context: int | None = None, others: dict[str, dict[str, Any]] | None = None, **script: Any,
    ) -> Chat:  # fmt: skip
        """Type these lines (and then Ctrl-D) into a chat whose engine has this script."""
        scripts = {"model": script, **(others or {})}

        def open_engine(reference: str, context: int | None) -> ScriptedEngine:
            chosen = msgspec.convert(scripts[reference], Script)
            if context:
                chosen = msgspec.structs.replace(chosen, context=context)
            log = self.folder / chosen.log if chosen.log else None
            return ScriptedEngine(chosen, name=reference, log=log)

        def copy(text: str) -> str:
            self.copied.append(text)
            return "the test's clipboard"

        out = io.StringIO()
        with ExitStack() as stack:
            history = stack.enter_context(closing(History(self.history)))
            screen = Screen(
                out,
                terminal=True,
                width=lambda: self.width,
                plain=self.plain,
                colour=self.colour,
                dumb=self.dumb,
            )
            if resume:
                conversation = Conversation.load(history, history.find(session or "last"), "model")
            else:
                conversation = Conversation(history, "model", system, session)
            doors = Doors(open_engine, lambda: sorted(scripts), copy, cwd=self.folder)
            signals = stack.enter_context(Signals(None))
            talk = Talk(doors, conversation, screen, signals, "model", sampling, seed=seed, context=context)
            stack.callback(talk.close)
            talk.engine.info  # noqa: B018 (loaded, so that what is shown does not depend on when)
            pipe = stack.enter_context(create_pipe_input())
            editor = MarkedEditor(talk, keys, pipe, DummyOutput())
            pipe.send_text("".join(map(keystrokes, lines)) + "\x03\x04")
            code = repl.run(talk, editor, first)
            shown = out.getvalue()
            marks = [*editor.marks, len(shown)]
            parts = [shown[start:end] for start, end in pairwise(marks)]
            return Chat(
                talk, editor.typed, [_as_seen(part) for part in parts], code, _as_seen(shown[: marks[0]])
            )


def _as_seen(text: str) -> str:
    """What is left on the screen: a preview line that was wiped away is not."""
    text = re.sub(r"\r\x1b\[J[^\n]*?\r(?=\r\x1b\[J)", "", text)
    return text.replace("\r\x1b[J", "")


@dataclass
class Transcript:
    """A transcript file, read."""

    path: Path
    head: str
    lines: list[str]
    settings: dict[str, Any]

    @classmethod
    def read(cls, path: Path) -> Transcript:
        """Take a file apart."""
        head, _, body = path.read_text(encoding="utf-8").partition("---\n")
        lines = [line[len(TYPED) :] for line in body.splitlines() if line.startswith(TYPED)]
        return cls(path, head, lines, yaml.safe_load(head) or {})

    def play(self, folder: Path) -> str:
        """Type it; gives the file as it should be."""
        settings = dict(self.settings)
        for name, text in settings.pop("files", {}).items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text, encoding="utf-8")
        if "sampling" in settings:
            settings["sampling"] = Sampling(**settings["sampling"])
        typist = Typist(folder, width=settings.pop("width", 80), plain=settings.pop("plain", False))
        if settings.pop("kept", False):
            typist.history = folder / "history.db"
        chat = typist.chat(*self.lines, **settings)
        shown = chat.shown
        for pattern, word in VOLATILE:
            shown = [pattern.sub(word, part) for part in shown]
        body = "".join(f"{TYPED}{line}\n{part}" for line, part in zip(self.lines, shown))
        return self.head + "---\n" + body


def rewrite(path: Path, folder: Path) -> None:
    """Write down what is shown now; look at the difference before keeping it."""
    path.write_text(Transcript.read(path).play(folder), encoding="utf-8")


REWRITE = os.environ.get("REWRITE_TRANSCRIPTS")
