"""
Counting tokens with a server's own tokenizer, where it has one; otherwise an estimate.

    llama-server, vLLM   POST /tokenize               exact; llama-server also renders the chat template
    llama-cpp-python     POST /extras/tokenize/count  exact for texts, about for prompts
    every other server   an estimate                  a third of a token per ASCII character, more for others:
                                                      above what common tokenizers need

More than `EXACT` texts at once are estimated everywhere: one request each would take longer than it is worth.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

from llmcli.engines.server.client import Client
from llmcli.engines.server.reference import Reference
from llmcli.errors import LlmError
from llmcli.messages import Prompt

EXACT = 64  # texts that are counted one by one
_TRIES = 2
_PER_MESSAGE = 8  # tokens that chat templates put around a message, about; ChatML has 5
_PER_PROMPT = 24  # a default system message and the answer's header

_IDEOGRAPHS = re.compile("[\u2e80-\ud7ff\uf900-\ufaff\U0001f000-\U0003ffff]")


def estimate(text: str) -> int:
    """
    About how many tokens a text is, rather too many than too few.

    >>> estimate("Good morning to you all"), estimate("今日は"), estimate("")
    (8, 3, 0)
    """
    wide = len(_IDEOGRAPHS.findall(text))
    ascii_ = len(text.encode("ascii", "ignore"))
    return math.ceil(ascii_ / 3 + wide + (len(text) - ascii_ - wide) / 2)


class Counter:
    """Counts tokens at one server; finds out at the first text which tokenizer it has."""

    def __init__(self, client: Client, reference: Reference, model: str) -> None:
        self._client = client
        self._root = reference.root
        self._model = model
        self._ways: list[Callable[[str], int]] = [self._tokenize, self._extras_tokenize, estimate]
        self._renders = True

    def count(self, item: Prompt | str) -> int:
        """Tokens of a text as it stands, of a prompt through the chat template."""
        if isinstance(item, str) or item.raw is not None:
            return self._text(item if isinstance(item, str) else item.text)
        rendered = self._rendered(item)
        if rendered is not None:
            return self._text(rendered) + 1  # a begin-of-text token
        texts = [message.content for message in item.messages]
        return sum(self._text(text) + _PER_MESSAGE for text in texts) + _PER_PROMPT

    def estimated(self, item: Prompt | str) -> int:
        """The same without asking the server."""
        if isinstance(item, str):
            return estimate(item)
        return estimate(item.text) + _PER_MESSAGE * len(item.messages) + _PER_PROMPT

    def _text(self, text: str) -> int:
        while text:
            way = self._ways[0]
            try:
                return way(text)
            except (LlmError, KeyError, TypeError, ValueError):  # this server has no such door
                if way is self._ways[0] and way is not estimate:
                    self._ways.pop(0)
        return 0

    def _tokenize(self, text: str) -> int:
        body = {"content": text, "prompt": text, "add_special": False, "add_special_tokens": False}
        return _size(self._asked("/tokenize", {"model": self._model, **body}))

    def _extras_tokenize(self, text: str) -> int:
        return _size(self._asked("/extras/tokenize/count", {"input": text}))

    def _asked(self, door: str, body: dict[str, Any]) -> Any:
        """What a door says that not every server has: one that fails is not tried often."""
        return self._client.post(self._root + door, body, tries=_TRIES)

    def _rendered(self, prompt: Prompt) -> str | None:
        if not self._renders:
            return None
        messages = [{"role": message.role, "content": message.content} for message in prompt.messages]
        try:
            return str(self._asked("/apply-template", {"messages": messages})["prompt"])
        except (LlmError, KeyError, TypeError):
            self._renders = False
            return None


def _size(reply: Any) -> int:
    return int(reply["count"]) if "count" in reply else len(reply["tokens"])
