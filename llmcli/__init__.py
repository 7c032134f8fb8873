"""
Run a quantized GGUF model on your own machine: chat, text commands, batches.

The command is `llm`; see `llmcli.cli`. The same work from Python is `llmcli.Llm`.
"""

from typing import Any

__version__ = "0.1.0"
__all__ = ["Llm", "__version__"]


def __getattr__(name: str) -> Any:
    """`Llm` is imported when it is asked for: `llm --help` must not wait for it."""
    if name == "Llm":
        from llmcli.api import Llm

        return Llm
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
