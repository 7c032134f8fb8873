"""
The local engine: a GGUF through llama.cpp, in a child process.

Reading order: `engine` (the parent's side; `loading` and `constraints` go with it), `calls` (many
prompts under way), `process` (the child, from outside), `wire` (what they say), `child` (from inside),
`preparing` (what is asked, as `requests`), `chat_template` and `tokens` (prompt to ids), `scheduler` (ids
to logits), `cache` and `room` (who gets a sequence), `prefixes` (what it begins with) and `prefix_files`
(what of that is on disk), `writer` and `thinking` (logits to text), `beams`, `scoring` (logits to labels),
`library`, `context` and `samplers` (llama.cpp itself).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llmcli.engines.base import Engine, EngineOptions
    from llmcli.models.resolve import ModelFile


def open_engine(model: ModelFile, options: EngineOptions) -> Engine:
    """Start a child process for a model; raises ModelError for a file that is not fit to load."""
    from llmcli.engines.llama.engine import LlamaEngine

    return LlamaEngine(model, options)
