"""Every slash command and key, as transcripts: what is typed and what is shown."""

from __future__ import annotations

from pathlib import Path

import pytest
from chat.typist import REWRITE, Transcript, rewrite

from llmcli.chat.slash import COMMANDS

FILES = sorted((Path(__file__).parent / "transcripts").glob("*.txt"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_what_is_typed_shows_what_the_transcript_says(path, tmp_path):
    if REWRITE:
        rewrite(path, tmp_path)
        return

    assert Transcript.read(path).play(tmp_path) == path.read_text(encoding="utf-8")


def test_every_slash_command_has_a_transcript():
    typed = {
        line.split()[0] for path in FILES for line in Transcript.read(path).lines if line.startswith("/")
    }

    assert {command.name for command in COMMANDS} <= typed
