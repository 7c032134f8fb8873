"""
Prompts as the JSON that a server takes, and its JSON as pieces and answers. Sends nothing.

What is not OpenAI's own (top_k, the switch of a thinking model) goes into `extras`, which a server may
refuse; the engine then asks again without them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from typing import Any
from zlib import crc32

from llmcli.engines.server.failures import error_in_stream
from llmcli.errors import UnusableAnswer, UsageError
from llmcli.messages import Completion, FinishReason, LabelScores, Piece, Prompt, Sampling, Usage

Json = dict[str, Any]

TOP = 20  # likeliest tokens that are asked for; OpenAI's and vLLM's limit
_AMBIGUOUS = 0.01  # share of the first token's probability that may fit several labels
_LEAST = 0.01  # of the first token's probability that must be some label's
_REASONING = ("reasoning_content", "reasoning")  # llama-server, vLLM and DeepSeek; OpenRouter


# ----------------------------------------------------------------- asking


def path_of(prompt: Prompt) -> str:
    """Where a prompt goes: a raw one is completed, any other is a chat."""
    return "/chat/completions" if prompt.raw is None else "/completions"


def body_of(prompt: Prompt, model: str, sampling: Sampling) -> Json:
    """The request for an answer, without extras."""
    if sampling.beams > 1 and sampling.temperature == 0:
        raise UsageError("a server does not search with beams", hint="leave out --beams")
    body: Json = {"model": model, "temperature": sampling.temperature}
    if prompt.raw is None:
        body["messages"] = [{"role": one.role, "content": one.content} for one in prompt.messages]
    else:
        body["prompt"] = prompt.raw
    if sampling.temperature > 0:
        body |= {"top_p": sampling.top_p, "seed": _seed(prompt, sampling)}
    if sampling.max_tokens is not None:
        body["max_tokens"] = sampling.max_tokens
    if sampling.stop:
        body["stop"] = list(sampling.stop)
    return body


def extras_of(prompt: Prompt, sampling: Sampling) -> Json:
    """What llama-server and vLLM understand beside OpenAI's own."""
    extras: Json = {}
    if sampling.temperature > 0:
        extras |= {"top_k": sampling.top_k, "min_p": sampling.min_p}
    if prompt.raw is None:
        extras["chat_template_kwargs"] = {"enable_thinking": prompt.thinking}
    if prompt.continue_last:
        extras |= {"continue_final_message": True, "add_generation_prompt": False}
    return extras


def formats(schema: Json) -> list[Json]:
    """The ways to ask for JSON of a schema: OpenAI's, then that of llama-cpp-python and old llama-servers."""
    return [
        {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}},
        {"type": "json_object", "schema": schema},
    ]


def choice_schema(labels: Sequence[str]) -> Json:
    """JSON Schema of an object that holds one of the labels."""
    label = {"type": "string", "enum": list(labels)}
    return {
        "type": "object",
        "properties": {"label": label},
        "required": ["label"],
        "additionalProperties": False,
    }


def _seed(prompt: Prompt, sampling: Sampling) -> int:
    """The same for the same text, seed and sample number, so that a resumed job asks for the same."""
    return crc32(f"{sampling.seed}\n{sampling.sample}\n{prompt.text}".encode(errors="replace")) >> 1


# ---------------------------------------------------------------- reading


class Writing:
    """
    An answer as it comes: from events of a stream, or from one whole reply.

    Thinking is told from the answer, by the server's own field or by <think> marks at the
    beginning; both ways of asking give the same text, because both come through here.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._text: list[str] = []
        self._thoughts: list[str] = []
        self._held = ""  # text that may turn out to be a mark
        self._place = "start"  # start, thinking, gap (after it), answer
        self._pieces = 0
        self._usage: Json = {}
        self._finish: str | None = None

    def whole(self, reply: Any) -> Completion:
        """The answer that a reply without streaming is."""
        for _ in self.pieces(reply):
            pass
        return self.finish()

    def pieces(self, event: Any) -> Iterator[Piece]:
        """What an event adds to the answer. Raises LlmError for an event that is an error or nonsense."""
        if not isinstance(event, dict):
            raise UnusableAnswer(f"{self._url} answered with JSON that is no object")
        error = error_in_stream(event, self._url)
        if error is not None:
            raise error
        if isinstance(event.get("usage"), dict):
            self._usage = event["usage"]
        choices = event.get("choices")
        if not isinstance(choices, list):
            raise UnusableAnswer(
                f"{self._url} answered without choices", hint="is it an OpenAI-compatible server?"
            )
        if choices:
            yield from self._choice(choices[0])

    def finish(self) -> Completion:
        """The whole answer, when nothing more comes."""
        if self._finish is None:
            raise UnusableAnswer(f"{self._url} ended its answer without a reason: it may be cut")
        if self._finish == "content_filter":
            raise UnusableAnswer(f"{self._url} withheld the answer: its content filter")
        text = "".join(self._text)
        reason: FinishReason = "length" if self._finish == "length" else "stop"
        if not text.strip() and reason == "stop":
            reason = "degenerate"
        return Completion(text, reason, self._counts(), "".join(self._thoughts))

    def _choice(self, choice: Any) -> Iterator[Piece]:
        if not isinstance(choice, dict):
            raise UnusableAnswer(f"{self._url} answered with a choice that is no object")
        said = choice.get("delta") or choice.get("message") or choice
        if not isinstance(said, dict):
            raise UnusableAnswer(f"{self._url} answered with a message that is no object")
        if choice.get("finish_reason"):
            self._finish = str(choice["finish_reason"])
        thought = next((said[name] for name in _REASONING if isinstance(said.get(name), str)), "")
        text = said.get("content") if "content" in said else said.get("text")
        self._pieces += bool(thought or text)
        made = [Piece(thought, thinking=True)] if thought else []
        if isinstance(text, str) and text:
            made += self._told_apart(text)
        if self._finish is not None and self._held:
            made.append(Piece(self._held, thinking=self._place == "thinking"))
            self._held = ""
        for piece in made:
            (self._thoughts if piece.thinking else self._text).append(piece.text)
            yield piece

    def _told_apart(self, text: str) -> Iterator[Piece]:
        """Text as pieces, with what stands between <think> marks at the very beginning as thinking."""
        text, self._held = self._held + text, ""
        if self._place == "start":
            begun = text.lstrip()
            if "<think>".startswith(begun[:7]) and len(begun) < 7:
                self._held = text
                return
            self._place = "thinking" if begun.startswith("<think>") else "answer"
            text = begun[7:] if self._place == "thinking" else text
        if self._place == "thinking":
            thought, mark, text = text.partition("</think>")
            if not mark:
                keep = _overlap(thought, "</think>")
                thought, self._held = thought[: len(thought) - keep], thought[len(thought) - keep :]
            else:
                self._place = "gap"
            if thought:
                yield Piece(thought, thinking=True)
        if self._place == "gap":
            text = text.lstrip()
            self._place = "answer" if text else "gap"
        if text and self._place == "answer":
            yield Piece(text)

    def _counts(self) -> Usage:
        """The server's counts; without them the pieces, which most servers send token by token."""
        details = self._usage.get("prompt_tokens_details")
        return Usage(
            prompt=_count(self._usage.get("prompt_tokens")),
            answer=_count(self._usage.get("completion_tokens")) or self._pieces,
            cached=_count(details.get("cached_tokens")) if isinstance(details, dict) else 0,
        )


def _overlap(text: str, mark: str) -> int:
    """
    How many characters at the end of `text` begin `mark`.

    >>> _overlap("so be it</th", "</think>"), _overlap("done", "</think>")
    (4, 0)
    """
    return next((size for size in range(len(mark) - 1, 0, -1) if text.endswith(mark[:size])), 0)


def _count(value: Any) -> int:
    """A server's count; 0 for what cannot be one."""
    sane = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**53
    return int(value) if sane else 0


# ---------------------------------------------------------------- labels


def first_token_scores(reply: Any, labels: tuple[str, ...], scale: float) -> LabelScores | None:
    """
    The labels' probabilities from the likeliest first tokens of an answer, `scale` being the temperature.

    None where those do not tell the labels apart: the server gave none, hardly any of them begins a label
    (a model that thinks first, or greets), or two labels begin with the same one. A label that is not among
    them has the probability 0.
    """
    weights = dict.fromkeys(labels, 0.0)
    unclear = 0.0
    for token, p in _likeliest(reply):
        begun = token.strip().casefold()
        fitting = [label for label in labels if begun and label.casefold().startswith(begun)]
        if len(fitting) == 1:
            weights[fitting[0]] += p
        elif fitting:
            unclear += p
    total = sum(weights.values())
    if total < _LEAST or unclear > _AMBIGUOUS * total:
        return None
    scaled = [(weight / total) ** (1 / scale) for weight in weights.values()]
    shares = tuple(share / sum(scaled) for share in scaled)
    counts = reply.get("usage")
    usage = Usage(_count(counts.get("prompt_tokens")) if isinstance(counts, dict) else 0, answer=1)
    return LabelScores(labels, shares, shares.index(max(shares)), "first-token", usage)


def _likeliest(reply: Any) -> Iterator[tuple[str, float]]:
    """(token, probability) of the first token's candidates; nothing where the server gave none."""
    try:
        candidates = reply["choices"][0]["logprobs"]["content"][0]["top_logprobs"]
        for one in candidates:
            yield str(one["token"]), math.exp(min(0.0, float(one["logprob"])))
    except (KeyError, IndexError, TypeError, ValueError):
        return


def chosen_label(answer: Completion, labels: tuple[str, ...]) -> LabelScores:
    """The label that a server's answer names, as {"label": …} or in plain words. Raises UnusableAnswer."""
    named = answer.text
    try:
        value = json.loads(answer.text)
        named = str(value["label"]) if isinstance(value, dict) else str(value)
    except (ValueError, KeyError, RecursionError):
        pass
    wanted = named.strip(" \t\r\n\"'`*.!").casefold()
    for position, label in enumerate(labels):
        if label.strip().casefold() == wanted:
            return LabelScores(labels, (None,) * len(labels), position, "choice", answer.usage)
    shown = " ".join(named.split())[:60]
    raise UnusableAnswer(f"the server answered {shown!r}, which is none of the labels {', '.join(labels)}")
