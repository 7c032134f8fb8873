"""
An answer's schema or grammar: made a checked grammar before the model sees it, and held against the answer.
"""

from __future__ import annotations

import json
from typing import Any

from msgspec.structs import replace

from llmcli.errors import LlmError, UsageError
from llmcli.messages import Completion, Sampling


def constrained(sampling: Sampling) -> Sampling:
    """
    The sampling with its schema or grammar checked, as a grammar; a bad grammar would kill the child.

    Raises UsageError for beams with one of them: a grammar follows one answer only.
    """
    searched = sampling.beams > 1 and sampling.temperature == 0
    if searched and (sampling.schema is not None or sampling.grammar is not None):
        raise UsageError("--beams cannot search for an answer in a given form", "leave out --beams")
    if sampling.schema is not None:
        from llmcli.engines.llama.schema import to_gbnf

        return replace(sampling, schema=None, grammar=to_gbnf(json.loads(sampling.schema)))
    if sampling.grammar is not None:
        from llmcli.engines.llama.grammar import check_gbnf

        check_gbnf(sampling.grammar)
    return sampling


def checked(answer: Any, sampling: Sampling) -> Any:
    """An answer that must be JSON, parsed again."""
    if sampling.schema is None or not isinstance(answer, Completion):
        return answer
    from llmcli.engines.llama.schema import check_answer

    try:
        check_answer(json.loads(sampling.schema), answer.text)
    except LlmError as error:
        return error
    return answer
