"""
Run a template over rows: read, ask what is not known yet, write.

With an output file the answers go through the journal (crash-safe, resumable) and the output is
written from it in a second pass. Without one they are written in input order as they come.
"""

from __future__ import annotations

from llmcli.engines.base import Engine
from llmcli.rows.job import Job, Outside, RowOptions


def run_rows(job: Job, options: RowOptions, engine: Engine | None, outside: Outside) -> None:
    """
    Run a job over a file of rows, or over standard input.

    `engine` is open already (its child process starts before input is read), and stays open;
    None with `options.on == "ray"`, where each actor opens its own from `job.model` and `job.engine`.
    Results go to `options.output`, or to `outside.stdout`; everything else to standard error.
    Other exceptions (KeyboardInterrupt, the command line's Terminated, BrokenPipeError) pass through
    after the journal is closed and the user is told how to resume.

    Raises RowsFailed (3) at the end when rows failed; UsageError (2) for columns that lack or clash, or a
    journal of another job; MissingInput (66), UnreadableInput (65), CannotCreate (73); InputOutputError (74)
    for a full disk; Stopped (75) when the job is locked, has too many errors, or its input changed.
    """
    raise NotImplementedError
