"""An answer as bytes, for the journal and for the way between processes: a Result, or an error."""

from __future__ import annotations

import msgspec

from llmcli.errors import BY_NAME, BackendUnreachable, LlmError
from llmcli.tasks import Result

OK, FAILED, PASSING = 0, 1, 2  # an answer; an error; an error that is not the row's fault

_result = msgspec.msgpack.Decoder(Result)


def encode(answer: Result | LlmError) -> tuple[int, bytes]:
    """Its kind (OK, FAILED, PASSING) and its bytes."""
    if isinstance(answer, LlmError):
        kind = PASSING if isinstance(answer, BackendUnreachable) else FAILED
        name = next(one.__name__ for one in type(answer).__mro__ if one.__name__ in BY_NAME)
        return kind, msgspec.msgpack.encode((name, answer.message, answer.hint))
    return OK, msgspec.msgpack.encode(answer)


def decode(kind: int, blob: bytes) -> Result | LlmError:
    """
    What was encoded.

    >>> decode(*encode(Result("fine"))).text, decode(*encode(BackendUnreachable("no answer"))).exit_code
    ('fine', 69)
    """
    if kind == OK:
        return _result.decode(blob)
    name, message, hint = msgspec.msgpack.decode(blob)
    return BY_NAME.get(name, LlmError)(message, hint)
