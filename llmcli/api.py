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

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from llmcli import config, engines
from llmcli.engines.base import Engine, EngineInfo, EngineOptions
from llmcli.errors import LlmError, UsageError
from llmcli.messages import Sampling
from llmcli.registry import find_template

if TYPE_CHECKING:
    from llmcli.tasks import Result
    from llmcli.templates import Template

_FROM_CONFIG = ("context", "parallel", "threads", "gpu_layers", "kv_type", "flash_attention")


class Llm:
    """
    A loaded model. Its process ends with `close`, or with the `with` block.

    `model` is what `-m` takes: a name of models.yaml, a path, `hf:owner/repo:quant`, `server:URL#name`; None
    is the configured one, else `starter`. `options` are the fields of `EngineOptions`: context, parallel,
    threads, gpu_layers, kv_type, flash_attention, lora (paths, or pairs of path and scale), sequential.

    Raises UsageError, ModelError, MissingInput, BackendUnreachable: all LlmError.
    """

    def __init__(self, model: str | os.PathLike[str] | None = None, **options: Any) -> None:
        settings = config.load()
        reference = os.fspath(model) if model else settings.model
        self._overrides: Mapping[str, Mapping[str, Any]] = {}
        file = None
        chosen = _engine_options({name: getattr(settings, name) for name in _FROM_CONFIG} | options)
        if engines.engine_of(reference) is None:
            from llmcli.models.resolve import resolve

            file = resolve(reference)
            if file.entry is not None:
                self._overrides = file.entry.templates
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

        _check_choice("errors", errors, ("raise", "return"))
        _check_choice("truncate", truncate, (None, "head", "tail", "middle"))
        _check_known("sampling field", sampling or {}, Sampling.__struct_fields__)
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
        labels: Sequence[str] | str,
        *,
        errors: Literal["raise", "return"] = "raise",
        **parameters: Any,
    ) -> Iterator[Result]:
        """
        The likeliest of these labels for each text, with its probability: `.text`, `.p`, `.probabilities`.

        As `run("label", …)`; labels in one text are separated by commas, as on the command line.
        """
        several = labels if isinstance(labels, str) else list(labels)
        return self.run("label", texts, errors=errors, labels=several, **parameters)

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


def _engine_options(given: Mapping[str, Any]) -> EngineOptions:
    """Checked; a LoRA adapter may be a path alone. Raises UsageError."""
    _check_known("option", given, EngineOptions.__struct_fields__)
    adapters = [(one, 1.0) if isinstance(one, str | os.PathLike) else one for one in given.get("lora", ())]
    lora = tuple((os.fspath(path), scale) for path, scale in adapters)
    try:
        options = msgspec.convert({**given, "lora": lora}, EngineOptions)
    except msgspec.ValidationError as error:
        what, _, where = str(error).replace("`", "").partition(" - at $.")
        raise UsageError(f"option {where}: {what[:1].lower()}{what[1:]}") from error
    for name in ("context", "parallel", "threads"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise UsageError(f"option {name}: {value} is below 1")
    return options


def _check_known(what: str, given: Iterable[str], known: Iterable[str]) -> None:
    unknown = set(given) - set(known)
    if unknown:
        raise UsageError(f"no such {what}: {min(unknown)}", hint=f"known: {', '.join(known)}")


def _check_choice(name: str, value: object, choices: tuple[object, ...]) -> None:
    if value not in choices:
        raise UsageError(f"{name} is {value!r}", hint=f"one of {', '.join(map(repr, choices))}")


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
