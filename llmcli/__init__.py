"""
Run a quantized GGUF model on your own machine: chat, text commands, batches.

The command is `llm`; see `llmcli.cli`. The same work from Python is `llmcli.Llm`.
"""

__version__ = "0.1.0"
