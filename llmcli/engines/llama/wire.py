"""
What the parent and the child of the local engine say to each other.

Frames of `multiprocessing.connection`, each one msgpack message of the types below
(msgspec; never pickle). Requests carry an id of the parent's choosing; every answer repeats it.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import msgspec
from msgspec import Struct

from llmcli.errors import BY_NAME, InputTooLong, LlmError
from llmcli.messages import Completion, LabelScores, Prompt, Sampling

# parent → child


class Load(Struct, frozen=True, tag=True):
    """
    Load a model; the first message, answered by Loaded or by Failed with id 0.

    `prefix_key` is the hashes of model and adapters: without it no prefix is kept on disk; `prefix_bytes` is
    what all of them may take there. `widen_with` are the processor's instructions for which a
    copy as q8_0 is worth its time and memory; `as_f16` says that one as float16 is, on a processor that reads
    it faster. `single`: one text is all there is. `lanes`: so many decodes side by side share the threads.
    """

    path: str
    space_prefix: bool | None
    model_bytes: int
    layers: int
    gpu_layers: int | str
    context: int | None
    parallel: int | None
    threads: int
    memory: int
    cell_bytes: int
    heads: int
    kv_type: str | None
    flash_attention: bool | None
    lora: tuple[tuple[str, float], ...]
    sequential: bool
    chat_template: str | None
    thinking: dict[str, Any] | None
    temperature_scale: float
    started: float
    prefix_key: str = ""
    prefix_bytes: int = 0
    widen_with: tuple[str, ...] = ()
    as_f16: bool = False
    lanes: int = 1
    single: bool = False


class Generate(Struct, frozen=True, tag=True):
    """Answer a prompt; `stream` asks for the pieces too, `many` says that more prompts follow."""

    id: int
    prompt: Prompt
    sampling: Sampling
    stream: bool = False
    many: bool = False


class Score(Struct, frozen=True, tag=True):
    """Score labels as answers to a prompt."""

    id: int
    prompt: Prompt
    labels: tuple[str, ...]
    many: bool = False


class Ahead(Struct, frozen=True, tag=True):
    """
    While nothing else is asked, read what the next prompt of a conversation begins with; not answered.

    Its last message is the beginning of what will be said, its answer will have at most `max_tokens`.
    """

    id: int
    prompt: Prompt
    max_tokens: int | None = None


class Count(Struct, frozen=True, tag=True):
    """Count the tokens of prompts (through the chat template) and of texts (as they stand)."""

    id: int
    items: tuple[Prompt | str, ...]


class Cancel(Struct, frozen=True, tag=True):
    """Forget these requests, running or waiting; they are not answered."""

    ids: tuple[int, ...]


class Measure(Struct, frozen=True, tag=True):
    """How has the time gone so far? For benchmarks."""

    id: int


# child → parent


class Loaded(Struct, frozen=True, tag=True):
    """The model is ready; `context` is the longest sequence in tokens."""

    context: int
    parallel: int
    build: str
    where: str
    template: bool


class Written(Struct, frozen=True, tag=True):
    """A piece of a streamed answer."""

    id: int
    text: str
    thinking: bool


class Answered(Struct, frozen=True, tag=True):
    """A whole answer."""

    id: int
    completion: Completion


class Scored(Struct, frozen=True, tag=True):
    """The scores of a Score request."""

    id: int
    scores: LabelScores


class Counted(Struct, frozen=True, tag=True):
    """The counts of a Count request, in its order."""

    id: int
    tokens: tuple[int, ...]


class Measured(Struct, frozen=True, tag=True):
    """Seconds in llama_decode, seconds with something to do, tokens decoded; since loading."""

    id: int
    decode_seconds: float
    busy_seconds: float
    tokens: int


class Progress(Struct, frozen=True, tag=True):
    """What the child is busy with, for the line that a waiting user sees."""

    text: str


class Failed(Struct, frozen=True, tag=True):
    """A request failed, or (id 0) loading did; `error` is a class name of llmcli.errors."""

    id: int
    error: str
    message: str
    hint: str = ""
    tokens: int = 0
    context: int = 0


ToChild: TypeAlias = "Load | Generate | Score | Ahead | Count | Cancel | Measure"
ToParent: TypeAlias = "Loaded | Written | Answered | Scored | Counted | Measured | Progress | Failed"

encode = msgspec.msgpack.Encoder().encode
decode_to_child = msgspec.msgpack.Decoder(Load | Generate | Score | Ahead | Count | Cancel | Measure).decode
decode_to_parent = msgspec.msgpack.Decoder(
    Loaded | Written | Answered | Scored | Counted | Measured | Progress | Failed
).decode


def failed(request: int, error: LlmError) -> Failed:
    """An LlmError as a message."""
    tokens, context = (error.tokens, error.context) if isinstance(error, InputTooLong) else (0, 0)
    return Failed(request, type(error).__name__, error.message, error.hint, tokens, context)


def as_error(message: Failed) -> LlmError:
    """The LlmError that the other side meant."""
    kind = BY_NAME.get(message.error, LlmError)
    if kind is InputTooLong:
        return InputTooLong(message.message, message.hint, message.tokens, message.context)
    return kind(message.message, message.hint)
