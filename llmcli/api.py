"""
The Python door: the same commands from a script, a notebook or a pandas column.

    from llmcli import Llm

    with Llm("starter") as llm:
        for answer in llm.label(["I love it.", "It broke."], labels=["good", "bad"]):
            print(answer.text, answer.p)

        reviews["german"] = [answer.text for answer in llm.run("translate", reviews["text"], to="de")]

Texts in, answers out, in the order of the texts and as they come: `texts` may be any iterable, also one
without an end. It is the path that `llm` itself takes: the template, the engine, equal texts asked once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

from llmcli import config, engines
from llmcli.engines.base import Engine, EngineInfo, EngineOptions
from llmcli.errors import LlmError, UsageError
from llmcli.registry import find_template

if TYPE_CHECKING:
    from llmcli.tasks import Result
    from llmcli.templates import Template

_FROM_CONFIG = ("context", "parallel", "threads", "gpu_layers", "kv_type")


class Llm:
    """
    A loaded model. Its process ends with `close`, or with the `with` block.

    `model` is what `-m` takes: a name of models.yaml, a path, `hf:owner/repo:quant`, `server:URL#name`; None
    is the configured one, else `starter`. `options` are the fields of `EngineOptions`: context, parallel,
    threads, gpu_layers, kv_type, lora, sequential.

    Raises UsageError, ModelError, MissingInput, BackendUnreachable: all LlmError.
    """

    def __init__(self, model: str | None = None, **options: Any) -> None:
        settings = config.load()
        reference = model or settings.model
        self._overrides: Mapping[str, Mapping[str, Any]] = {}
        file = None
        given = {name: getattr(settings, name) for name in _FROM_CONFIG} | options
        if engines.engine_of(reference) is None:
            from llmcli.models.resolve import resolve

            file = resolve(reference)
            if file.entry is not None:
                self._overrides = file.entry.templates
        try:
            chosen = EngineOptions(**given)
        except TypeError:
            unknown = min(set(given) - set(EngineOptions.__struct_fields__))
            known = ", ".join(EngineOptions.__struct_fields__)
            raise UsageError(f"no such option: {unknown}", hint=f"known: {known}") from None
        self._engine: Engine = engines.open_engine(reference, chosen, file)

    @property
    def info(self) -> EngineInfo:
        """Name, hash, quantisation, context window and build of the model."""
        return self._engine.info

    def run(
        self,
        template: str,
        texts: Iterable[str | None] | str,
        *,
        errors: Literal["raise", "return"] = "raise",
        truncate: Literal["head", "tail", "middle"] | None = None,
        sampling: Mapping[str, Any] | None = None,
        **parameters: Any,
    ) -> Iterator[Result]:
        """
        Run a template over texts: `llm.run("translate", texts, to="de")`.

        Gives a Result for each text, in their order; `.text` is the answer, for labels `.p` its probability.
        A single str is one text. None and NaN (a pandas column has them) are empty, and give an empty result
        without the model. `parameters` are the template's, `sampling` fields of `Sampling` (temperature,
        max_tokens, seed …). A text that fails raises its LlmError; with `errors="return"` the error stands in
        its place and the others go on.

        Raises UsageError (no such template or parameter) and BadConfig before the first text is drawn.
        """
        from llmcli.templates import check_values, label_set, sampling_for

        chosen = self._template(template)
        values = check_values(chosen, parameters)
        if chosen.mode == "label":
            label_set(chosen, values)
        drawn = sampling_for(chosen, values, dict(sampling or {}))
        several = [texts] if isinstance(texts, str) else texts

        def answer(asked: Iterable[str]) -> Any:
            from llmcli.tasks import run_tasks

            return run_tasks(chosen, asked, self._engine, values, drawn, truncate=truncate)

        return _answers(several, answer, errors)

    def label(
        self,
        texts: Iterable[str | None] | str,
        labels: Sequence[str],
        *,
        errors: Literal["raise", "return"] = "raise",
        **parameters: Any,
    ) -> Iterator[Result]:
        """
        The likeliest of these labels for each text, with its probability: `.text`, `.p`, `.probabilities`.

        As `run("label", …)`.
        """
        return self.run("label", texts, errors=errors, labels=list(labels), **parameters)

    def close(self) -> None:
        """End the model's process."""
        self._engine.close()

    def __enter__(self) -> Llm:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _template(self, name: str) -> Template:
        from llmcli.templates import load_template, with_overrides

        found = load_template(find_template(name, Path()))
        overrides = self._overrides.get(name)
        return with_overrides(found, overrides) if overrides and found.source == "built in" else found


def _answers(texts: Iterable[str | None], answer: Any, errors: str) -> Iterator[Result]:
    from llmcli.rows.window import in_order

    for ready in in_order(texts, _as_text, answer):
        for _, outcome in ready:
            if isinstance(outcome, LlmError) and errors == "raise":
                raise outcome
            yield outcome  # type: ignore[misc]  # an error, where the caller asked for that


def _as_text(value: Any) -> str:
    """A text; None and NaN, by which tables mark what is missing, are empty."""
    if isinstance(value, str):
        return value
    if value is None or value != value:
        return ""
    raise UsageError(f"a text is needed, not {type(value).__name__}", hint="str(value) makes one")
