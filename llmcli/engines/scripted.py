"""
An engine that reads its replies from a file: `-m scripted:FILE`. It is how nearly every test runs.

A reply is a function of the prompt, never of the order in which prompts come. The file (YAML or JSON):

    replies:                       # the prompt, or a part of it → what to answer; the first that fits
      "Is it good?": "yes"
      lovely: {positive: 0.9, neutral: 0.07, negative: 0.03}           # label probabilities
      riddle: {text: "42", thinking: "Let me see."}
    default: "echo: {last}"        # every other prompt; {last} is its last paragraph, {prompt} all of it
    scores: hash                   # labels of every other prompt get probabilities computed from it
    context: 100                   # tokens, see below; a prompt without room for an answer is InputTooLong
    fail: {poison: "UnusableAnswer: no idea"}                          # that prompt's error
    crash: [bomb]                  # the engine dies when it is asked this
    delay: 0.1                     # seconds for each reply
    recommended: {temperature: 0}  # the sampling that the model's maker recommends for free writing
    log: asked.jsonl               # gets one JSON line for each prompt asked, as it is asked

A token is a word with the white space before it. No file means no reply: every prompt is an error that
quotes it.
"""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any
from zlib import crc32

import msgspec

from llmcli.engines.base import EngineInfo, EngineOptions
from llmcli.errors import (
    BY_NAME,
    BadConfig,
    EngineCrashed,
    InputTooLong,
    LlmError,
    UnusableAnswer,
    from_os_error,
)
from llmcli.messages import Completion, FinishReason, LabelScores, Piece, Prompt, Sampling, Usage

CONTEXT = 8192

_TOKEN = re.compile(r"\s*\S+(?:\s+\Z)?")


class Reply(msgspec.Struct, frozen=True):
    """A reply that is more than a text."""

    text: str
    thinking: str = ""
    finish_reason: FinishReason = "stop"


class Script(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The file."""

    replies: dict[str, str | dict[str, Any]] = {}
    default: str | dict[str, Any] | None = None
    scores: str | None = None
    context: int = CONTEXT
    fail: dict[str, str] = {}
    crash: tuple[str, ...] = ()
    delay: float = 0.0
    recommended: dict[str, Any] = {}
    log: str | None = None


def open_engine(reference: str, options: EngineOptions) -> ScriptedEngine:
    """
    The engine whose replies stand in the file at this path.

    Raises MissingInput and the like for the file, BadConfig for what it says.
    """
    path = Path(reference)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise from_os_error(error, f"read {reference}") from error
    script = _read(data, path)
    if options.context is not None:
        script = msgspec.structs.replace(script, context=options.context)
    log = path.parent / script.log if script.log else None
    return ScriptedEngine(script, name=path.name, sha256=hashlib.sha256(data).hexdigest(), log=log)


class ScriptedEngine:
    """Answers from a script; see this file's top."""

    activity = ""
    where = "a script"

    def __init__(
        self, script: Script, *, name: str = "script", sha256: str = "", log: Path | None = None
    ) -> None:
        self.info = EngineInfo(
            engine="scripted",
            model=name,
            sha256=sha256,
            context=script.context,
            recommended=script.recommended,
        )
        self._script = script
        self._parts = tuple(script.replies.items())
        self._log = None if log is None else os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        self._dead = False

    def count_tokens(self, items: Sequence[Prompt | str]) -> list[int]:
        """Words of each item."""
        return [_count(item if isinstance(item, str) else item.text) for item in items]

    def read_ahead(self, prompt: Prompt, sampling: Sampling) -> None:
        """There is nothing to read."""

    def stream(self, prompt: Prompt, sampling: Sampling) -> Iterator[Piece | Completion]:
        """The reply word by word; the delay is spread over the words."""
        completion = self._completion(prompt, sampling, delay=False)
        pieces = [Piece(token, thinking=True) for token in _TOKEN.findall(completion.thinking)]
        pieces += [Piece(token) for token in _tokens(completion.text)]
        for piece in pieces:
            self._wait(1 / len(pieces))
            yield piece
        yield completion

    def generate(
        self, prompts: Iterable[Prompt], sampling: Sampling
    ) -> Iterator[tuple[int, Completion | LlmError]]:
        """Answer every prompt as it comes."""
        for position, prompt in enumerate(prompts):
            answer: Completion | LlmError
            try:
                answer = self._completion(prompt, sampling)
            except EngineCrashed:
                raise
            except LlmError as error:
                answer = error
            yield position, answer

    def score(
        self, prompts: Iterable[Prompt], labels: Sequence[str]
    ) -> Iterator[tuple[int, LabelScores | LlmError]]:
        """Score the labels for every prompt as it comes."""
        wanted = tuple(labels)
        room = max(map(_count, wanted))
        for position, prompt in enumerate(prompts):
            answer: LabelScores | LlmError
            try:
                answer = self._scores(prompt, wanted, room)
            except EngineCrashed:
                raise
            except LlmError as error:
                answer = error
            yield position, answer

    def close(self) -> None:
        """Close the log."""
        if self._log is not None:
            os.close(self._log)
            self._log = None

    def _completion(self, prompt: Prompt, sampling: Sampling, delay: bool = True) -> Completion:
        text = prompt.text
        self._note("generate", prompt, sampling)
        used = self._admit(text, room=max(1, min(sampling.max_tokens or 1, self._script.context // 4)))
        reply = self._reply(text)
        if isinstance(reply, dict):
            reply = max(reply.items(), key=lambda item: float(item[1]))[0]
        if isinstance(reply, str):
            reply = Reply(reply)
        if delay:
            self._wait()
        room = self._script.context - used
        limit = room if sampling.max_tokens is None else min(sampling.max_tokens, room)
        answer, reason, written = _cut(reply, sampling.stop, limit)
        return Completion(answer, reason, Usage(prompt=used, answer=written), reply.thinking)

    def _scores(self, prompt: Prompt, labels: tuple[str, ...], room: int) -> LabelScores:
        text = prompt.text
        self._note("score", prompt, labels)
        used = self._admit(text, room)
        reply = self._reply(text, labels)
        self._wait()
        weights = _weights(reply, labels)
        if weights is None:
            raise UnusableAnswer(f"scripted: the reply {reply!r} is none of the labels {', '.join(labels)}")
        total = sum(weights)
        shares = tuple(weight / total for weight in weights)
        return LabelScores(labels, shares, shares.index(max(shares)), usage=Usage(prompt=used))

    def _admit(self, text: str, room: int) -> int:
        """The prompt's tokens, if the engine lives and they leave `room` tokens of the context."""
        script = self._script
        if self._dead or any(part in text for part in script.crash):
            self._dead = True
            raise EngineCrashed("the scripted engine died: its script says so")
        for part, failure in script.fail.items():
            if part in text:
                raise _failure(failure)
        used = _count(text)
        if used + room > script.context:
            raise InputTooLong(
                f"the prompt is {used + room:,} tokens and the context is {script.context:,}",
                hint="use --truncate, or a model with a longer context",
                tokens=used + room,
                context=script.context,
            )
        return used

    def _reply(self, text: str, labels: tuple[str, ...] = ()) -> str | Reply | dict[str, Any]:
        found: str | dict[str, Any] | None = self._script.replies.get(text)
        if found is None:
            found = next((reply for part, reply in self._parts if part in text), None)
        if found is None and labels and self._script.scores == "hash":
            return {label: 1 + crc32(f"{label}\n{text}".encode(errors="replace")) % 1000 for label in labels}
        if found is None:
            found = self._script.default
        if found is None:
            raise UnusableAnswer(f"the script has no reply to {text!r}")
        if isinstance(found, dict):
            return msgspec.convert(found, Reply) if "text" in found else found
        return found.replace("{prompt}", text).replace("{last}", text.rsplit("\n\n", 1)[-1])

    def _note(self, kind: str, prompt: Prompt, how: Sampling | tuple[str, ...]) -> None:
        """One line in one write, so that lines of several processes never mix."""
        if self._log is None:
            return
        line: dict[str, Any] = {"kind": kind, "prompt": prompt.text, "messages": prompt.messages}
        line["sampling" if kind == "generate" else "labels"] = how
        os.write(self._log, msgspec.json.encode(line) + b"\n")

    def _wait(self, share: float = 1.0) -> None:
        if self._script.delay:
            time.sleep(self._script.delay * share)


def _read(data: bytes, path: Path) -> Script:
    try:
        if path.suffix == ".json":
            raw = msgspec.json.decode(data)
        else:
            import yaml  # JSON scripts do without

            raw = yaml.safe_load(data) or {}
        return msgspec.convert(raw, Script)
    except (ValueError, RecursionError, msgspec.MsgspecError) as error:
        raise BadConfig(f"{path}: {error}") from error
    except Exception as error:  # yaml's own errors, without importing yaml to name them
        if type(error).__module__.startswith("yaml"):
            raise BadConfig(f"{path}: {' '.join(str(error).split())}") from error
        raise


def _count(text: str) -> int:
    return len(text.split())


def _tokens(text: str) -> list[str]:
    """
    The words, each with the white space before it; joined they are the text.

    >>> _tokens("Good  day ")
    ['Good', '  day ']
    """
    return _TOKEN.findall(text) or ([text] if text else [])


def _cut(reply: Reply, stops: tuple[str, ...], limit: int) -> tuple[str, FinishReason, int]:
    """The reply up to a stop text or the limit in tokens, why it ends there, and its tokens."""
    text, reason = reply.text, reply.finish_reason
    at = min((place for stop in stops if (place := text.find(stop)) >= 0), default=None)
    if at is not None:
        text, reason = text[:at], "stop"
    written = _count(text)
    if written > limit:
        return "".join(_tokens(text)[:limit]), "length", limit
    return text, reason, written


def _weights(reply: str | Reply | dict[str, Any], labels: tuple[str, ...]) -> list[float] | None:
    """A weight for each label; None where the reply names none of them."""
    if isinstance(reply, dict):
        weights = [float(reply.get(label, 0.0)) for label in labels]
        return weights if sum(weights) > 0 else None
    word = reply if isinstance(reply, str) else reply.text
    return [float(label == word) for label in labels] if word in labels else None


def _failure(text: str) -> LlmError:
    """`UnusableAnswer: no idea`, as the error it names."""
    name, _, message = text.partition(":")
    kind = BY_NAME.get(name.strip(), LlmError)
    return kind(message.strip() or text)
