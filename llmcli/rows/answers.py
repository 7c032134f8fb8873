"""An answer as bytes, for the journal and for the way between processes: a Result, or an error."""

from __future__ import annotations

import msgspec

from llmcli.errors import BY_NAME, BackendUnreachable, LlmError, ModelError, PermissionRefused
from llmcli.tasks import Result

OK, FAILED, PASSING, UNUSABLE = 0, 1, 2, 3
"""An answer; an error; an error that is not the row's fault; an answer that cannot be used."""

_NOT_THE_ROWS = (BackendUnreachable, ModelError, PermissionRefused)

_result = msgspec.msgpack.Decoder(Result)


def is_passing(answer: Result | LlmError) -> bool:
    """Whether it is an error that is not the row's: a server that is down, or refuses access."""
    return isinstance(answer, _NOT_THE_ROWS)


def encode(answer: Result | LlmError) -> tuple[int, bytes]:
    """Its kind and its bytes."""
    if isinstance(answer, LlmError):
        kind = PASSING if is_passing(answer) else FAILED
        name = next(one.__name__ for one in type(answer).__mro__ if one.__name__ in BY_NAME)
        return kind, msgspec.msgpack.encode((name, answer.message, answer.hint))
    return UNUSABLE if answer.unusable else OK, msgspec.msgpack.encode(answer)


def decode(kind: int, blob: bytes) -> Result | LlmError:
    """
    What was encoded.

    >>> decode(*encode(Result("fine"))).text, decode(*encode(BackendUnreachable("no answer"))).exit_code
    ('fine', 69)
    """
    if kind in (OK, UNUSABLE):
        return _result.decode(blob)
    name, message, hint = msgspec.msgpack.decode(blob)
    return BY_NAME.get(name, LlmError)(message, hint)
