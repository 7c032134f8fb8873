"""
The one path from a text to its answer, for one text and for a million: text in, template, engine, text out.

`run_tasks` and `stream_task` are the doors; `prompts_of` says what they would ask. Behind them each way to
answer has a file: `generate` writes, `label` scores a closed set, `extract` picks sentences, `paragraphs`
asks paragraph by paragraph and keeps the layout; `long` is for texts that exceed the context; `flow` feeds
the engine and gathers its answers.
"""

from llmcli.tasks.nouns import Extracted, Result
from llmcli.tasks.run import prompts_of, run_tasks, stream_task

__all__ = ["Extracted", "Result", "prompts_of", "run_tasks", "stream_task"]
