"""Run rows in this process: a template, a scripted engine, and streams that are looked at afterwards."""

from __future__ import annotations

import io
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from llmcli.cli.environment import Environment
from llmcli.engines.base import EngineOptions
from llmcli.engines.scripted import open_engine
from llmcli.errors import LlmError
from llmcli.messages import Sampling
from llmcli.rows.runner import Job, RowOptions, run_rows
from llmcli.templates import Template

SENTIMENT = Template(
    name="sentiment",
    help="",
    prompt="Sentiment?\n\n{{ text }}",
    labels=("positive", "neutral", "negative"),
    mode="label",
)
TITLE = Template(name="title", help="", prompt="Title:\n\n{{ text }}")


@dataclass
class Done:
    """What a run left: its error or None, and its streams."""

    error: LlmError | None
    stdout: str
    stderr: str

    @property
    def code(self) -> int:
        return self.error.exit_code if self.error else 0


@dataclass
class Batches:
    """Runs jobs in a folder, with one script."""

    folder: Path
    reference: str
    template: Template = SENTIMENT
    options: RowOptions = field(default_factory=RowOptions)

    def run(self, source: str | None, output: str | None = None, stdin: bytes = b"", **options: Any) -> Done:
        """Run a file of this folder (None: `stdin`) into another (None: standard output)."""
        verbose = options.pop("verbose", False)
        template = options.pop("template", self.template)
        values = options.pop("values", {})
        sampling = options.pop("sampling", Sampling())
        truncate, started = options.pop("truncate", None), options.pop("started", None)
        paths = {
            "source": self.folder / source if source else None,
            "output": self.folder / output if output else None,
        }
        out, err = io.BytesIO(), io.BytesIO()
        outside = Environment(stdin=io.BytesIO(stdin), stdout=out, stderr=err, verbose=verbose)
        on_ray = options.get("on") == "ray"
        engine = options.pop("engine", None)  # the caller's, which stays open; else that of the script
        opened = None
        if engine is None and not on_ray:
            engine = opened = open_engine(self.reference.partition(":")[2], EngineOptions())
        job = Job(
            template,
            values,
            sampling,
            model=self.reference,
            truncate=truncate,
            engine=EngineOptions(started=started),
        )
        error = None
        try:
            run_rows(job, replace(self.options, **paths, **options), engine, outside)
        except LlmError as raised:
            error = raised
        finally:
            if opened is not None:
                opened.close()
        texts = [stream.getvalue().decode("utf-8", "surrogateescape") for stream in (out, err)]
        return Done(error, *texts)

    def write(self, name: str, content: str | bytes) -> Path:
        """A file in the folder."""
        path = self.folder / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    def read(self, name: str) -> str:
        """A file of the folder, line ends as they are."""
        return (self.folder / name).read_bytes().decode("utf-8", "surrogateescape")

    def names(self) -> list[str]:
        """The files in the folder."""
        return sorted(path.name for path in self.folder.iterdir())
