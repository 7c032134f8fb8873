"""
Models behind an OpenAI-compatible server: `-m server:http://127.0.0.1:8080/v1#name`.

llama-server, vLLM, Ollama, llama-cpp-python's server, and services elsewhere. What goes over the wire and
how it is read stands in `protocol`, the connection with its retries and errors in `client`, the
counting of tokens in `counting`, and the engine that joins them in `engine`.
"""

from __future__ import annotations

import os

from llmcli.engines.base import EngineOptions
from llmcli.engines.server.engine import ServerEngine
from llmcli.engines.server.reference import parse

KEY = "LLMCLI_API_KEY"

__all__ = ["KEY", "ServerEngine", "open_engine"]


def open_engine(reference: str, options: EngineOptions) -> ServerEngine:
    """
    Connect to the server at `URL#model`; without a model's name, the first that the server lists.

    Raises UsageError (not such a URL), BackendUnreachable, PermissionRefused, UnusableAnswer.
    """
    return ServerEngine(parse(reference), options, key=os.environ.get(KEY, "").strip())
